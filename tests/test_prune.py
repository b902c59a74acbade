"""Students of fewer heads and neurons: against the naive way, over architectures, saved, loaded, exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llm_moments.assembly.artefact import save
from llm_moments.assembly.load import load
from llm_moments.base.errors import EngineError, InputError, ModelError
from llm_moments.engines.base import put_on
from llm_moments.engines.torch_eager import load_module
from llm_moments.models.model import NOTES
from llm_moments.models.nets.pruned import HEADS, heads_of, neurons_of, shares
from llm_moments.models.open import open_model
from llm_moments.train.distill import distill
from llm_moments.train.students.prune import importance, log_odds, narrowed
from llm_moments.train.students.spec import Parts, parts_of
from tests.fakes import make_model, make_texts

BOTH = (
    "bert", "distilbert", "roberta", "electra", "mpnet", "deberta-v2", "modernbert", "albert", "roformer", "llama", "gpt2",
)  # fmt: skip
SINGLE = "single_label_classification"
Gone = list[tuple[Any, list[int]]]


def opened(tmp_path: Path, arch: str, **sizes: Any) -> tuple[Any, Any, list[dict[str, np.ndarray]]]:
    pipe = load(make_model(tmp_path / arch, arch, **sizes))
    changes = {"batch.size": 1} if arch == "gpt2" else {}
    return load_module(pipe.model), pipe.model, pipe.with_(**changes).arrays(make_texts(6))


def answers(module: Any, batches: Any) -> list[Any]:
    with torch.no_grad():
        return [module(**{k: torch.from_numpy(v) for k, v in b.items()}).logits for b in batches]


def zero_columns(output: Any, columns: list[int]) -> None:
    with torch.no_grad():
        (output.weight if hasattr(output, "nf") else output.weight.T)[columns] = 0


def same(one: list[Any], other: list[Any]) -> None:
    torch.testing.assert_close(one, other, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("arch", BOTH)
def test_a_pruned_module_answers_as_one_with_heads_and_neurons_switched_off(arch: str, tmp_path: Path) -> None:
    module, model, batches = opened(tmp_path, arch)
    by_head, by_neuron = importance(module, batches, SINGLE)
    if arch == "mpnet":  # one table of positions by head, for all layers
        by_head = [np.sum(by_head, 0)] * 3
    if arch == "llama":  # one head of keys for two of queries
        by_head = [np.repeat(w.reshape(2, 2).sum(1), 2) for w in by_head]
    whole = load_module(model)
    for unit, weights in zip(heads_of(whole), by_head, strict=True):
        gone = np.argsort(weights, kind="stable")[:2]
        zero_columns(unit.output, [int(h) * unit.size + i for h in gone for i in range(unit.size)])
    for part, weights in zip(neurons_of(whole), by_neuron, strict=True):
        zero_columns(part.output, [int(n) for n in np.argsort(weights, kind="stable")[:-10]])
    wanted = answers(whole, batches)
    before = sum(p.numel() for p in module.parameters())
    small, described = narrowed(module, model, batches, heads="2", neurons="10")
    assert sum(p.numel() for p in small.parameters()) < before
    assert {u.count for u in heads_of(small)} == {2}
    assert {u.count for u in neurons_of(small)} == {10}
    same(answers(small, batches), wanted)
    small.save_pretrained(tmp_path / "saved")
    same(answers(load_module(open_model(tmp_path / "saved")), batches), wanted)
    assert (HEADS in described.config) == (arch != "llama")


def test_importance_is_the_change_of_the_log_odds_to_first_order(tmp_path: Path) -> None:
    module, _, batches = opened(tmp_path, "bert")
    by_head, _ = importance(module, batches, SINGLE)
    unit, step = heads_of(module)[1], 1e-3
    columns = slice(2 * unit.size, 3 * unit.size)
    before = torch.cat([log_odds(a, SINGLE) for a in answers(module.double(), batches)])
    with torch.no_grad():
        unit.output.weight[:, columns] *= 1 - step
    after = torch.cat([log_odds(a, SINGLE) for a in answers(module, batches)])
    assert float((before - after).abs().sum() / step) == pytest.approx(by_head[1][2], rel=0.03)
    assert all((w >= 0).all() and w.any() for w in by_head)


def test_log_odds_of_each_kind_of_problem() -> None:
    logits = torch.tensor([[1.0, 3.0, -2.0]])
    p = torch.softmax(logits, -1)[0, 1]
    assert float(log_odds(logits, SINGLE)) == pytest.approx(float(torch.log(p / (1 - p))), rel=1e-5)
    assert log_odds(logits, "multi_label_classification").tolist() == [[1.0, 3.0, 2.0]]
    assert log_odds(logits[:, :1], "regression").tolist() == [[1.0]]


@pytest.mark.parametrize(("keep", "kept"), [(4, (1, 4)), (2, (2, 1)), (6, (2, 3)), (8, (2, 4))])
def test_heads_that_share_keys_go_in_groups_or_alike(keep: int, kept: tuple[int, int], tmp_path: Path) -> None:
    module, model, batches = opened(tmp_path, "llama", num_attention_heads=8)
    assert shares(heads_of(module)[0], keep) == kept
    small, described = narrowed(module, model, batches, heads=str(keep))
    if keep == 6:  # Llama's config wants a width that heads divide
        assert described.config[HEADS] == 6
    else:
        said = [described.config[name] for name in ("num_key_value_heads", "num_attention_heads", "head_dim")]
        assert said == [kept[0], keep, 4]
        assert HEADS not in described.config
    small.save_pretrained(tmp_path / "saved")
    same(answers(load_module(open_model(tmp_path / "saved")), batches), answers(small, batches))


def test_what_a_config_can_say_opens_in_transformers_alone_and_what_it_cannot_does_not(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification as Auto

    for arch, parts in (("llama", {"heads": "2", "neurons": "16"}), ("bert", {"neurons": "16"})):
        module, model, batches = opened(tmp_path, arch)
        small, _ = narrowed(module, model, batches, **parts)
        small.save_pretrained(tmp_path / "plain" / arch)
        same(answers(Auto.from_pretrained(tmp_path / "plain" / arch).eval(), batches), answers(small, batches))
    module, model, batches = opened(tmp_path, "bert")
    narrowed(module, model, batches, heads="2")[0].save_pretrained(tmp_path / "own")
    with pytest.raises(RuntimeError, match="mismatch"):
        Auto.from_pretrained(tmp_path / "own")


def test_what_cannot_be_pruned_is_refused_with_what_can(tmp_path: Path) -> None:
    module, model, batches = opened(tmp_path, "xlnet")
    with pytest.raises(EngineError, match="neurons=half can be pruned"):
        narrowed(module, model, batches, heads="half")
    llama, model, batches = opened(tmp_path, "llama", num_attention_heads=8)
    with pytest.raises(InputError, match="multiple of 4 or of 2"):
        narrowed(llama, model, batches, heads="3")
    bert, model, batches = opened(tmp_path, "bert")
    for wrong in ({"heads": "5"}, {"heads": "0"}, {"neurons": "65"}, {"neurons": "0"}):
        with pytest.raises(InputError, match="a student cannot have"):
            narrowed(bert, model, batches, **wrong)


@pytest.mark.parametrize(
    "said", ["heads", "heads=1,2", "layers=2 heads=most", "heads=2 heads=3", "neurons=-4", "layers=x"]
)
def test_parts_that_are_not_understood_are_refused(said: str) -> None:
    with pytest.raises(InputError, match="a student is made of"):
        parts_of(said)


def test_a_misspelt_part_is_no_folder() -> None:
    with pytest.raises(InputError, match="not 'head=half'"):
        parts_of("head=half")


def test_parts_are_read() -> None:
    assert parts_of("layers=0,2,5") == Parts([0, 2, 5])
    assert parts_of("layers=3; heads=half  neurons=third") == Parts("3", "half", "third")
    assert parts_of("as-is") == Parts()
    assert parts_of("models/heads") is None
    assert parts_of("./layers") is None


def test_a_student_is_whole_wherever_a_model_is(tmp_path: Path) -> None:
    """distill -> folder -> engines, an artefact, a student of the student."""
    teacher, texts = make_model(tmp_path / "t"), make_texts(24)
    done = distill(teacher, texts, tmp_path / "s", student="layers=2 heads=half neurons=half", epochs=1, max_length=16)
    small = load(done.folder)
    assert (small.model.config[HEADS], small.model.config["intermediate_size"]) == (2, 32)
    assert "llm-moments only" in json.loads((done.folder / NOTES).read_text())["opens_in"]
    wanted = small.outputs(texts)
    for engine in ("onnxruntime", "openvino"):
        np.testing.assert_allclose(small.with_(**put_on(engine, "fp32")).outputs(texts), wanted, atol=1e-4)
    np.testing.assert_allclose(load(save(small, tmp_path / "a")).outputs(texts), wanted, atol=1e-6)
    again = distill(done.folder, texts, tmp_path / "ss", student="heads=1", epochs=1, max_length=16)
    assert load(again.folder).model.config[HEADS] == 1
    assert heads_of(load_module(load(again.folder).model))[0].count == 1


def test_a_folder_that_states_heads_it_cannot_have_is_refused(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "t")
    config = json.loads((folder / "config.json").read_text())
    for wrong in (9, "two", 0):
        (folder / "config.json").write_text(json.dumps(config | {HEADS: wrong}))
        with pytest.raises(ModelError, match=str(wrong)):
            load_module(open_model(folder))
    (folder / "config.json").write_text(json.dumps(config | {HEADS: 2, "model_type": "none-such"}))
    with pytest.raises(ModelError, match="none-such"):
        load_module(open_model(folder))
    (folder / "config.json").write_text(json.dumps(config | {HEADS: 2}))
    with pytest.raises(ModelError, match="other shapes"):
        load_module(open_model(folder))


def test_a_small_student_learns_what_the_teacher_says(trained_model: Path, tmp_path: Path) -> None:
    texts = make_texts(80, seed=3)
    done = distill(
        trained_model, texts, tmp_path / "s", student="heads=2 neurons=16", epochs=12, max_length=32, evaluate=texts,
        learning_rate=2e-3,
    )  # fmt: skip
    assert done.evaluation is not None
    assert done.evaluation["score"] >= 0.95
