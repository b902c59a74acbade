"""Sequence training: what is learnt, checked by hand; packed rows equal plain ones; overfitting; resumption; ugly input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llm_moments.assembly.load import load
from llm_moments.base.errors import DataError, InputError
from llm_moments.core import NULL, Batch
from llm_moments.train.sequences import MakeRows, Row, packed, padded
from llm_moments.train.token_loss import IGNORED, TokenLoss
from llm_moments.train.train import train
from llm_moments.train.training import Training
from tests import fakes_seq as fakes

SMALL = {
    "vocabulary": 320, "width": 32, "feed_forward": 64, "encoder_layers": 1, "decoder_layers": 1, "positions": 48, "beams": 1,
}  # fmt: skip
QUICK: dict[str, Any] = {"batch_size": 8, "learning_rate": 1e-2, "dropout": 0.0, "precision": "fp32", "max_length": 48}
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_causal(folder: Path, arch: str = "llama", weights: bool = True) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM

    from llm_moments.train.fresh_marian import tokenizer_of

    tokenizer = tokenizer_of((t for pair in fakes.toy_pairs(50) for t in pair), 320, 64)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>", "<|system|>"]})
    tokenizer.chat_template = TEMPLATE
    usual = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 64, "head_dim": 8}  # fmt: skip
    sizes = {
        "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
        "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
        "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "time_step_rank": 4},
    }  # fmt: skip
    config = AutoConfig.for_model(
        arch, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None, **sizes.get(arch, usual),
    )  # fmt: skip
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(config)
    if weights:
        fakes._shaken(module, 0).save_pretrained(folder)
    else:
        config.architectures = [type(module).__name__]
        config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_packed_rows_have_the_loss_of_plain_ones(arch: str, tmp_path: Path) -> None:
    from llm_moments.engines.generating import load_generating
    from llm_moments.models.open import open_model

    module = load_generating(open_model(make_causal(tmp_path / "m", arch)))
    rng = np.random.default_rng(0)
    rows = []
    for length in (5, 9, 3, 7):
        ids = tuple(int(i) for i in rng.integers(5, 300, length))
        rows.append(Row(ids, (IGNORED, *ids[2:], IGNORED)))
    loss = TokenLoss()
    told = []
    for arrays in (packed([rows[:2], rows[2:]], 0), padded(rows, 0)):
        inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
        asked = {name: value for name, value in inputs.items() if name != "labels"}
        with torch.no_grad():
            told.append(float(loss(module(**asked, use_cache=False), None, inputs)))
    assert told[0] == pytest.approx(told[1], abs=1e-5)


def test_the_loss_is_cross_entropy_of_the_labelled_tokens_by_hand() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 5), torch.tensor([[1, IGNORED, 4], [IGNORED, 0, IGNORED]])
    by_hand = [-torch.log_softmax(logits[r, c], 0)[labels[r, c]] for r, c in ((0, 0), (0, 2), (1, 1))]
    outputs = type("Outputs", (), {"logits": logits})
    assert float(TokenLoss()(outputs, None, {"labels": labels})) == pytest.approx(float(sum(by_hand) / 3), abs=1e-6)
    assert TokenLoss().weight(range(3), {"labels": labels.numpy()}) == 3
    narrow = [-torch.log_softmax(logits[r, c, :4], 0)[labels[r, c]] for r, c in ((0, 0), (1, 1))]
    labels[0, 2] = IGNORED
    assert float(TokenLoss(width=4)(outputs, None, {"labels": labels})) == pytest.approx(
        float(sum(narrow) / 2), abs=1e-6
    )


def _texts(folder: Path, task: str, max_length: int = 48) -> Any:
    from llm_moments.core import Plan
    from llm_moments.tasks.base import task_for
    from llm_moments.train.sequences import Texts

    pipe = load(folder, task=task)
    return Texts(task_for(pipe.model, task), Plan({}), max_length), pipe.model.tokenizer


def _learnt(tokenizer: Any, row: Row) -> str:
    return tokenizer.decode([label for label in row.labels if label != IGNORED])


def test_of_chat_data_the_answers_alone_are_learnt(tmp_path: Path) -> None:
    texts, tokenizer = _texts(make_causal(tmp_path / "m"), "chat")
    turns = (("user", "red dog"), ("assistant", "blue cats"), ("user", "old house"), ("assistant", "seven"))
    ids, learnt = texts.encoded(turns, None)
    row = texts.fitted(ids, learnt)
    assert _learnt(tokenizer, row).replace(" ", "") == "bluecats</s>seven</s>"
    for at, label in enumerate(row.labels[:-1]):  # each label is the token that comes next
        assert label in (IGNORED, row.ids[at + 1])
    asked = texts.fitted(*texts.encoded(turns[:3], "in boats"))
    assert _learnt(tokenizer, asked).replace(" ", "") == "inboats</s>"


def test_of_a_prompt_the_answer_alone_is_learnt_and_of_a_text_all(tmp_path: Path) -> None:
    texts, tokenizer = _texts(make_causal(tmp_path / "m"), "text-generation")
    row = texts.fitted(*texts.encoded("red dog", " runs"))
    assert _learnt(tokenizer, row).strip() == "runs</s>"
    whole = texts.fitted(*texts.encoded("red dog runs", None))
    assert len([n for n in whole.labels if n != IGNORED]) == len(whole.ids) - 1


def test_what_is_too_long_loses_the_prompts_beginning_first(tmp_path: Path) -> None:
    texts, tokenizer = _texts(make_causal(tmp_path / "m"), "text-generation", max_length=10)
    row = texts.fitted(*texts.encoded("red dog " * 20 + "old", " blue"))
    assert len(row.ids) == 10
    assert _learnt(tokenizer, row).strip() == "blue</s>"
    assert "old" in tokenizer.decode(row.ids)
    long = texts.fitted(*texts.encoded("red", " blue" * 30))
    assert len(long.ids) == 10
    assert long.labels[0] != IGNORED


def test_rows_are_packed_whole_and_none_is_lost() -> None:
    rng = np.random.default_rng(1)
    rows = [Row(tuple(range(n)), (IGNORED,) * n) for n in rng.integers(1, 30, 50)]
    batch = MakeRows({"tokens": 128}, 0, 32)(Batch(50, {"rows": rows}), NULL)
    seen = np.concatenate([taken for taken, _ in batch["batches"]])
    assert sorted(seen) == list(range(50))
    for taken, arrays in batch["batches"]:
        assert arrays["input_ids"].shape[1] <= 32
        assert arrays["input_ids"].shape == arrays["position_ids"].shape
        assert (arrays["position_ids"] == 0).sum() >= len(taken)


def test_a_fresh_marian_learns_and_both_engines_say_so(tmp_path: Path) -> None:
    pairs = fakes.toy_pairs(24, longest=3)
    data = fakes.write_pairs(
        tmp_path / "pairs.csv", pairs * 20
    )  # an epoch ends with a checkpoint, which takes its time
    done = train(
        "marian", data, tmp_path / "m", evaluate=data, epochs=6, model_options=SMALL, **{**QUICK, "learning_rate": 4e-3}
    )
    assert done.evaluation is not None
    assert done.evaluation["score"] > -0.1
    assert any("learnt from, too" in said for said in done.warnings)
    pipe = load(tmp_path / "m", plan={"decode.max_new_tokens": 30, "forward.streams": 8})
    pipe.engines.cache = tmp_path / "cache"
    assert pipe.task.name == "translation"
    wanted = [target for _, target in pairs]
    for changes in (
        {},
        {"decode.beams": 3},
        {"forward.engine": "ctranslate2"},
        {"forward.engine": "ctranslate2", "decode.beams": 3},
    ):
        said = pipe.with_(**changes).outputs([source for source, _ in pairs])["text"]
        right = sum(map(str.__eq__, map(str, said), wanted)) / len(wanted)
        assert right >= (0.8 if "decode.beams" in changes else 1.0), changes  # beams of the two end at other moments


@pytest.mark.parametrize("settings", [{}, {"pack": True}, {"lora": 8, "learning_rate": 3e-2}])
def test_a_causal_model_learns_its_answers(settings: dict[str, Any], tmp_path: Path) -> None:
    folder = make_causal(tmp_path / "begin", weights="lora" in settings)
    rows = [
        {"messages": [{"role": "user", "content": word}], "reference": fakes.TARGET[word]} for word in fakes.WORDS[:6]
    ]
    import json

    data = tmp_path / "chat.jsonl"
    data.write_text("\n".join(map(json.dumps, rows * 15)))
    done = train(folder, data, tmp_path / "m", evaluate=data, **{**QUICK, "epochs": 8, "batch_size": 2, **settings})
    assert done.evaluation is not None
    if "lora" in settings:  # random weights are a poor base: it is enough that it learns
        losses = [entry["loss"] for entry in done.history if "loss" in entry]
        assert losses[-1] < 0.7 * losses[0]
        return
    assert done.evaluation["score"] > -0.1
    pipe = load(tmp_path / "m", task="chat", plan={"decode.max_new_tokens": 16})
    said = [answer.text for answer in pipe.run([row["messages"] for row in rows])]
    assert said == [row["reference"] for row in rows] or [s.strip() for s in said] == [row["reference"] for row in rows]


def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    data = fakes.write_pairs(tmp_path / "pairs.csv", fakes.toy_pairs(24, longest=4))
    settings = {**QUICK, "dropout": None, "epochs": 2, "checkpoint_every": 2, "accumulate": 2, "batch_size": 4}

    class Ended(Exception):
        pass

    def end(loop: Any) -> None:
        if loop.position.updates == 4:
            raise Ended

    train("marian", data, tmp_path / "whole", model_options=SMALL, **settings)
    with pytest.raises(Ended):
        train("marian", data, tmp_path / "parts", model_options=SMALL, on_update=end, **settings)
    train("marian", data, tmp_path / "parts", model_options=SMALL, **settings)
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert (
        Training.load(tmp_path / "parts").history[-1]["loss"] == Training.load(tmp_path / "whole").history[-1]["loss"]
    )


def test_accumulated_batches_count_by_their_tokens(tmp_path: Path) -> None:
    data = fakes.write_pairs(tmp_path / "pairs.csv", fakes.toy_pairs(8, longest=6))
    settings = {**QUICK, "epochs": 1, "learning_rate": 1e-3}
    one = train("marian", data, tmp_path / "one", model_options=SMALL, **{**settings, "batch_size": 8})
    two = train("marian", data, tmp_path / "two", model_options=SMALL, **{**settings, "batch_size": 2, "accumulate": 4})
    assert one.history[0]["loss"] == pytest.approx(two.history[0]["loss"], rel=1e-5)


def test_what_cannot_be_learnt_is_said(tmp_path: Path) -> None:
    pairs = fakes.write_pairs(tmp_path / "pairs.csv", [*fakes.toy_pairs(4), ("red dog", "")])
    with pytest.raises(DataError, match="row 5: no answer"):
        train("marian", pairs, tmp_path / "m", **QUICK)
    good = fakes.write_pairs(tmp_path / "good.csv", fakes.toy_pairs(6))
    for settings, said in (
        ({"pack": True}, "causal models only"),
        ({"class_weights": "balanced"}, "for classifiers"),
        ({"loss": "mean-squared-error"}, "cross-entropy"),
        ({"model_options": {"width": 7}}, "width is from"),
        ({"model_options": {"colour": 1}}, "unknown model option"),
        ({"task": "chat"}, "no model for chat"),
        ({"choices": {"translate.target_lang": "de"}}, "one pair"),
    ):
        with pytest.raises(InputError, match=said):
            train("marian", good, tmp_path / "m", **{**QUICK, **settings})
    assert not (tmp_path / "m").exists()
    with pytest.raises(InputError, match="no model for translation"):
        train(make_causal(tmp_path / "causal"), good, tmp_path / "m", task="translation", **QUICK)
