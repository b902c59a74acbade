"""The trials of a search, kept on disk one by one, so that an interrupted search goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_moments.atomic import write_atomic, writing
from llm_moments.errors import OutputExists


@dataclass(frozen=True)
class Trial:
    """One plan that was tried on the search split.

    seconds: wall time for `n` examples; cost: the objective's value (seconds or bytes, lower is
    better); gain: baseline cost / cost; status: ok, or unavailable with its reason.
    """

    plan: Mapping[str, Any]
    key: str
    stage: str
    status: str = "ok"
    reason: str = ""
    n: int = 0
    seconds: float | None = None
    cost: float | None = None
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    score: float | None = None
    drop: float | None = None
    drop_low: float | None = None
    drop_high: float | None = None
    harmful: int = 0
    beneficial: int = 0
    lossless: bool = False


class Trials(list[Trial]):
    """The trials of a search, as a notebook shows them."""

    def _repr_html_(self) -> str:
        from llm_moments.render.notebook import trials_html

        return trials_html(self)


class Study:
    """A folder with `study.json` (what is searched), `trials.jsonl` and `outputs/KEY.npy`.

    Without a folder it lives in memory. Everything is written as soon as it is known; a line that was
    torn by a crash is dropped and measured again.
    """

    def __init__(self, folder: Path | None, question: Mapping[str, Any]):
        self.folder = folder
        self.trials: dict[str, Trial] = {}
        self._outputs: dict[str, np.ndarray] = {}
        self.notes: dict[str, Any] = {}
        if folder is not None:
            self._start(folder, question)

    def _start(self, folder: Path, question: Mapping[str, Any]) -> None:
        with writing(folder, "Nothing was changed."):
            (folder / "outputs").mkdir(parents=True, exist_ok=True)
        file = folder / "study.json"
        asked = json.loads(json.dumps(question))
        if file.exists() and json.loads(file.read_text(encoding="utf-8")) != asked:
            raise OutputExists(f"{folder}, a study of other data, another model or other options,")
        write_atomic(file, json.dumps(asked, indent=1))
        for line in self._whole_lines(folder / "trials.jsonl"):
            trial = Trial(**line)
            if trial.status != "ok" or (folder / "outputs" / f"{trial.key}.npy").exists():
                self.trials[trial.key] = trial
        notes = folder / "notes.json"
        if notes.exists():
            self.notes = json.loads(notes.read_text(encoding="utf-8"))

    @staticmethod
    def _whole_lines(file: Path) -> list[dict[str, Any]]:
        if not file.exists():
            return []
        raw = file.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        if whole != raw:
            with file.open("r+b") as stream:
                stream.truncate(len(whole))
        return [json.loads(line) for line in whole.splitlines()]

    def add(self, trial: Trial, outputs: np.ndarray | None = None) -> Trial:
        if outputs is not None:
            self._outputs[trial.key] = outputs
        self.trials[trial.key] = trial
        if self.folder is not None:
            with writing(self.folder, "The trials before are kept; the same command goes on from there."):
                self._write(self.folder, trial, outputs)
        return trial

    def _write(self, folder: Path, trial: Trial, outputs: np.ndarray | None) -> None:
        """The outputs first: a trial that is told without them would not be measured again."""
        if outputs is not None:
            temporary = folder / "outputs" / f".{trial.key}.tmp"
            with temporary.open("wb") as stream:
                np.save(stream, outputs)
            os.replace(temporary, folder / "outputs" / f"{trial.key}.npy")
        with (folder / "trials.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(trial)) + "\n")

    def outputs(self, key: str) -> np.ndarray:
        """What the model said under that plan: float32 [n, classes]."""
        if key not in self._outputs and self.folder is not None:
            self._outputs[key] = np.load(self.folder / "outputs" / f"{key}.npy", allow_pickle=False)
        return self._outputs[key]

    def note(self, name: str, value: Any) -> None:
        """A fact that must survive an interruption, such as how often certification was tried."""
        self.notes[name] = value
        if self.folder is not None:
            write_atomic(self.folder / "notes.json", json.dumps(self.notes, indent=1))


def read_trials(folder: Path) -> list[Trial]:
    """The trials of a study that is over, without its outputs; none if the folder has no study."""
    lines = Study._whole_lines(folder / "trials.jsonl")
    latest = {trial.key: trial for trial in (Trial(**line) for line in lines)}
    return [trial for trial in latest.values() if trial.status != "held out"]
