"""Pages of text, read by two models one after the other: held against rapidocr, which the models come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llm_moments as lm
from llm_moments.base.errors import DataError, EngineError, InputError, ModelError
from llm_moments.core import Example
from llm_moments.engines.torch_eager import load_module
from tests.cli.command import moments
from tests.fakes import make_model
from tests.fakes_pages import drawn, model

rapidocr = pytest.importorskip("rapidocr", reason="rapidocr is not installed (pip install 'llm-moments[ocr]')")
WORDS = [
    "Total 42.50 EUR",
    "Invoice 2041-77",
    "paid by card",
    "Thank you",
    "Main Street 9",
    "Room 12B",
    "Bread and milk",
    "17 March 2025",
]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    room = tmp_path_factory.mktemp("pages")
    (room / "read.toml").write_text(
        f'[[stage]]\nname = "find"\nmodel = "{model("det")}"\n\n[[stage]]\nname = "read"\nmodel = "{model("rec")}"\n'
    )
    return room


@pytest.fixture(scope="module")
def pages(room: Path) -> list[Path]:
    made = [drawn(room, f"p{n}", [WORDS[(n + k) % len(WORDS)] for k in range(1 + n % 3)]) for n in range(2)]
    made.append(drawn(room, "empty", []))
    made.append(drawn(room, "wide", ["one long line of words here"], (1200, 60), 24))  # gets black above and below
    made.append(drawn(room, "large", WORDS[:4], (2400, 900), 80))  # is brought within 2,000 pixels
    return made


@pytest.fixture(scope="module")
def pipe(room: Path) -> Any:
    return lm.load(room / "read.toml")


@pytest.fixture(scope="module")
def theirs() -> Any:
    return rapidocr.RapidOCR(params={"Global.use_cls": False, "Global.log_level": "critical"})


def test_it_says_what_rapidocr_says(pipe: Any, pages: list[Path], theirs: Any) -> None:
    for page in pages:  # each alone, as rapidocr has it: lines of one batch are padded to the widest of them
        answer, told = pipe(str(page)), theirs(str(page))
        expected = list(told.txts or ())
        assert answer.text == "\n".join(expected), page.name
        assert [line["text"] for line in answer.lines] == expected
        if expected:
            np.testing.assert_allclose([line["box"] for line in answer.lines], told.boxes, atol=0.06)
            np.testing.assert_allclose([line["score"] for line in answer.lines], told.scores, atol=2e-4)


def test_each_stage_is_a_task_of_its_own(pages: list[Path], theirs: Any) -> None:
    find = lm.load(model("det"))
    assert find.task.name == "text-detection"
    told = theirs(str(pages[1]), use_rec=False)
    boxes = [one["box"] for one in find(str(pages[1])).boxes]
    np.testing.assert_allclose(boxes, told.boxes, atol=0.06)
    part = find.task.references([boxes[:1] + [[0, 0, 5, 5]]])
    found = find.task.scores(find.outputs([str(pages[1])]), part)
    assert found[0] == pytest.approx(2 * 1 / (len(boxes) + 2))
    read = lm.load(model("rec"))
    assert read.task.name == "text-recognition"
    from PIL import Image

    line = np.asarray(Image.open(pages[0]).convert("RGB"))[20:60, 20:320]
    expected = theirs(np.ascontiguousarray(line[:, :, ::-1]), use_det=False, use_rec=True).txts[0]
    assert read(line).text == expected == WORDS[0]


@pytest.mark.parametrize("engine", ["openvino"])
def test_engines_agree(pipe: Any, pages: list[Path], engine: str) -> None:
    other = pipe.with_(**{"find.forward.engine": engine, "read.forward.engine": engine})
    assert [a.text for a in other.run(map(str, pages[:3]))] == [a.text for a in pipe.run(map(str, pages[:3]))]


def test_it_is_recorded_saved_and_opened_as_one(pipe: Any, pages: list[Path], tmp_path: Path) -> None:
    pipe = pipe.with_(**{"find.page.side": 320})
    tree = lm.record(pipe, [str(pages[0])]).root
    stages = {child.name: {step.name for _, step in child.walk()} for child in tree.children}
    assert {"page", "forward", "boxes", "hand on"} <= stages["find"]
    assert {"batch", "forward", "decode"} <= stages["read"]
    pipe.save(tmp_path / "artefact")
    again = lm.load(tmp_path / "artefact")
    assert again(str(pages[1])).text == pipe(str(pages[1])).text


@pytest.mark.slow
def test_the_verbs_take_it(room: Path, pages: list[Path], tmp_path: Path) -> None:
    rows = [
        {"image": str(page), "label": " ".join(WORDS[(n + k) % len(WORDS)] for k in range(1 + n % 3))}
        for n, page in enumerate(pages[:2])
    ]
    data = room / "pages.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    moments("run", room / "read.toml", "--data", data, "--out", tmp_path / "answers.jsonl")
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert WORDS[0] in json.dumps(answers[0])
    assert WORDS[0] in moments("run", room / "read.toml", str(pages[0])).stdout
    worth = moments("weigh", room / "read.toml", "--data", data, "--budget", "8s", "--set", "find.page.side=608").stdout
    assert "find: pages of 480 pixels" in worth


@pytest.mark.slow
def test_improve_finds_something_faster(room: Path, tmp_path: Path) -> None:
    rows = []
    for n in range(36):
        lines = [f"{WORDS[(n + k) % len(WORDS)]} {n}" for k in range(2)]
        rows.append(Example(str(drawn(tmp_path, f"q{n}", lines, (400, 200), 22)), "\n".join(lines)))
    small = lm.load(room / "read.toml", plan={"find.page.side": 192})  # pages of little text, so that the test is quick
    done = lm.improve(small, rows, max_drop=0.2, budget=75, out=tmp_path / "out")
    tried = {name for trial in done.study if trial.status == "ok" for name in trial.plan}
    assert {"find.forward", "read.forward"} <= tried
    assert len([t for t in done.study if t.status == "ok"]) > 2


def test_what_is_no_such_model_is_refused(tmp_path: Path, pages: list[Path]) -> None:
    import onnx
    from onnx import TensorProto, helper

    (tmp_path / "cut.onnx").write_bytes(model("det").read_bytes()[:1000])
    with pytest.raises(ModelError, match="no whole ONNX file"):
        lm.load(tmp_path / "cut.onnx")
    one = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])
    two = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [one], [two])
    onnx.save(helper.make_model(graph), str(tmp_path / "other.onnx"))
    with pytest.raises(ModelError, match="not known here"):
        lm.load(tmp_path / "other.onnx")
    find = lm.load(model("det"))
    with pytest.raises(EngineError, match="int8 needs calibration examples"):
        find.with_(**{"forward.precision": "int8"}).outputs([str(pages[0])])
    with pytest.raises(EngineError, match="came as a graph"):
        load_module(find.model)
    with pytest.raises(DataError, match="no such image"):
        find("nowhere.png")


def test_a_chain_that_could_not_end_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    parts = {"find": lm.load(model("det")), "intent": lm.load(make_model(tmp_path / "m"))}
    with pytest.raises(InputError, match="another stage must come last"):
        lm.chain(parts)
    twice = {"one": parts["find"], "two": lm.load(model("det")), "read": lm.load(model("rec"))}
    with pytest.raises(InputError, match="only one stage"):
        lm.chain(twice)
    for name in ("nowhere.onnx", "nowhere.gguf"):
        with pytest.raises(ModelError, match="there is no such file"):
            lm.load(name)
