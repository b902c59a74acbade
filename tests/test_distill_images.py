"""Students of classifiers of images: fewer layers, fewer blocks of a stage, narrower ones, new ones; what cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llm_moments.assembly.load import load
from llm_moments.base.errors import EngineError, InputError, PlanError
from llm_moments.data.images import image_of
from llm_moments.engines.torch_eager import load_module
from llm_moments.models.blocks import skip
from llm_moments.models.open import open_model
from llm_moments.train.distill import distill
from llm_moments.train.students.stages import chosen_layers, fewer, least_layers, stages_of
from llm_moments.train.students.width import narrower
from tests.fakes import make_model, make_texts
from tests.image_fakes import encoded, make_arrays, make_image_model, make_pictures, with_processor

QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 8, "precision": "fp32"}
# Of each architecture: how few layers can be left, and some that a student may have.
KEPT = {
    "vit": (1, [0, 2]), "deit": (1, [2]), "beit": (1, [0, 1]), "resnet": (2, [0, 2]), "convnext": (2, [1, 2]),
    "swin": (4, [0, 1, 2, 3]), "efficientnet": (7, [0, 1, 3, 5, 8, 11, 15]),
}  # fmt: skip


def teacher_of(folder: Path, arch: str, **more: Any) -> Path:
    if arch != "efficientnet":
        return make_image_model(folder, arch, **more)
    from llm_moments.models.nets.efficientnet_lite import EfficientNetLiteConfig, EfficientNetLiteForImageClassification

    torch.manual_seed(0)
    told = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0, "interpolation": "bicubic"}
    config = EfficientNetLiteConfig(pretrained_cfg=told, num_classes=3)
    EfficientNetLiteForImageClassification(config).save_pretrained(folder)
    return folder


def logits(module: Any, size: int = 32) -> Any:
    pixels = torch.randn((2, 3, size, size), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return module.eval()(pixel_values=pixels).logits


@pytest.mark.parametrize("arch", sorted(KEPT))
def test_a_student_of_layers_is_the_teacher_with_the_others_skipped(arch: str, tmp_path: Path) -> None:
    model = open_model(teacher_of(tmp_path / arch, arch))
    least, keep = KEPT[arch]
    stages = stages_of(load_module(model))
    total = sum(len(s.layers) for s in stages)
    assert least_layers(stages) == least
    module, described = fewer(model, keep)
    gone = [i for i in range(total) if i not in keep]
    torch.testing.assert_close(logits(module), logits(skip(load_module(model), gone)), atol=1e-5, rtol=1e-4)
    module.save_pretrained(tmp_path / "student")
    student = open_model(with_processor(tmp_path / "student"))
    torch.testing.assert_close(logits(load_module(student)), logits(module))
    assert (
        sum(p.numel() for p in module.parameters()) < sum(p.numel() for p in load_module(model).parameters())
        or not gone
    )
    assert described.labels == model.labels


def test_swin_loses_its_layers_in_pairs(tmp_path: Path) -> None:
    """A shifted window follows one that is not: half a pair would be another network when it is loaded again."""
    model = open_model(make_image_model(tmp_path / "m", "swin", depths=[2, 4]))
    assert [s.units for s in stages_of(load_module(model))] == [((0, 1),), ((2, 3), (4, 5))]
    module, _ = fewer(model, [0, 1, 4, 5])
    assert module.config.depths == [2, 2]
    with pytest.raises(EngineError, match="meaning by their number"):
        fewer(model, [0, 1, 2, 4, 5])


def test_layers_that_cannot_go_are_named(tmp_path: Path) -> None:
    model = open_model(make_image_model(tmp_path / "m", "resnet"))
    with pytest.raises(EngineError, match="layer 2 of .* must be kept"):
        fewer(model, [0, 1, 3])
    with pytest.raises(InputError, match="layers 0 to 3"):
        fewer(model, [0, 9])
    for arch in ("mobilenet_v2", "cnn"):
        with pytest.raises(EngineError, match="--student cnn"):
            stages_of(load_module(open_model(make_image_model(tmp_path / arch, arch))))


def test_the_channels_that_stay_are_the_ones_that_count(tmp_path: Path) -> None:
    """A teacher whose other channels do nothing is not changed by losing them."""
    folder = make_image_model(tmp_path / "m", "cnn")
    module = load_module(open_model(folder))
    with torch.no_grad():
        for block in module.blocks:
            block.convolution.weight[1::2], block.convolution.bias[1::2] = 0, 0
        module.head.wide.weight[::2], module.head.wide.bias[::2] = 0, 0
    module.save_pretrained(folder)
    model = open_model(folder)
    student, described = narrower(model, "half")
    assert described.config["channels"] == [4, 8]
    assert described.config["hidden"] == 16
    for size in (32, 20):
        torch.testing.assert_close(logits(student, size), logits(load_module(model), size), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("arch", "student"),
    [
        ("vit", "layers=1"),
        ("convnext", "layers=half"),
        ("resnet", "layers=0,2"),
        ("cnn", "width=half"),
        ("swin", "cnn"),
    ],
)
def test_a_student_learns_and_can_be_loaded(arch: str, student: str, tmp_path: Path) -> None:
    teacher = make_image_model(tmp_path / "t", arch)
    files = [encoded(array) for array in make_arrays(24, size=32)]
    judged = make_arrays(12, seed=5, size=32)
    done = distill(teacher, files, tmp_path / "s", student=student, evaluate=judged, **QUICK)
    pipe = load(done.folder)
    assert pipe.plan["resize"]["size"] == 32
    assert pipe.outputs(judged)["logits"].shape == (12, 3)
    assert done.evaluation is not None
    assert done.evaluation["n"] == 12
    again = distill(teacher, files, tmp_path / "s", student=student, evaluate=judged, **QUICK)
    assert again.history == done.history


def test_a_student_comes_to_say_what_its_teacher_says(tmp_path: Path) -> None:
    import llm_moments as lm

    pictures = make_pictures(200)
    teacher = lm.train("cnn", pictures, tmp_path / "t", epochs=6, learning_rate=3e-3, batch_size=16).folder
    test = make_pictures(80, seed=5)
    for student in ("cnn", "width=quarter"):
        done = distill(
            teacher, [e.input for e in pictures], tmp_path / student, student=student, evaluate=test, epochs=8,
            batch_size=16, learning_rate=3e-3, model_options={"channels": [4, 8], "hidden": 32} if student == "cnn" else {},
        )  # fmt: skip
        assert done.evaluation is not None
        assert done.evaluation["score"] > 0.9, student
    assert load(tmp_path / "cnn").model.config["channels"] == [4, 8]


def test_another_model_keeps_its_own_size_of_images(tmp_path: Path) -> None:
    teacher, other = make_image_model(tmp_path / "t", "cnn"), make_image_model(tmp_path / "o", "vit", seed=1, size=48)
    done = distill(teacher, make_arrays(16), tmp_path / "s", student=str(other), **QUICK)
    assert load(done.folder).plan["resize"]["size"] == 48
    done = distill(teacher, make_arrays(16), tmp_path / "small", student=str(other), image_size=24, **QUICK)
    assert load(done.folder).plan["resize"]["size"] == 24


def test_hidden_states_of_a_student_of_layers(tmp_path: Path) -> None:
    teacher = make_image_model(tmp_path / "t", "vit")
    data = make_arrays(16, size=32)
    plainly, with_hidden = (
        distill(teacher, data, tmp_path / f"s{h}", student="layers=0,2", hidden=h, **QUICK) for h in (0.0, 1.0)
    )
    assert with_hidden.history[0]["loss"] > plainly.history[0]["loss"]
    assert with_hidden.session is not None
    assert with_hidden.session.root.find("teacher").wall_s > 0
    with pytest.raises(InputError, match="without stages"):
        distill(make_image_model(tmp_path / "r", "resnet"), data, tmp_path / "x", hidden=1.0, **QUICK)


@pytest.mark.parametrize(
    ("student", "said"),
    [
        ("width=9", "width=half"), ("width=half", "project's own cnn"), ("layers=9", "at least 1"),
        ("layers=quarter", "layers=half"), ("texts", "takes texts"),
    ],
)  # fmt: skip
def test_students_that_cannot_be(student: str, said: str, tmp_path: Path) -> None:
    teacher = make_image_model(tmp_path / "t", "vit")
    wanted = str(make_model(tmp_path / "texts")) if student == "texts" else student
    with pytest.raises(InputError, match=said):
        distill(teacher, make_arrays(8), tmp_path / "s", student=wanted, **QUICK)
    assert not (tmp_path / "s").exists()


def test_what_is_for_images_only(tmp_path: Path) -> None:
    teacher = make_model(tmp_path / "texts")
    for student in ("width=half", "cnn", str(make_image_model(tmp_path / "vit", "vit"))):
        with pytest.raises(InputError, match="images"):
            distill(teacher, make_texts(8), tmp_path / "s", student=student, **QUICK)
    with pytest.raises(InputError, match="image size"):
        distill(teacher, make_texts(8), tmp_path / "s", student="layers=1", image_size=24, **QUICK)
    with pytest.raises(InputError, match="model options"):
        distill(
            make_image_model(tmp_path / "c", "cnn"),
            make_arrays(8),
            tmp_path / "s",
            student="width=half",
            model_options={"hidden": 8},
            **QUICK,
        )


def test_sizes_that_cannot_be(tmp_path: Path) -> None:
    teacher = make_image_model(tmp_path / "t", "vit")
    with pytest.raises(PlanError, match="multiple of 8"):
        distill(teacher, make_arrays(8), tmp_path / "s", student="layers=1", image_size=30, **QUICK)
    with pytest.raises(InputError, match="no tokens"):
        distill(teacher, make_arrays(8), tmp_path / "s", student="layers=1", max_length=30, **QUICK)


def test_layers_are_chosen_by_what_their_loss_changes(tmp_path: Path) -> None:
    """A layer that does nothing is the first to go."""
    folder = make_image_model(tmp_path / "t", "convnext", depths=[2, 3])
    module = load_module(open_model(folder))
    with torch.no_grad():
        for name, value in module.named_parameters():
            if "stages.1.layers.1." in name and "layer_scale" in name:
                value.zero_()
            elif "layer_scale" in name:
                value.fill_(1.0)
    module.save_pretrained(folder)
    pipe, values = load(folder), [image_of(a) for a in make_arrays(12, size=32)]
    assert chosen_layers(pipe, values, pipe.outputs(values), 4, lambda done, said: None) == [0, 1, 2, 4]


@pytest.mark.parametrize("arch", ["vit", "deit", "beit"])
@pytest.mark.parametrize(("student", "quantize"), [("heads=half neurons=half", None), ("as-is", "int8")])
def test_heads_neurons_and_int8_are_for_images_too(
    arch: str, student: str, quantize: str | None, tmp_path: Path
) -> None:
    teacher = teacher_of(tmp_path / arch, arch)
    done = distill(
        teacher, make_pictures(24, seed=3), tmp_path / "student", student=student, quantize=quantize, epochs=1, batch_size=8
    )  # fmt: skip
    small, large = (load_module(open_model(path)) for path in (done.folder, teacher))
    sizes = [sum(p.numel() for p in module.parameters()) for module in (small, large)]
    assert type(small).__name__ == type(large).__name__  # DeiT has two classes for images
    assert sizes[0] == sizes[1] if quantize else sizes[0] < sizes[1]
    assert load(done.folder)(make_pictures(1)[0].input).label in load(teacher).model.labels
