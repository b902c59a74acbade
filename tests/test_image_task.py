"""Image classification from the raw image to the answer: steps, knobs, order, memory, training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

import llm_moments as lm
from llm_moments.assembly.load import load
from llm_moments.base.errors import DataError, InputError, ModelError, PlanError
from llm_moments.core import Pipeline, Plan
from llm_moments.tasks import image_classification
from tests.image_fakes import CLASSES, damaged, encoded, make_arrays, make_image_model, make_pictures, photo


@pytest.fixture(scope="module")
def cnn(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return load(make_image_model(tmp_path_factory.mktemp("cnn") / "cnn", "cnn"))


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("learnt") / "model"
    return lm.train("cnn", make_pictures(300), out, epochs=6, learning_rate=3e-3, batch_size=16).folder


def test_the_steps_of_an_image(cnn: Pipeline) -> None:
    assert [step.name for step in cnn.steps] == ["decode", "resize", "batch", "forward"]
    answer = cnn(photo())
    assert list(answer.scores) == CLASSES
    assert sum(answer.scores.values()) == pytest.approx(1)


@pytest.mark.parametrize("kind", ["vit", "convnext"])
def test_pixels_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    """The arrays that the model is given, held against transformers' own image processors."""
    from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    own = {
        "vit": ViTImageProcessorPil(size={"height": 32, "width": 32}, resample=3),
        "convnext": ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=0.8),
    }[kind]
    folder = make_image_model(tmp_path / "m", kind)
    own.save_pretrained(folder)
    pipe = load(folder)
    for width, height in ((50, 41), (32, 32), (41, 90), (200, 33)):
        image = photo(width, height)
        expected = own(image, return_tensors="np")["pixel_values"]
        found = pipe.arrays([image])[0]["pixel_values"]
        assert found.shape == expected.shape == (1, 3, 32, 32)
        assert np.abs(found - expected).max() < 0.02, (width, height)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_batching_and_order_change_no_answer(cnn: Pipeline, data: st.DataObject) -> None:
    arrays = make_arrays(9, seed=1) + make_arrays(4, seed=2, size=40) + make_arrays(2, seed=1)
    order = data.draw(st.permutations(range(len(arrays))))
    choices = {
        "batch.size": data.draw(st.integers(1, 20)), "batch.reuse": data.draw(st.booleans()),
        "batch.window": data.draw(st.integers(1, 20)),
    }  # fmt: skip
    found = cnn.with_(**choices).outputs([arrays[i] for i in order])
    np.testing.assert_allclose(found, cnn.outputs(arrays)["logits"][list(order)], atol=1e-5)


def test_many_large_images_are_decoded_some_at_a_time(cnn: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [encoded(array, "JPEG") for array in make_arrays(12, size=100)]
    expected = cnn.outputs(files)
    seen = []
    step = type(cnn.steps[0])
    call = step.__call__
    monkeypatch.setattr(
        step, "__call__", lambda self, batch, recorder: (seen.append(batch.size), call(self, batch, recorder))[1]
    )
    monkeypatch.setattr(image_classification, "ROOM", 5 * 100 * 100 * 3)
    np.testing.assert_allclose(cnn.outputs(files), expected, atol=1e-5)
    assert sum(seen) == 12
    assert max(seen) <= 5


def test_an_image_and_its_file_have_the_same_answer(cnn: Pipeline, tmp_path: Path) -> None:
    array = make_arrays(1, size=50)[0]
    (tmp_path / "a.png").write_bytes(encoded(array))
    answers = [cnn(value) for value in (array, str(tmp_path / "a.png"), encoded(array), Pillow.fromarray(array))]
    assert all(answer == answers[0] for answer in answers)


def test_knobs_change_what_they_say(cnn: Pipeline) -> None:
    image = encoded(np.asarray(photo(300, 200)), "JPEG")
    grey = cnn.with_(**{"decode.channels": 1}).arrays([image])[0]["pixel_values"]
    assert np.array_equal(grey[:, 0], grey[:, 1])
    small = cnn.with_(**{"resize.size": 20}).arrays([image])[0]["pixel_values"]
    assert small.shape == (1, 3, 20, 20)
    draft = cnn.with_(**{"decode.draft": 2}).arrays([image])[0]["pixel_values"]
    whole = cnn.arrays([image])[0]["pixel_values"]
    assert 0 < np.abs(draft - whole).mean() < 0.05
    cropped = cnn.with_(**{"resize.fit": "crop", "resize.crop": 0.5}).arrays([image])[0]["pixel_values"]
    assert np.abs(cropped - whole).mean() > 0.05
    for wrong in (
        {"resize.size": 0},
        {"resize.fit": "stretch"},
        {"decode.draft": 3},
        {"resize.crop": 2},
        {"truncate.max_length": 9},
    ):
        with pytest.raises(PlanError):
            cnn.with_(**wrong)


def test_sizes_are_multiples_of_the_patches(tmp_path: Path) -> None:
    pipe = load(make_image_model(tmp_path / "vit", "vit"))
    assert pipe.with_(**{"resize.size": 48}).outputs(make_arrays(2))["logits"].shape == (2, 3)
    with pytest.raises(PlanError, match="multiple of 8"):
        pipe.with_(**{"resize.size": 30})


def test_wrong_inputs_are_told_apart(cnn: Pipeline, tiny_model: Path) -> None:
    with pytest.raises(DataError, match="no such image"):
        cnn("hello")
    with pytest.raises(DataError, match="an input is a text"):
        load(tiny_model)(make_arrays(1)[0])


def test_a_model_that_does_not_say_its_size(tmp_path: Path) -> None:
    folder = make_image_model(tmp_path / "m", "resnet")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match="how large its images are"):
        load(folder)


def test_a_recording_has_decode_and_resize(cnn: Pipeline) -> None:
    session = lm.record(cnn, [encoded(a) for a in make_arrays(40)])
    for name in ("decode", "resize", "batch", "forward", "layer 0", "layer 1", "head"):
        assert session.root.find(name).wall_s > 0
    assert session.root.find("decode").counts["pixels"] == 40 * 16 * 16


# ------------------------------------------------------------------------------------- training


def test_what_was_learnt(learnt: Path) -> None:
    pipe, test = load(learnt), make_pictures(100, seed=5)
    assert pipe.model.config["num_channels"] == 1
    assert np.mean([a.label == e.reference for a, e in zip(pipe.run(test), test, strict=True)]) > 0.95


@pytest.mark.parametrize("loss", ["cross-entropy", "mean-squared-error", "binary-cross-entropy"])
@pytest.mark.parametrize("arch", ["cnn", "vit", "resnet"])
def test_every_model_can_learn_a_few_by_heart(arch: str, loss: str, tmp_path: Path) -> None:
    few = make_pictures(8, seed=3, size=32)
    start = "cnn" if arch == "cnn" else make_image_model(tmp_path / arch, arch)
    done = lm.train(
        start, few * 40, tmp_path / "out", evaluate=few, epochs=1, batch_size=8, learning_rate=2e-3, loss=loss, dropout=0.0,
        weight_decay=0.0, schedule="constant", precision="fp32",
    )  # fmt: skip
    assert done.evaluation["score"] == 1.0


def test_files_are_decoded_once_for_all_epochs(tmp_path: Path) -> None:
    data = [lm.Example(encoded(e.input), e.reference) for e in make_pictures(20)]
    settings = {"batch_size": 8, "learning_rate": 1e-3}
    done = lm.train("cnn", data, tmp_path / "files", epochs=3, **settings)
    counts = done.session.root.find("decode").counts
    assert counts["pixels"] == 20 * 16 * 16
    assert counts["kept_rows"] == 40
    arrays = lm.train("cnn", make_pictures(20), tmp_path / "arrays", epochs=3, **settings)
    assert [h["loss"] for h in done.history] == [h["loss"] for h in arrays.history]


def test_a_training_that_was_ended_goes_on_bit_for_bit(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    class Ended(Exception):
        pass

    def end(loop: object) -> None:
        if loop.position.updates == 5:
            raise Ended

    settings = {"epochs": 2, "batch_size": 8, "checkpoint_every": 2, "learning_rate": 1e-3}
    data = make_pictures(40)
    whole = lm.train("cnn", data, tmp_path / "whole", **settings)
    with pytest.raises(Ended):
        lm.train("cnn", data, tmp_path / "parts", on_update=end, **settings)
    parts = lm.train("cnn", data, tmp_path / "parts", **settings)
    one, two = (load_file(t.folder / "model.safetensors") for t in (whole, parts))
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_the_folder_of_a_trained_model_is_complete(learnt: Path, tmp_path: Path) -> None:
    from llm_moments.models.nets.cnn import MomentsCnnForImageClassification

    assert MomentsCnnForImageClassification.from_pretrained(learnt).config.id2label.keys() == {0, 1, 2}
    again = lm.train(learnt, make_pictures(20), tmp_path / "more", epochs=1, image_size=24)
    assert load(again.folder).plan["resize"]["size"] == 24


@pytest.mark.parametrize(
    "choice", [{"lora": 4}, {"gradient_checkpointing": True}, {"freeze": ("embeddings", "layer 0")}]
)
def test_ways_to_train_less_or_in_less_memory(choice: dict, tmp_path: Path) -> None:
    few, start = make_pictures(16, size=32), make_image_model(tmp_path / "vit", "vit")
    done = lm.train(start, few, tmp_path / "out", epochs=10, learning_rate=5e-3, batch_size=8, **choice)
    losses = [entry["loss"] for entry in done.history]
    assert losses[-1] < losses[0]
    assert load(done.folder)(few[0].input).scores


def test_mixed_images_have_mixed_targets(tmp_path: Path) -> None:
    done = lm.train(
        "cnn", make_pictures(48), tmp_path / "out", epochs=2, augment={"flip": 0.5, "crop": 2, "cutmix": 1.0}
    )
    assert done.session.root.find("augment").wall_s > 0
    assert all(np.isfinite(entry["loss"]) for entry in done.history)


def test_options_that_do_not_fit_are_refused(tmp_path: Path, learnt: Path, tiny_model: Path) -> None:
    data = make_pictures(8)
    for options, words in (
        ({"model_options": {"depth": 3}}, "unknown model option 'depth'"),
        ({"model_options": {"channels": 7}}, "a list such as"),
        ({"model_options": {"hidden": 0}}, "hidden is from 1"),
        ({"batch_tokens": 100}, "no tokens"),
        ({"learning_rate": float("nan")}, "learning rate"),
    ):
        with pytest.raises(InputError, match=words):
            lm.train("cnn", data, tmp_path / "out", **options)
    with pytest.raises(InputError, match="begins fresh"):
        lm.train(learnt, data, tmp_path / "out", model_options={"hidden": 9})
    with pytest.raises(InputError, match="takes texts"):
        lm.train(tiny_model, [lm.Example("good", "a"), lm.Example("bad", "b")], tmp_path / "out", image_size=9)


def test_the_cnn_is_as_it_is_configured(tmp_path: Path) -> None:
    data = [lm.Example(a, "ab"[i % 2]) for i, a in enumerate(make_arrays(8, size=20))]
    done = lm.train(
        "cnn", data, tmp_path / "out", epochs=1, model_options={"channels": [4, 6, 8], "hidden": 10, "grid": 2}
    )
    config = load(done.folder).model.config
    assert (config["channels"], config["hidden"], config["num_channels"], config["image_size"]) == (
        [4, 6, 8],
        10,
        3,
        [20, 20],
    )


# ------------------------------------------------------------------------------ weigh and improve


@pytest.mark.slow
def test_weigh_prices_sizes_and_layers(learnt: Path) -> None:
    worths = lm.weigh(load(learnt), make_pictures(60, seed=6))
    named = {w.name: w for w in worths}
    assert named["skip layer 0"].verdict == "unavailable"
    assert "changes the shape" in named["skip layer 0"].reason
    assert named["images of 8 pixels"].drop is not None
    assert all(w.drop is not None for w in worths if not w.name.startswith("skip")), [w.reason for w in worths]
    assert "decode" not in {w.step for w in worths}  # of arrays there is nothing to decode


@pytest.mark.slow
def test_improve_ends_with_a_certificate(learnt: Path, tmp_path: Path) -> None:
    test = make_pictures(900, seed=7)
    done = lm.improve(learnt, test, budget="20s", max_drop=0.05, out=tmp_path / "better")
    certificate = done.certificate
    if certificate.certified:
        assert certificate.drop_high < 0.05
        assert certificate.speedup_low > 1
    else:  # so small a network is soon limited by what is round it: then the timing decides, not the answers
        assert "not certainly better" in certificate.reason, certificate.words()
    assert {t.stage for t in done.study} >= {"baseline, sorted", "by hand", "engines"}
    artefact, few = load(tmp_path / "better"), test[:40]
    same = [a.label == b.label for a, b in zip(artefact.run(few), load(learnt).run(few), strict=True)]
    assert np.mean(same) > 0.9


def test_a_cascade_asks_large_images_where_small_ones_are_unsure(learnt: Path) -> None:
    pipe, arrays = load(learnt), [e.input for e in make_pictures(60, seed=9)]
    cheap, dear = pipe.with_(**{"resize.size": 12}).outputs(arrays), pipe.outputs(arrays)
    margins = pipe.task.margins(cheap)
    threshold = float(np.median(margins))
    plan = Plan({**pipe.plan.to_dict(), "cascade": {"threshold": threshold, "cheap": {"resize.size": 12}}})
    expected = np.where((margins < threshold)[:, None], dear, cheap)
    np.testing.assert_allclose(pipe.with_(plan).outputs(arrays), expected, atol=1e-4)


def test_a_damaged_image_among_others_is_named_with_the_cure(learnt: Path) -> None:
    with pytest.raises(DataError, match="half.png.*--on-error skip"):
        load(learnt).outputs([make_arrays(1)[0], {"bytes": damaged()["half.png"], "path": "half.png"}])


def test_compare_takes_images(learnt: Path) -> None:
    found = lm.compare(load(learnt), load(learnt).with_(**{"batch.size": 8}), make_pictures(60, seed=8), rounds=5)
    assert found.drop == 0
    assert found.agreement == 1
