"""Whisper's tokens: what a transcript begins with, times inside it, its text; for Hugging Face and CTranslate2 folders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from llm_moments.base.errors import EngineMissing, ModelError, PlanError

TICK_S = 0.02  # seconds from one timestamp token to the next
ENGLISH_START = 50257  # <|startoftranscript|> of the models that know English only; 50258 in all others


class SpeechTokens:
    def __init__(self, model: Any):
        self.name, self.tokenizer = model.name, _tokenizer(model)
        start = self.id("<|startoftranscript|>")
        if start is None:
            raise ModelError(f"{model.name}: its tokenizer has no <|startoftranscript|>, so it is no Whisper model")
        self.start = start

    def id(self, token: str) -> int | None:
        return self.tokenizer.token_to_id(token)  # type: ignore[no-any-return]

    @cached_property
    def languages(self) -> dict[str, int]:
        """Codes and tokens of the languages it knows; none of a model for English only."""
        if self.start == ENGLISH_START:
            return {}
        found = ((re.fullmatch(r"<\|([a-z]{2,3})\|>", token), at) for token, at in self.tokenizer.get_vocab().items())
        return {match[1]: at for match, at in found if match}

    def code(self, said: str) -> str:
        """The code of a language said as `de`, `<|de|>` or `German`; ModelError where this model does not know it."""
        plain = said.strip().lower().removeprefix("<|").removesuffix("|>")
        if plain not in self.languages:
            from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

            plain = TO_LANGUAGE_CODE.get(plain, plain)
        if plain not in self.languages:
            raise ModelError(
                f"{self.name}: generation_config.json asks for the language {said!r:.40}, which it does not know; it knows "
                f"{', '.join(sorted(self.languages))}"
            )
        return plain

    @property
    def times(self) -> int | None:
        """Token of the time 0.00; those after it are TICK_S apart."""
        none = self.id("<|notimestamps|>")
        return None if none is None else none + 1

    def prompt(self, language: str, task: str, timestamps: bool) -> tuple[int, ...]:
        """What the decoder is given to begin with; PlanError for a language or task the model does not know."""
        ids = [self.start]
        if self.languages:
            if language not in self.languages:
                raise PlanError(
                    f"{self.name} does not know the language {language!r}; it knows {', '.join(sorted(self.languages))}"
                )
            ids += [self.languages[language], self._known(f"<|{task}|>")]
        elif language not in ("", "en") or task != "transcribe":
            raise PlanError(f"{self.name} writes down English only; it cannot {task} {language or 'speech'!r}")
        if not timestamps:
            ids.append(self._known("<|notimestamps|>"))
        return tuple(ids)

    def _known(self, token: str) -> int:
        found = self.id(token)
        if found is None:
            raise ModelError(f"{self.name}: its tokenizer has no {token}")
        return found

    def words(self, ids: Sequence[int]) -> list[int]:
        """The ids without those of times."""
        first = self.times
        return [i for i in ids if first is None or i < first]

    def raw(self, ids: Sequence[int]) -> str:
        """The text with the space that it begins with."""
        return str(self.tokenizer.decode(self.words(ids), skip_special_tokens=True))

    def text(self, ids: Sequence[int]) -> str:
        return self.raw(ids).strip()

    def timed(self, ids: Sequence[int], length: float) -> list[tuple[float, float, list[int]]]:
        """(begin, end, ids of the text) in seconds, of ids with time tokens; what no pair of times encloses goes to the
        end."""
        first, begin, words = self.times, 0.0, []
        found: list[tuple[float, float, list[int]]] = []
        for i in ids:
            if first is None or i < first:
                words.append(i)
                continue
            at = min((i - first) * TICK_S, length)
            if words:
                found.append((begin, max(at, begin), words))
                words = []
            begin = at
        if words:
            found.append((begin, max(length, begin), words))
        return found


def _tokenizer(model: Any) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise EngineMissing("tokenizers", "speech") from error
    file = model.path / "tokenizer.json"
    if file.is_file():
        try:
            return Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises no narrower class
            raise ModelError(f"{file} cannot be read: {error}") from error
    if model.format == "ctranslate2":
        raise ModelError(f"{model.path} has no tokenizer.json; copy that of the model it was converted from")
    return model.tokenizer.backend_tokenizer
