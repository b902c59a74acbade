"""Every image processor that an image classifier of transformers can come with: its own pixels, or a refusal by name."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_moments.assembly.load import load
from llm_moments.base.errors import DataError, EngineError, ModelError, PlanError
from llm_moments.engines.base import available
from llm_moments.models.image_processor import FILE
from llm_moments.models.preprocessing import preprocessing
from tests.image_fakes import encoded, make_image_model, photo

SQUARE, CROP = {"height": 32, "width": 32}, {"do_center_crop": True, "crop_size": {"height": 32, "width": 32}}
SIZES = ((61, 37), (37, 90), (32, 32), (20, 17), (150, 33))


def classes() -> list[str]:
    """The names that transformers knows for its image classifiers."""
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES as processors
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as models

    found = {
        processors[kind]["torchvision"]
        for kind in models
        if "pil" in (processors.get(kind) or {}) and "torchvision" in processors[kind]
    }
    return sorted(found - {"Gemma3ImageProcessor"})  # of ShieldGemma, which takes a text beside the image


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_image_model(tmp_path_factory.mktemp("base") / "m", "resnet")


def told(base: Path, folder: Path, **said: Any) -> Path:
    shutil.copytree(base, folder)
    (folder / FILE).write_text(json.dumps(said))
    return folder


def same_as_transformers(folder: Path, sizes: Any = SIZES) -> Any:
    from transformers import AutoImageProcessor

    own, pipe = AutoImageProcessor.from_pretrained(folder), load(folder)
    for size in sizes:
        image = photo(*size, seed=sum(size))
        expected = {k: v for k, v in own(image, return_tensors="np").items() if hasattr(v, "__len__")}
        found = pipe.arrays([image])[0]
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            assert found[name].shape == np.shape(array)
            assert np.abs(found[name] - array).max() < 0.02, (size, name)
    return preprocessing(pipe.model)


def known(kind: str, said: dict[str, Any]) -> dict[str, Any]:
    if kind == "ImageGPTImageProcessor":
        said["clusters"] = [[-1.0, -1.0, -1.0], [0.0, 0.2, 0.4], [1.0, 1.0, 1.0]]
    return said


@pytest.mark.parametrize("kind", classes())
def test_the_pixels_of_every_class(kind: str, base: Path, tmp_path: Path) -> None:
    """With what it does where the file says no more, with sizes that are small, and with sizes as old files have them."""
    variants: list[dict[str, Any]] = [
        {"size": 32},
        {"size": {"shortest_edge": 40}, **CROP},
        {"size": {"height": 40, "width": 48}, **CROP},
    ]
    if kind not in ("DonutImageProcessor", "TextNetImageProcessor", "Siglip2ImageProcessor"):
        variants.append({})
    for at, said in enumerate(variants):
        folder = told(base, tmp_path / str(at), image_processor_type=kind, **known(kind, said))
        try:
            same_as_transformers(folder, SIZES if said else SIZES[:2])
        except ModelError as error:  # a size that this class does not take
            assert kind in str(error)
            from transformers import AutoImageProcessor

            with pytest.raises((ValueError, AttributeError, TypeError)):
                AutoImageProcessor.from_pretrained(folder)(photo(), return_tensors="np")


@pytest.mark.parametrize(
    ("said", "own"),
    [
        ({"image_processor_type": "MobileViTImageProcessor", "size": {"shortest_edge": 36}, **CROP}, True),
        ({"image_processor_type": "DeiTImageProcessor", "size": {"height": 36, "width": 36}, **CROP}, True),
        ({"image_processor_type": "EfficientNetImageProcessor", "size": SQUARE, "rescale_offset": True, "resample": 0}, True),
        ({"image_processor_type": "LevitImageProcessor", "size": {"shortest_edge": 32}, **CROP}, True),
        ({"image_processor_type": "PoolFormerImageProcessor", "size": {"shortest_edge": 32}, "crop_pct": 0.9, **CROP}, True),
        ({"feature_extractor_type": "ConvNextFeatureExtractor", "size": 32, "crop_pct": 0.875}, True),
        ({"feature_extractor_type": "ViTFeatureExtractor", "size": 32}, True),
        ({"image_processor_type": "ViTImageProcessorFast", "size": [32, 32]}, True),
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 400}}, True),
        ({"image_processor_type": "CLIPImageProcessor", "size": 24, "crop_size": 32}, False),  # padded
        ({"image_processor_type": "PerceiverImageProcessor", "size": SQUARE, "crop_size": 36}, False),
        ({"image_processor_type": "ViTImageProcessor", "size": {"shortest_edge": 32}}, False),  # of any shape
        ({"image_processor_type": "ViTImageProcessor", "do_resize": False}, False),
    ],
)  # fmt: skip
def test_own_steps_where_they_do_the_same(said: dict[str, Any], own: bool, base: Path, tmp_path: Path) -> None:
    found = same_as_transformers(told(base, tmp_path / "m", **said))
    assert (found.processor is None) == own


def test_a_processor_inside_the_file_of_another(base: Path, tmp_path: Path) -> None:
    folder = told(base, tmp_path / "m", image_processor_type="ViTImageProcessor", size=SQUARE)
    inner = {"image_processor_type": "MobileViTImageProcessor", "size": {"shortest_edge": 36}, **CROP}
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": inner}))
    assert same_as_transformers(folder).order == (2, 1, 0)


def test_a_class_that_needs_another_package_is_refused_by_name(base: Path, tmp_path: Path) -> None:
    import importlib.util

    if importlib.util.find_spec("torchvision"):
        pytest.skip("it can be opened here")
    with pytest.raises(ModelError, match=r"PPLCNetImageProcessor|[Tt]orchvision"):
        load(told(base, tmp_path / "m", image_processor_type="PPLCNetImageProcessor"))
    with pytest.raises(ModelError, match="NoSuchImageProcessor"):
        load(told(base, tmp_path / "n", image_processor_type="NoSuchImageProcessor"))


def test_what_transformers_makes_of_images_of_any_shape_is_answered(base: Path, tmp_path: Path) -> None:
    folder = told(base, tmp_path / "m", image_processor_type="ViTImageProcessor", size={"shortest_edge": 32})
    pipe = load(folder)
    images = [photo(*size) for size in (*SIZES, *SIZES)]
    found = pipe.with_(**{"batch.reuse": True}).outputs(images)
    np.testing.assert_allclose(found, np.concatenate([pipe.outputs([image]) for image in images]), atol=1e-4)
    with pytest.raises(EngineError, match="shapes"):
        pipe.with_(**{"forward.engine": "openvino"}).outputs(images)
    with pytest.raises(PlanError, match="as ViTImageProcessor makes it"):
        pipe.with_(**{"resize.size": 16})
    with pytest.raises(DataError, match="1 x 40000 pixels"):
        pipe(np.zeros((40_000, 1, 3), np.uint8))


@pytest.mark.parametrize("engine", [e for e in available() if e in ("openvino", "onnxruntime")])
def test_a_graph_is_made_where_every_image_has_one_shape(engine: str, base: Path, tmp_path: Path) -> None:
    said = {"image_processor_type": "CLIPImageProcessor", "size": 24, "crop_size": {"height": 40, "width": 32}}
    pipe, images = load(told(base, tmp_path / "m", **said)), [photo(*size) for size in SIZES]
    assert preprocessing(pipe.model).processor is not None
    graph = pipe.with_(**{"forward.engine": engine, "batch.size": 2})
    np.testing.assert_allclose(graph.outputs(images), pipe.outputs(images), atol=1e-4)
    graph.steps[1].only = (32, 40)
    with pytest.raises(DataError, match="makes it 32 x 40 pixels, and a graph is made for 40 x 32"):
        graph.outputs(images)


def test_a_size_that_a_class_does_not_take_is_named(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"ConvNextImageProcessor cannot .* with the size {'height': 32, 'width': 32}"):
        load(told(base, tmp_path / "m", image_processor_type="ConvNextImageProcessor", size=SQUARE))


@pytest.mark.parametrize(
    "said",
    [
        {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}},
        {"image_processor_type": "CLIPImageProcessor"},
        {"image_processor_type": "DeiTImageProcessor"},
        {"image_processor_type": "ViTImageProcessor"},
    ],
)
def test_a_long_and_thin_image_takes_little_memory(said: dict[str, Any], base: Path, tmp_path: Path) -> None:
    """Its middle is what it was when all of it was made large."""
    pipe = load(told(base, tmp_path / "m", **said))
    y = np.linspace(0, 255, 60).astype(np.uint8)
    thin = np.repeat(np.repeat(y[:, None, None], 1, 1), 3, 2)  # 60 x 1: transformers can still make it whole
    from transformers import AutoImageProcessor

    expected = AutoImageProcessor.from_pretrained(pipe.model.path)(
        thin, return_tensors="np", input_data_format="channels_last"
    )
    assert np.abs(pipe.arrays([thin])[0]["pixel_values"] - expected["pixel_values"]).max() < 0.02
    long = [encoded(np.zeros((8000, 1, 3), np.uint8)), encoded(np.zeros((1, 8000, 3), np.uint8))] * 4
    tracemalloc.start()
    assert pipe.arrays(long)[0]["pixel_values"].shape[0] == 8
    assert tracemalloc.get_traced_memory()[1] < 60 << 20
    tracemalloc.stop()
    resize = pipe.steps[1]
    made: list[int] = []
    original = type(photo()).resize
    pillow_class = type(photo())
    try:
        pillow_class.resize = lambda self, size, *more: (made.append(size[0] * size[1]), original(self, size, *more))[1]
        pipe.arrays(long)
    finally:
        pillow_class.resize = original
    assert max(made) <= 1 << 22, resize


def test_what_is_saved_is_read_as_it_was(base: Path, tmp_path: Path) -> None:
    from llm_moments.models.preprocessing import affine, write

    for at, said in enumerate((
        {"image_processor_type": "MobileViTImageProcessor", "size": {"shortest_edge": 36}, **CROP},
        {"image_processor_type": "DeiTImageProcessor", "size": {"height": 36, "width": 36}, **CROP},
        {"image_processor_type": "EfficientNetImageProcessor", "size": SQUARE, "rescale_offset": True},
        {"image_processor_type": "PerceiverImageProcessor", "size": SQUARE},
    )):  # fmt: skip
        first = preprocessing(load(told(base, tmp_path / f"a{at}", **said)).model)
        second = told(base, tmp_path / f"b{at}")
        write(first, second)
        again = preprocessing(load(second).model)
        assert (again.fit, again.crop, again.size, again.order) == (first.fit, first.crop, first.size, first.order)
        assert (again.processor is None) == (first.processor is None)
        np.testing.assert_allclose(affine(again), affine(first), atol=1e-6)
