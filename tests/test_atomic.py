"""Kills, races and full disks: what was there stays, or the new is there; never a half of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llm_moments.assembly.artefact import verify
from llm_moments.assembly.load import load
from llm_moments.base.atomic import recover, sibling, write_atomic
from llm_moments.base.errors import InputError, WriteError
from llm_moments.core import Plan
from llm_moments.data.output import AnswerWriter
from llm_moments.improve.study import Study, Trial
from tests.fakes import logits, make_texts


def _python(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


KILLED = """
import os, pathlib, signal, sys
import llm_moments as lm
real, calls = pathlib.Path.rename, []
def rename(self, target):
    done = real(self, target)
    os.kill(os.getpid(), signal.SIGKILL)
pathlib.Path.rename = rename
lm.load(sys.argv[1]).save(sys.argv[2], overwrite=True)
"""


def test_killed_between_the_two_renames_the_old_artefact_is_found_again(tiny_model: Path, tmp_path: Path) -> None:
    target = load(tiny_model).save(tmp_path / "artefact")
    for again in (lambda: load(target), lambda: load(tiny_model).save(target, overwrite=True)):
        child = _python(KILLED, tiny_model, target)
        child.communicate()
        assert child.returncode == -signal.SIGKILL
        assert not target.exists()
        again()
        assert load(target)("good").label
        verify(target)
        assert not (tmp_path / ".artefact.old").exists()


RACE = """
import os, pathlib, sys, time
import llm_moments as lm
pipe = lm.load(sys.argv[1], plan={"forward.engine": "onnxruntime"})
pipe.model.tokenizer
import torch, onnx, onnxruntime, transformers
mine, other = pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
mine.touch()
while not other.exists():
    time.sleep(0.001)
for turn in range(2):
    print(pipe.outputs(["good movie"])["logits"].tolist())
"""


@pytest.mark.slow
def test_two_processes_build_one_graph_and_both_end_well(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOMENTS_CACHE", str(tmp_path / "cache"))
    flags = tmp_path / "one", tmp_path / "two"
    children = [_python(RACE, tiny_model, *order) for order in (flags, flags[::-1])]
    told = [child.communicate() for child in children]
    assert [child.returncode for child in children] == [0, 0], told
    assert told[0][0] == told[1][0]
    stores = [p for p in (tmp_path / "cache").rglob("*") if p.is_dir() and p.parent.parent.name == "cache"]
    assert [p.name for p in stores] == ["onnxruntime-float-whole"]


def test_what_another_process_has_made_meanwhile_stays(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with sibling(store, unless="whole") as mine:
        (mine / "whole").write_text("mine")
        with sibling(store, unless="whole") as theirs:
            (theirs / "whole").write_text("theirs")
    assert (store / "whole").read_text() == "theirs"
    with sibling(store) as third:
        (third / "whole").write_text("third")
    assert (store / "whole").read_text() == "third"
    assert os.listdir(tmp_path) == ["store"]


def test_nothing_is_recovered_that_is_not_lost(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / ".a.old").mkdir()
    recover(tmp_path / "a")
    recover(tmp_path / "b")
    assert sorted(os.listdir(tmp_path)) == [".a.old", "a"]


SMALL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.argv = ["moments", *sys.argv[2:]]
from llm_moments.cli.main import main
main()
"""


@pytest.mark.slow
def test_a_file_that_may_not_grow_ends_run_with_1_and_the_rows_so_far(tiny_model: Path, tmp_path: Path) -> None:
    """A real limit of the system, the nearest thing to a full disk that needs no rights."""
    data, out = tmp_path / "a.jsonl", tmp_path / "answers.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in make_texts(200)))
    options = ("run", tiny_model, "--data", data, "--out", out, "--set", "batch.window=20")
    child = _python(SMALL_DISK, 9000, *options)
    said = child.communicate()[1]
    assert child.returncode == 1, said
    assert f"{out}.partial could not be written" in said
    assert "ulimit" in said
    assert "Traceback" not in said
    assert not out.exists()
    child = _python(SMALL_DISK, 10**9, *options)
    said = child.communicate()[1]
    assert child.returncode == 0, said
    assert "going on after" in said
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == list(range(1, 201))


def _full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("kind", [".jsonl", ".csv", ".parquet"])
def test_a_disk_that_fills_up_while_the_answers_are_finished(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / f"a{kind}"
    with AnswerWriter(out, "one") as writer:
        writer.write([{"id": 1}])
        with monkeypatch.context() as patch:
            patch.setattr("llm_moments.base.atomic.sync", _full)
            with pytest.raises(WriteError, match="disk is full.*kept in"):
                writer.finish()
        assert os.listdir(tmp_path) == [f"a{kind}.partial"]
        writer.finish()
    assert os.listdir(tmp_path) == [out.name]


def test_a_full_disk_leaves_the_old_artefact(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, target = load(tiny_model), tmp_path / "artefact"
    for overwrite in (False, True):
        with monkeypatch.context() as patch:
            patch.setattr("llm_moments.assembly.artefact.shutil.copyfile", _full)
            with pytest.raises(WriteError, match=r"artefact.*disk is full.*Nothing was changed") as told:
                pipe.save(target, overwrite=overwrite)
        assert told.value.exit_code == 1
        assert os.listdir(tmp_path) == (["artefact"] if overwrite else [])
        pipe.save(target, overwrite=True)
        verify(target)


def test_a_full_disk_keeps_the_trials_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study(tmp_path / "study", {"q": 1})
    one, two = Plan(), Plan({"truncate": {"max_length": 8}})
    study.add(Trial(one.to_dict(), one.key, "s"), logits(np.zeros((2, 2))))
    with monkeypatch.context() as patch:
        patch.setattr("llm_moments.improve.study.os.replace", _full)
        with pytest.raises(WriteError, match=r"study.*disk is full.*kept"):
            study.add(Trial(two.to_dict(), two.key, "s"), logits(np.zeros((2, 2))))
    monkeypatch.setattr("llm_moments.base.atomic.os.fsync", _full)
    with pytest.raises(WriteError, match=r"notes.json.*unchanged"):
        study.note("a", 1)
    monkeypatch.undo()
    assert list(Study(tmp_path / "study", {"q": 1}).trials) == [one.key]
    with pytest.raises(WriteError, match="could not be written"):
        write_atomic(tmp_path / "study" / "study.json" / "below", "x")


def test_a_pipe_or_a_device_is_never_replaced(tmp_path: Path) -> None:
    import stat

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match="a device or a pipe"):
        write_atomic(pipe, "text")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert list(tmp_path.iterdir()) == [pipe]
