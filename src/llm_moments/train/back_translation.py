"""Texts to another language and back, once, ahead of a training (Sennrich et al. 2016, arXiv:1511.06709)."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm_moments.base import schema
from llm_moments.base.atomic import write_atomic
from llm_moments.base.errors import DataError, InputError, MomentsError
from llm_moments.core import NULL, Recorder
from llm_moments.train.data_checks import plain

NAME = "back-translation"
TOGETHER = 16  # sentences of one pass, where the plan says nothing
CHUNK = 128  # texts that are translated, and kept, together
SENTENCE = re.compile(r"(?<=[.!?…。！？])\s+|\s*\n\s*")
FOLDER = "back-translation"


@dataclass
class BackTranslation:
    """Two translating models; `of` gives each text's way there and back, where that says something else.

    there, back: folders of models or artefacts, whose plans say how they translate. languages: "en,de", where the
    models know several. folder: what is translated stays there, by its text, so that a run that is ended goes on with
    the same; None: in memory.
    """

    there: str
    back: str
    languages: str = ""
    folder: Path | None = None
    known: dict[str, str] = field(default_factory=dict)  # text -> its way there and back; "" where there is none
    why: dict[str, str] = field(default_factory=dict)  # text -> same, empty or too long
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.pipes = [_translator(self.there, self.pair), _translator(self.back, self.pair[::-1])]
        if self.folder is not None:
            self.folder = self.folder / self.key
            self._kept()

    def _kept(self) -> None:
        """What was translated before; a damaged file is told, and its texts are translated again."""
        for file in sorted(self.folder.glob("*.json")) if self.folder is not None else ():
            try:
                self._take(schema.read(file, "a list of translations", _checked))
            except DataError as error:
                print(f"note: {error} Its texts are translated again.", file=sys.stderr)

    @property
    def pair(self) -> Sequence[str]:
        if not self.languages:
            return ()
        pair = [code.strip() for code in self.languages.split(",")]
        if len(pair) != 2 or not all(pair):
            raise InputError(f"the languages of a back-translation are two codes such as en,de, not {self.languages!r}")
        return pair

    @property
    def key(self) -> str:
        """Of both models and their plans: equal keys translate equally."""
        said = json.dumps(
            [[pipe.model.digest, pipe.plan.to_dict()] for pipe in self.pipes], sort_keys=True, default=str
        )
        return hashlib.sha256(said.encode()).hexdigest()[:16]

    def of(self, values: Iterable[Any], recorder: Recorder = NULL, tick: Any = None) -> Mapping[str, str]:
        """Translates what is not known yet of texts or pairs of them; the texts that have another wording now."""
        texts = dict.fromkeys(text for value in values for text in ([value] if isinstance(value, str) else value))
        todo = [text for text in texts if text not in self.known]
        start = time.perf_counter()
        with recorder.step(NAME, items=len(texts)):
            for at in range(0, len(todo), CHUNK):
                if tick is not None:
                    tick(None, f"translating there and back: {at:,} of {len(todo):,} texts")
                made = dict(self._chunk(todo[at : at + CHUNK], recorder))
                self._take(made)
                if self.folder is not None:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    said = json.dumps(made)
                    write_atomic(self.folder / f"{hashlib.sha256(said.encode()).hexdigest()[:20]}.json", said)
            recorder.count(**self.counts(texts))
        self.seconds += time.perf_counter() - start
        for pipe in self.pipes:
            pipe.engines.close()
        return {text: self.known[text] for text in texts if self.known[text]}

    def counts(self, texts: Iterable[str]) -> dict[str, int]:
        """How many have another wording, and how many have none, by why."""
        found = {"reworded": 0, "same": 0, "empty": 0, "too_long": 0}
        for text in texts:
            found["reworded" if self.known[text] else self.why[text]] += 1
        return found

    def _take(self, made: Mapping[str, tuple[str, str]]) -> None:
        for text, (result, why) in made.items():
            self.known[text] = result
            if not result:
                self.why[text] = why

    def _chunk(self, texts: Sequence[str], recorder: Recorder) -> Iterator[tuple[str, tuple[str, str]]]:
        """(text, (its other wording, or why there is none)); sentence by sentence, for that is what translators know."""
        parts = {text: [s for s in SENTENCE.split(text) if s.strip()] for text in texts}
        mapped: dict[str, str] = {s: s for text in texts for s in parts[text]}
        long: set[str] = set()
        for pipe in self.pipes:
            sentences = [s for s in dict.fromkeys(mapped.values()) if s.strip()]
            over = set(too_long(pipe, sentences))
            fits = [s for s in sentences if s not in over]
            said = dict(zip(fits, pipe.outputs(fits, recorder)["text"].tolist(), strict=True)) if fits else {}
            long |= {s for s, now in mapped.items() if now in over}
            mapped = {s: said.get(now, "").strip() for s, now in mapped.items()}
        for text in texts:
            made = " ".join(mapped[s] for s in parts[text])
            if any(s in long for s in parts[text]):
                yield text, ("", "too_long")
            elif not parts[text] or not all(mapped[s] for s in parts[text]):
                yield text, ("", "empty")
            elif plain(made) == plain(text):
                yield text, ("", "same")
            else:
                yield text, (made, "")


def too_long(pipe: Any, sentences: Sequence[str]) -> list[str]:
    """Those that the model would cut, so that their end would be lost."""
    from llm_moments.steps.source import languages_of

    most = min(int(pipe.plan.settings("truncate").get("max_length", 0)) or pipe.model.max_length, pipe.model.max_length)
    source = str(pipe.plan.settings("translate").get("source_lang", ""))
    ids = languages_of(pipe.model).encode(sentences, source) if sentences else []
    return [s for s, row in zip(sentences, ids, strict=True) if len(row) > most]


def _checked(data: Any) -> dict[str, tuple[str, str]]:
    """Each text with its other wording, or with why there is none."""
    made = schema.convert(data, dict[str, tuple[str, str]])
    if wrong := [why for result, why in made.values() if not result and why not in ("same", "empty", "too_long")]:
        raise DataError(f"{wrong[0]!r:.40} is no reason for there being no translation")
    return made


def _translator(folder: str, pair: Sequence[str]) -> Any:
    """A pipeline whose rows are sorted by length. InputError where the folder is no translating model."""
    from llm_moments.assembly.load import load

    plan = {"translate.source_lang": pair[0], "translate.target_lang": pair[1]} if pair else None
    try:
        pipe = load(folder)
        if pipe.task.name != "translation":
            raise InputError(f"it is no translating model but one of {pipe.task.name}")
        pipe = pipe.with_(**pipe.task.sorts, **(plan or {}))
        if not pipe.plan.settings("forward").get("streams"):
            pipe = pipe.with_(**{"forward.streams": TOGETHER})
        pipe.steps  # languages that are missing are said before anything begins  # noqa: B018
    except MomentsError as error:
        cure = "" if pair else ". Languages are named by --translate-languages"
        raise InputError(f"{NAME} by {folder}: {error}{cure if 'translate.' in str(error) else ''}") from error
    return pipe


def begun(settings: Any, folder: Path | None) -> BackTranslation | None:
    """The translators of a training's settings, if it has any; InputError for what does not go together."""
    there, back = settings.translate_there, settings.translate_back
    if not (there and back):
        if there or back or settings.translate_languages or settings.augment.get(NAME):
            raise InputError(f"{NAME} takes two models: --translate-there DIR and --translate-back DIR")
        return None
    return BackTranslation(there, back, settings.translate_languages, folder and folder / FOLDER)


def reworded(
    back: BackTranslation | None, settings: Any, values: Sequence[Any], recorder: Recorder = NULL, tick: Any = None
) -> Mapping[str, str]:
    """What the texts of a training become, inside its step `augment`; nothing where that is not asked for."""
    if back is None or not settings.augment.get(NAME):
        return {}
    with recorder.step("augment"):
        return back.of(values, recorder, tick)
