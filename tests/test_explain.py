"""One answer opened up: held against leaving parts out by hand, against words that decide by construction, and against
transformers' own truncation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llm_moments as lm
from llm_moments.base.errors import InputError
from llm_moments.core.parts import Pace
from llm_moments.explain.ablation import Ablation
from llm_moments.explain.important import faith, losses, order
from llm_moments.render.html import report
from llm_moments.steps.text_parts import text_parts
from tests.cli.command import moments
from tests.fakes import label_of, make_linear, make_model, make_texts

TEXT = "the film was really great and the music was long but the plot"


@pytest.fixture(scope="module")
def pipe(trained_model: Path) -> Any:
    return lm.load(trained_model)


@pytest.fixture(scope="module")
def found(pipe: Any) -> lm.Explanation:
    return lm.explain(pipe, TEXT)


@pytest.mark.parametrize("kind", ["words", "sentences"])
@pytest.mark.parametrize(
    "text",
    [
        "A film. It was good!  Really?\nYes.",
        "  led by spaces",
        "映画はとても良かった。音楽も。",
        "ภาพยนตร์ดีมาก",
        "",
        "e.g. 3.5 stars",
        "one\n\ntwo",
    ],
)
def test_all_parts_together_are_the_text(text: str, kind: str) -> None:
    parts = text_parts(text, kind)
    assert parts.keep([True] * len(parts)) == text.lstrip()
    for part in parts.parts:
        assert text[part.place[1] : part.place[2]] == part.name
    assert parts.keep([False] * len(parts)) == ""


def test_words_and_sentences_are_what_they_should_be() -> None:
    assert [p.name for p in text_parts("A film. It was good!", "words").parts] == ["A", "film.", "It", "was", "good!"]
    assert [p.name for p in text_parts("A film. It was good! Mr", "sentences").parts] == [
        "A film.",
        "It was good!",
        "Mr",
    ]
    assert [p.name for p in text_parts("良い映画。はい。", "sentences").parts] == ["良い映画。", "はい。"]
    assert len(text_parts("良い映画", "words")) == 4
    pair = text_parts(("one two", "three"), "words")
    assert pair.keep([True, False, True]) == ("one ", "three")
    assert [p.place[0] for p in pair.parts] == ["text", "text", "text_pair"]


def test_what_a_word_is_worth_is_what_the_answer_loses_without_it(pipe: Any, found: lm.Explanation) -> None:
    def margin(text: str) -> float:
        logits = pipe.outputs([text])["logits"][0].astype(float)
        best = pipe.model.labels.index(found.answer)
        return float(logits[best] - np.delete(logits, best).max())

    words = TEXT.split()
    by_hand = [margin(TEXT) - margin(" ".join(words[:at] + words[at + 1 :])) for at in range(len(words))]
    np.testing.assert_allclose([part.worth for part in found.parts], by_hand, atol=1e-3)
    assert found.support == pytest.approx(margin(TEXT), abs=1e-3)
    assert [part.name for part in found.parts] == words


def test_the_word_that_decides_is_found(pipe: Any, found: lm.Explanation) -> None:
    assert found.answer == "pos" == pipe(TEXT).label
    assert found.strongest(1)[0].name == "great"
    assert found.test.holds
    assert found.test.lost > found.test.by_chance
    assert found.turns is not None
    turned = [word for at, word in enumerate(TEXT.split()) if at not in found.turns]
    assert pipe(" ".join(turned)).label == found.turned != "pos"
    assert found.keeps is not None
    assert pipe(" ".join(TEXT.split()[at] for at in found.keeps)).label == "pos"
    assert "great" in found.said


def test_it_is_found_among_many_by_halves(pipe: Any, tmp_path: Path) -> None:
    """A linear model of words: nothing is cut, and what each word adds is known."""
    linear = lm.load(make_linear(tmp_path / "m"))
    rng = np.random.default_rng(0)
    words = rng.choice(["the", "a", "film", "plot"], 2 * Pace().alone).tolist()
    text = " ".join([*words[:400], "awful", *words[400:]])
    parts = text_parts(text, "words")
    ablation = Ablation(linear, parts, linear.outputs([text]))
    worths = losses(ablation)
    assert ablation.asked < len(parts)
    each = {
        at: float(ablation.support([ablation.whole])[0] - ablation.support([ablation.without([at])])[0])
        for at in (400,)
    }
    if each[400] > 0:
        assert 400 in worths
        assert worths[400] == pytest.approx(each[400])


def test_an_order_by_chance_does_not_hold(pipe: Any) -> None:
    held = found = 0
    for seed in range(10):
        text = make_texts(1, seed=seed, longest=30)[0]
        parts = text_parts(text, "words")
        if len(parts) < 4:
            continue
        ablation = Ablation(pipe, parts, pipe.outputs([text]))
        mixed = np.random.default_rng(seed).permutation(len(parts)).tolist()
        held += faith(ablation, mixed, seed + 100).better >= 18
        found += faith(ablation, order(ablation, losses(ablation)), seed).better >= 18
    assert held <= 3
    assert found >= 8


@pytest.mark.parametrize("side", ["head", "tail", "head+tail"])
def test_what_never_reached_the_model_is_told(pipe: Any, side: str) -> None:
    text = " ".join(make_texts(4, seed=8, longest=40))
    short = pipe.with_(**{"truncate.max_length": 12, "truncate.side": side})
    found = lm.explain(short, text, depth=0)
    seen, at = "", 0
    for gone in found.unseen:
        assert text[gone.place[1] : gone.place[2]] == gone.name
        seen, at = seen + text[at : gone.place[1]], gone.place[2]
    seen += text[at:]
    whole = pipe.model.tokenizer(text, add_special_tokens=False)["input_ids"]
    kept = {"head": whole[:10], "tail": whole[-10:], "head+tail": whole[:5] + whole[-5:]}[side]
    assert pipe.model.tokenizer(seen, add_special_tokens=False)["input_ids"] == kept
    longest = pipe.with_(**{"truncate.max_length": pipe.model.max_length})
    if not longest.task.unseen(longest, text):
        assert found.seen_all == longest(text).label


def test_words_that_a_linear_model_is_not_shown_are_told(tmp_path: Path) -> None:
    pipe = lm.load(make_linear(tmp_path / "m"), plan={"vectorize.words": 4})
    text = "The film, was good; but the plot was bad."
    found = lm.explain(pipe, text, depth=0)
    assert [gone.name for gone in found.unseen] == ["; but the plot was bad."]
    assert found.seen_all == pipe.with_(**{"vectorize.words": 0})(text).label


def test_nothing_is_unseen_where_nothing_is_cut(found: lm.Explanation) -> None:
    assert found.unseen == ()
    assert found.seen_all == ""


def test_the_stage_of_a_cascade_that_answered_is_the_one_that_is_explained(pipe: Any) -> None:
    cheap = {"truncate.max_length": 4}
    margin = float(pipe.task.margins(pipe.with_(**cheap).outputs([TEXT]))[0])
    for threshold, said in ((margin / 2, "the cheap stage answered"), (margin * 2, "the full plan answered")):
        plan = {**pipe.plan.to_dict(), "cascade": {"threshold": threshold, "cheap": cheap}}
        found = lm.explain(pipe.with_(lm.Plan(plan)), TEXT, depth=0)
        assert said in found.stage
        whole = pipe.with_(**cheap) if "cheap stage answered" in found.stage else pipe
        assert found.support == pytest.approx(float(pipe.task.margins(whole.outputs([TEXT]))[0]), abs=1e-3)


def test_layers_and_other_plans_are_what_they_do(pipe: Any, found: lm.Explanation) -> None:
    assert [layer.name for layer in found.layers] == ["layer 0", "layer 1", "layer 2"]
    for at, layer in enumerate(found.layers):
        assert layer.answer == pipe.with_(**{"forward.skip_layers": [at]})(TEXT).label
    assert {other.name for other in found.others} >= {"torch bf16"}
    assert "torch fp32" not in {other.name for other in found.others}  # which it is
    assert found.notes == ()
    assert all(other.same == (other.answer == found.answer) for other in found.others)
    assert found.session is not None
    assert found.session.root.find("forward").wall_s > 0


def test_another_engine_that_answered_is_held_against_torch(pipe: Any) -> None:
    found = lm.explain(pipe.with_(**{"forward.engine": "onnxruntime"}), TEXT)
    assert any("torch fp32" in note for note in found.notes)
    assert found.answer == "pos"


def test_pairs_numbers_and_several_labels(tmp_path: Path) -> None:
    model = make_model(tmp_path / "pair")
    found = lm.explain(model, ("the film was good", "a bad plot"), depth=0)
    assert {part.place[0] for part in found.parts} == {"text", "text_pair"}
    for problem, labels in (("regression", ["LABEL_0"]), ("multi_label_classification", ["a", "b"])):
        found = lm.explain(make_model(tmp_path / problem, labels=labels, problem_type=problem), TEXT, depth=0)
        assert len(found.parts) == len(TEXT.split())
        assert found.answer is not None


@pytest.mark.parametrize("text", ["", "good", "   "])
def test_inputs_with_hardly_anything_in_them(pipe: Any, text: str) -> None:
    found = lm.explain(pipe, text, depth=0)
    assert found.answer == pipe(text).label
    assert found.said


@pytest.mark.parametrize("text", ["good", "good film", "the film was good"])
def test_a_model_that_takes_no_empty_input_is_not_asked_about_one(text: str, tmp_path: Path) -> None:
    found = lm.explain(make_model(tmp_path / "m", "llama"), text)
    assert len(found.parts) == len(text.split())
    assert found.said


def test_explaining_changes_no_answer_and_is_the_same_twice(pipe: Any, found: lm.Explanation) -> None:
    before = pipe.outputs([TEXT])["logits"]
    again = lm.explain(pipe, TEXT)
    np.testing.assert_array_equal(pipe.outputs([TEXT])["logits"], before)
    assert (again.parts, again.test, again.keeps, again.turns) == (found.parts, found.test, found.keeps, found.turns)


def test_it_is_saved_loaded_and_drawn_as_text_only(pipe: Any, found: lm.Explanation, tmp_path: Path) -> None:
    assert lm.Explanation.load(found.save(tmp_path / "e.json")) == found
    hostile = lm.explain(pipe, "good <script>alert(1)</script> \x1b[31m great", depth=0)
    for page in (report(explanation=hostile), hostile._repr_html_()):
        assert "<script>alert" not in page
        assert "\x1b" not in page


def test_what_cannot_be_explained_is_refused(pipe: Any, tmp_path: Path) -> None:
    from tests.fakes_chat import make_chat

    with pytest.raises(InputError, match="words or sentences, not 'pixels'"):
        lm.explain(pipe, TEXT, parts="pixels")
    with pytest.raises(InputError, match="cannot be explained"):
        lm.explain(lm.load(make_chat(tmp_path / "chat"), task="text-generation", metric="likelihood"), "a")
    with pytest.raises(InputError, match="are no texts"):
        lm.explain(pipe, TEXT, answer="pos")


def test_the_verb(trained_model: Path, tmp_path: Path) -> None:
    out, page = tmp_path / "e.json", tmp_path / "e.html"
    told = moments("explain", trained_model, TEXT, "--out", out, "--html", page).stdout
    assert "great" in told.splitlines()[0]
    assert "held against chance" in told
    assert json.loads(out.read_text())["answer"] == "pos"
    assert "great" in page.read_text()
    assert "great" in moments("show", out).stdout
    assert json.loads(moments("explain", trained_model, TEXT, "--depth", 0, "--json").stdout)["parts"]
    assert label_of(TEXT) == "pos"


def test_the_patch_that_decides_is_found(tmp_path: Path) -> None:
    """An image model that sees nothing but the brightness of each quarter."""
    from tests.image_fakes import make_arrays, make_image_model

    model = lm.load(make_image_model(tmp_path / "vit", "vit"))
    image = make_arrays(1)[0]
    found = lm.explain(model, image)
    value = model.task.normalise(image)
    parts = model.task.divided(value, "patches")
    np.testing.assert_array_equal(model.outputs([parts.keep([True] * len(parts))]), model.outputs([value]))
    for at in (0, len(parts) // 2):
        kept = [n != at for n in range(len(parts))]
        lost = found.support - model.task.support(model, [parts.keep(kept)], model.outputs([value]))[0][0]
        assert found.parts[at].worth == pytest.approx(float(lost), abs=1e-3)
    left, top, right, bottom = found.parts[-1].place[1:]
    assert (right, bottom) == (image.shape[1], image.shape[0])
    assert "<svg" in report(explanation=found)
    assert lm.Explanation.load(found.save(tmp_path / "e.json")) == found


@pytest.mark.parametrize(
    ("choices", "where"),
    [
        ({"truncate.max_length": 6}, "truncate"),
        ({"forward.skip_layers": [1]}, "layer 1"),
        ({"forward.precision": "bf16"}, "forward"),
        ({"batch.order": "length"}, ""),
    ],
)
def test_two_plans_part_at_the_step_that_makes_them_differ(
    trained_model: Path, choices: dict[str, Any], where: str
) -> None:
    text = "a very boring movie and the plot was bad"
    found = lm.explain(trained_model, text, against=choices, depth=0).against
    assert found is not None
    assert found.where == where
    other = lm.load(trained_model, plan=choices)(text)
    assert (found.answer, found.score) == (other.label, pytest.approx(other.score, abs=1e-5))
    assert found.same == (other.label == lm.load(trained_model)(text).label)


def test_another_model_is_held_beside_it(trained_model: Path, tiny_model: Path, tmp_path: Path) -> None:
    text = "a good film"
    found = lm.explain(trained_model, text, against=tiny_model, depth=0)
    assert found.against is not None
    assert found.against.where == "layer 0"  # the same tokens, other weights
    assert found.against.answer == lm.load(tiny_model)(text).label
    again = lm.Explanation.load(found.save(tmp_path / "e.json"))
    assert again.against == found.against
    plan = tmp_path / "p.toml"
    plan.write_text("[truncate]\nmax_length = 4\n")
    short = moments("explain", trained_model, text, "--against", plan, "--depth", 0).stdout
    assert "They part at the step truncate: ids has" in short
    told = moments("explain", trained_model, text, "--against", "truncate.max_length=4", "--depth", 0, "--json").stdout
    assert json.loads(told)["against"]["where"] == "truncate"
    with pytest.raises(lm.MomentsError):
        lm.explain(trained_model, text, against=tmp_path / "gone", depth=0)


@pytest.mark.parametrize("size", [(60, 40), (40, 90), (33, 32)])
def test_what_the_crop_took_is_told(tmp_path: Path, size: tuple[int, int]) -> None:
    """No pixel of what is said to be unseen changes an answer, and one of the rest does; squashed, all of it is seen."""
    from tests.image_fakes import make_image_model

    pipe = lm.load(make_image_model(tmp_path / "vit", "vit"), plan={"resize.fit": "crop", "resize.crop": 0.875})
    wide, high = size
    image = np.random.default_rng(3).integers(0, 255, (high, wide, 3)).astype(np.uint8)
    found = lm.explain(pipe, image, depth=0)
    boxes = [gone.place[1:] for gone in found.unseen]
    assert boxes
    gone = np.zeros((high, wide), bool)
    for left, top, right, bottom in boxes:
        assert not gone[top:bottom, left:right].any()
        gone[top:bottom, left:right] = True
    far = gone.copy()  # a filter looks a little beyond what it makes
    for axis in (0, 1):
        for step in (-2, -1, 1, 2):
            far &= (
                np.roll(gone, step, axis)
                | (np.indices(gone.shape)[axis] < 2)
                | (np.indices(gone.shape)[axis] >= gone.shape[axis] - 2)
            )
    same = image.copy()
    same[far] = 255 - same[far]
    np.testing.assert_allclose(pipe.outputs([same])["logits"], pipe.outputs([image])["logits"], atol=1e-5)
    other = image.copy()
    other[~gone] = 255 - other[~gone]
    assert np.abs(pipe.outputs([other])["logits"] - pipe.outputs([image])["logits"]).max() > 1e-3
    assert found.seen_all == pipe.with_(**{"resize.fit": "squash"})(image).label
