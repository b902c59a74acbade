"""The trials of a search, kept on disk one by one, so that an interrupted search goes on."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from llm_moments.base import schema
from llm_moments.base.atomic import write_atomic, writing
from llm_moments.base.errors import ArtefactError, DataError, OutputExists
from llm_moments.base.views import drawn
from llm_moments.core import Outputs, Plan
from llm_moments.core import outputs_file as answers
from llm_moments.improve import noted
from llm_moments.improve.certify import Look

FORMAT = 2  # each trial tells the digest of its outputs; 1 did not
ANEW = "Begin anew with --overwrite, or choose another place."


@dataclass(frozen=True)
class Trial:
    """One plan that was tried on the search split.

    seconds: wall time for `n` examples; cost: the objective's value (seconds or bytes, lower is
    better); gain: baseline cost / cost; status: ok, or unavailable with its reason; held out: answers to other rows.
    """

    plan: Mapping[str, Mapping[str, Any]]
    key: str
    stage: str
    status: Literal["ok", "unavailable", "held out"] = "ok"
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


@dataclass(frozen=True)
class _Line(Trial):
    """A trial as it is written. outputs: SHA-256 of the file with its outputs."""

    outputs: str = ""

    @property
    def trial(self) -> Trial:
        return Trial(**{f.name: getattr(self, f.name) for f in fields(Trial)})


class Trials(list[Trial]):
    """The trials of a search, as a notebook shows them."""

    def _repr_html_(self) -> str:
        return drawn("trials", self)


class Study:
    """A folder with `study.json` (what is searched), `trials.jsonl`, `notes.json` and `outputs/KEY.npy` (or .jsonl: texts).

    Without a folder it lives in memory. Everything is written as soon as it is known. A trial whose line or outputs
    cannot be used is told on stderr and measured again; looks that are not those at the stored answers are refused.
    """

    def __init__(self, folder: Path | None, question: Mapping[str, Any]):
        self.folder = folder
        self.trials: dict[str, Trial] = {}
        self._outputs: dict[str, Outputs] = {}
        self._digests: dict[str, str] = {}
        self.notes: dict[str, Any] = {}
        if folder is not None:
            self._start(folder, question)

    def _start(self, folder: Path, question: Mapping[str, Any]) -> None:
        with writing(folder, "Nothing was changed."):
            (folder / "outputs").mkdir(parents=True, exist_ok=True)
        version = self._question(folder, json.loads(json.dumps(question)))
        _drop_torn_line(folder / "trials.jsonl")
        lines = _lines(folder / "trials.jsonl", "that plan is tried again")
        for line in {line.key: line for line in lines}.values():  # of a plan that was told again, the last one
            self._take(folder, line, version)
        if (folder / "notes.json").exists():
            try:
                self.notes = schema.read(folder / "notes.json", "the notes of a study", noted.checked, ArtefactError)
            except ArtefactError as error:
                raise ArtefactError(f"{error} {ANEW}") from error
        self._agree(folder, version)

    def _question(self, folder: Path, asked: dict[str, Any]) -> int:
        """The format of the study; OutputExists where it is of another question."""
        file = folder / "study.json"
        if not file.exists():
            if (folder / "trials.jsonl").exists() or (folder / "notes.json").exists():
                raise ArtefactError(f"{folder} has trials but no study.json, which says what they are of. {ANEW}")
            write_atomic(file, json.dumps({"format": FORMAT, **asked}, indent=1))
            return FORMAT
        try:
            found = schema.read(file, "the question of a study", _named, ArtefactError)
        except ArtefactError as error:
            raise ArtefactError(f"{error} {ANEW}") from error
        version = found.pop("format", 1)
        if found != asked:
            raise OutputExists(f"{folder}, a study of other data, another model or other options,")
        if version not in (1, FORMAT) or isinstance(version, bool):
            raise ArtefactError(f"{file} has format {version!r}; this version goes on with {FORMAT}. {ANEW}")
        return int(version)

    def _take(self, folder: Path, line: _Line, version: int) -> None:
        """The trial of a line, if what it says of its outputs is true."""
        self.trials.pop(line.key, None)
        self._digests.pop(line.key, None)
        if line.status != "unavailable":
            try:
                self._digests[line.key] = self._checked(folder, line, version)
            except DataError as error:
                say(f"{folder}: the outputs of plan {line.key} cannot be used ({error}); it is tried again.")
                return
        self.trials[line.key] = line.trial

    def _checked(self, folder: Path, line: _Line, version: int) -> str:
        """The digest of the outputs that are stored for a trial."""
        file = _file(folder, line.key)
        if file is None:
            raise DataError("they are missing")
        try:
            found = answers.digest(file.read_bytes())
        except OSError as error:
            raise DataError(error.strerror or str(error)) from error
        if version == 1 and not line.outputs:
            outputs = answers.read(file)
            if line.n and len(outputs) != line.n:
                raise DataError(f"{file.name} does not hold {line.n} rows")
        elif found != line.outputs:
            raise DataError(f"{file.name} is not what was written")
        return found

    def _agree(self, folder: Path, version: int) -> None:
        """Notes that name a trial which cannot be used are dropped; with looks, the study is refused."""
        looks, judged = self.notes.get("looks", []), self.notes.get("judged", [])
        if self.notes.get("hand") not in self.trials:
            self.notes.pop("hand", None)
        lost = [key for key in self.notes.get("sequence", []) if key not in self.trials]
        why = f"plan {lost[0]}, which was to be looked at, has no usable trial" if lost else ""
        if looks or judged:
            why = noted.wrong_with(looks, self.notes, self._digests, version == FORMAT) or why
        if why and (looks or judged):
            raise ArtefactError(
                f"{folder}: the looks at the certification examples do not belong to the stored answers: {why}. {ANEW}"
            )
        if lost:
            del self.notes["sequence"]

    def add(self, trial: Trial, outputs: Outputs | None = None) -> Trial:
        if outputs is not None:
            self._outputs[trial.key] = outputs
        if self.folder is not None:
            with writing(self.folder, "The trials before are kept; the same command goes on from there."):
                self._write(self.folder, trial, outputs)
        self.trials[trial.key] = trial
        return trial

    def _write(self, folder: Path, trial: Trial, outputs: Outputs | None) -> None:
        """The outputs first: a trial that is told without them would not be measured again."""
        line = _Line(**asdict(trial))
        if outputs is not None:
            suffix, raw = answers.write(outputs)
            line = _Line(**asdict(trial), outputs=answers.digest(raw))
            temporary = folder / "outputs" / f".{trial.key}.tmp"
            temporary.write_bytes(raw)
            os.replace(temporary, folder / "outputs" / f"{trial.key}{suffix}")
            self._digests[trial.key] = line.outputs
        elif trial.key in self._digests:  # told anew, with the outputs that are there
            line = _Line(**asdict(trial), outputs=self._digests[trial.key])
        with (folder / "trials.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(line)) + "\n")

    def outputs(self, key: str) -> Outputs:
        """What the model said under that plan."""
        if key not in self._outputs:
            file = _file(self.folder, key) if self.folder is not None else None
            try:
                if file is None:
                    raise DataError("they are missing")
                self._outputs[key] = answers.read(file)
            except DataError as error:
                raise ArtefactError(
                    f"{self.folder}: the outputs of plan {key} cannot be read: {error}. {ANEW}"
                ) from error
        return self._outputs[key]

    def note(self, name: str, value: Any) -> None:
        """A fact that must survive an interruption; its name and type are in `noted.NOTES`."""
        self._note({name: value})

    def look(self, found: Look, plan: Mapping[str, Any], outputs: Outputs) -> None:
        """Notes a look together with the answers that it judged, which are stored with the others."""
        self.add(Trial(plan, noted.answers_of(found.key), "certify", "held out", n=len(outputs)), outputs)
        made = noted.plain(found)
        digests = (self._digests.get(key, "") for key in ("certify", noted.answers_of(found.key)))
        looks = self.notes.get("looks", [])
        judged = self.notes.get("judged", [""] * len(looks))
        self._note({"looks": [*looks, made], "judged": [*judged, noted.seal(made, *digests)]})

    def _note(self, new: Mapping[str, Any]) -> None:
        noted.checked(json.loads(json.dumps(new)))
        self.notes = {**self.notes, **new}
        if self.folder is not None:
            write_atomic(self.folder / "notes.json", json.dumps(self.notes, indent=1))


def read_trials(folder: Path) -> list[Trial]:
    """The trials of a study that is over, without its outputs; none if the folder has no study."""
    latest = {line.key: line.trial for line in _lines(folder / "trials.jsonl", "it is left out")}
    return [trial for trial in latest.values() if trial.status != "held out"]


def _named(data: Any) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise DataError("it holds no values by their names")
    return dict(data)


def _file(folder: Path, key: str) -> Path | None:
    """Of two kinds of outputs under one key, which a plan cannot have: the one written last."""
    known = [folder / "outputs" / f"{key}{suffix}" for suffix in (answers.NUMBERS, answers.ROWS)]
    return max((f for f in known if f.is_file()), key=lambda f: f.stat().st_mtime_ns, default=None)


def _lines(file: Path, otherwise: str) -> Iterator[_Line]:
    """Each whole line that is a trial; of every other one it is said why it is none."""
    if not file.is_file():
        return
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise ArtefactError(f"{file} cannot be read: {error.strerror}") from error
    for number, line in enumerate(raw[: raw.rfind(b"\n") + 1].split(b"\n")[:-1], 1):
        try:
            yield _checked_line(line)
        except DataError as error:
            say(f"{file}, line {number} is no trial ({error}); {otherwise}.")


def _checked_line(raw: bytes) -> _Line:
    """DataError where the plan and the key, by which it is known and its outputs are found, do not agree."""
    line = schema.convert(schema.parse(raw), _Line)
    key = Plan(line.plan).key
    if line.key not in ((*noted.BASELINE, noted.answers_of(key)) if line.status == "held out" else (key,)):
        raise DataError(f"its plan has the key {key}, not {line.key!r:.40}")
    return line


def _drop_torn_line(file: Path) -> None:
    """What a crash left of a line goes, so that the next one does not continue it."""
    if not file.is_file():
        return
    raw = file.read_bytes()
    if not raw.endswith(b"\n") and raw:
        with writing(file, "Nothing was changed."), file.open("r+b") as stream:
            stream.truncate(raw.rfind(b"\n") + 1)


def say(note: str) -> None:
    print(f"note: {note}", file=sys.stderr)
