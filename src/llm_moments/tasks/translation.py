"""Translation: a sequence-to-sequence model (Marian, M2M100, NLLB, T5) turns a text into another language."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llm_moments.base.errors import DataError
from llm_moments.core import NULL, Batch, Change, Knob, Outputs, Pipeline, Plan, SampleSizes, Step, whole
from llm_moments.core.parts import Part, Parts
from llm_moments.engines.generator import Prompt
from llm_moments.models.generation_settings import asked_by, decoding_of
from llm_moments.steps.decode import Decode
from llm_moments.steps.dialogue_parts import prompt_parts
from llm_moments.steps.overflow import fails
from llm_moments.steps.source import CutSource, SourcePrompts, TokenizeSource, Translate, languages_of
from llm_moments.tasks.extents import shorter
from llm_moments.tasks.generation import BATCH, whole_text
from llm_moments.tasks.text_support import TextSupport

NEW_TOKENS = 256  # where a model does not say how long its answers may become
WINDOW = Knob("window", 256, (64, 256, 1024), True, whole(1, 100_000), "rows that are sorted together")


class Translation(TextSupport):
    """Inputs are texts (a `source` column of a file), answers and references texts (`target`)."""

    name = "translation"
    sizes = SampleSizes(256, 8, 4, {"search": 60, "certify": 150}, {"calibrate": 32, "search": 400, "certify": 2000})

    def steps(self, plan: Plan, engines: Any) -> list[Step]:
        languages = languages_of(self.model)
        source, target, prefix = languages.chosen(plan.settings("translate"))
        most = min(int(plan.settings("truncate").get("max_length", 0)) or self.model.max_length, self.model.max_length)
        begin = languages.beginning(start_token(self.model), target) if languages.begins else ()
        return [
            Translate(prefix, bool(hasattr(languages.tokenizer, "supported_language_codes") and not languages.codes)),
            TokenizeSource(languages, source),
            CutSource(most, languages.closing, languages.tokenizer.truncation_side == "left", not fails(plan.settings("truncate"))),
            SourcePrompts(begin),
            Decode(
                plan.settings("forward"), plan.settings("decode"), engines, languages.decode,
                plan.settings("batch").get("order") == "length", (start_token(self.model),),
            ),
        ]  # fmt: skip

    def knobs(self) -> Mapping[str, Sequence[Knob]]:
        base = self.base_knobs()
        return {
            "translate": Translate.knobs, "tokenize": (), "truncate": CutSource.knobs, **base,
            "batch": (*BATCH, WINDOW),
        }  # fmt: skip

    def stock(self) -> dict[str, dict[str, Any]]:
        """transformers' `generate` as the model's own generation_config has it (Marian: 4 beams), one row a call."""
        asked = asked_by(self.model)
        known = {n.name for n in Translate.knobs}
        languages = {k: v for k, v in self.model.notes.get("translate", {}).items() if k in known}
        if target := forced_language(self.model, asked):
            languages.setdefault("target_lang", target)
        return {
            "translate": languages,
            "forward": {"engine": "ctranslate2" if self.model.format == "ctranslate2" else "transformers", "precision": "fp32"},
            "decode": {
                "beams": 1, "length_penalty": 1.0, **decoding_of(asked),
                "max_new_tokens": self._new_tokens(self.model, asked, languages),
            },
        }  # fmt: skip

    @staticmethod
    def _new_tokens(model: Any, asked: Mapping[str, Any], languages: Mapping[str, Any]) -> int:
        """max_length counts the token that every answer begins with and, where there is one, that of its language."""
        begun = 2 if languages.get("target_lang") and languages_of(model).begins else 1
        told = asked.get("max_new_tokens") or asked.get("max_length", NEW_TOKENS + begun) - begun
        return max(min(int(told), positions(model) - begun), 1)

    def normalise(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            value = next((value[k] for k in ("source", "text", "src") if k in value), None)
        if not whole_text(value, "a text to translate").strip():
            raise DataError("a text to translate is empty")
        return value

    # -- what an answer rests on

    part_kinds = ("pieces", "paragraphs", "sentences", "words")

    def divided(self, value: Any, kind: str) -> Parts:
        return prompt_parts(value, kind, asks=False)

    def before(self, prompt: Prompt) -> tuple[int, ...]:
        return prompt.decoder or (start_token(self.model),)

    def tokens_of(self, prompt: Prompt, text: str) -> list[int]:
        """As the tokenizer writes a translation, without the language's token before it and the end after it."""
        languages = languages_of(self.model)
        (ids,) = languages.answer([text])
        special = {*languages.closing, *self.before(prompt)}
        return [token for token in ids if token not in special]

    def scored_by(self, engine: Any) -> bool:
        return bool(engine.scoring) or engine.name == "ctranslate2"  # which opens a translator for such a model

    def text_of(self, tokens: Sequence[int]) -> str:
        return languages_of(self.model).decode(tokens)

    def unseen(self, pipe: Pipeline, value: Any) -> list[Part]:
        """The end of a source that is cut, from the word on at which there is no room any more."""
        translate, tokenize, cut = pipe.steps[:3]

        def fits(at: int) -> bool:
            batch = tokenize(translate(Batch(1, {"input": [value[:at]]}), NULL), NULL)
            return cut(batch, NULL)["ids"] == batch["ids"]

        if fits(len(value)):
            return []
        starts = [found.start() for found in re.finditer(r"\S+", value)]
        first = bisect.bisect_left(starts, True, key=lambda at: not fits(at))
        begin = starts[max(first - 1, 0)]
        return [Part(value[begin:], ("text", begin, len(value)))]

    def widest(self, pipe: Pipeline, value: Any) -> Mapping[str, Any] | None:
        return {"truncate.max_length": None} if pipe.plan.settings("truncate").get("max_length") else None

    # -- what a search may change

    def changes(self, plan: Plan) -> list[Change]:
        forward, decode = plan.settings("forward"), plan.settings("decode")
        found: list[Change] = [
            Change(f"sorted by length, {n} together", {"batch.order": "length", "forward.streams": n}, True)
            for n in (8, 32, 64)
        ]
        if forward.get("engine") != "ctranslate2" and not forward.get("skip_layers"):
            fast = {"forward.engine": "ctranslate2", "batch.order": "length", "forward.streams": 32}
            # With beams the two engines may stop looking at different moments: not the same answers for certain.
            same = int(decode.get("beams", 1)) == 1
            found.append(Change("CTranslate2 fp32", {**fast, "forward.precision": "fp32"}, same))
            found += [
                Change(f"CTranslate2 {p}", {**fast, "forward.precision": p}, False)
                for p in ("int8", "int8-bf16", "bf16")
            ]
        if forward.get("engine") == "ctranslate2" and not forward.get("threads"):
            found.append(Change("one thread a batch, a batch a core", {"forward.threads": 1}, True))
        found += [Change(f"{n} beams", {"decode.beams": n}, False) for n in (2, 1) if n < int(decode.get("beams", 1))]
        return found

    def alternatives(self, plan: Plan) -> list[Change]:
        decode, found = plan.settings("decode"), self.changes(plan)
        beams, new = int(decode.get("beams", 1)), int(decode.get("max_new_tokens", NEW_TOKENS))
        found += [Change(f"{n} beams", {"decode.beams": n}, False) for n in (4, 5, 8) if n > beams][:1]
        if beams > 1:
            found += [Change(f"length penalty {p}", {"decode.length_penalty": p}, False) for p in (0.6, 1.4)]
        found += [Change(f"at most {n} tokens", {"decode.max_new_tokens": n}, False) for n in (32, 64, 128) if n < new]
        found.append(Change("torch bf16", {"forward.precision": "bf16"}, False))
        return [one for one in found if plan.with_(**one.choices) != plan]

    def inputs(self, pipe: Pipeline, values: Sequence[Any]) -> Iterator[Change]:
        return shorter(pipe, max(len(self.model.tokenizer(str(v))["input_ids"]) for v in values))

    def beside(self, outputs: Outputs, references: Sequence[Any]) -> dict[str, float]:
        """Figures of all answers together, as papers give them: chrF and BLEU of the corpus, exact matches."""
        from llm_moments.tasks.metrics import corpus_scores

        return corpus_scores([str(o) for o in outputs["text"]], [str(r) for r in references])


def forced_language(model: Any, asked: Mapping[str, Any]) -> str:
    """The code of the language that a folder of many makes every answer begin with (forced_bos_token_id); else ''."""
    forced = asked.get("forced_bos_token_id")
    if not isinstance(forced, int) or model.format != "transformers":
        return ""
    languages = languages_of(model)
    return next((code for code in languages.codes if languages.token(code) == forced), "") if languages.begins else ""


def positions(model: Any) -> int:
    """Most tokens of an answer, its first one included; a model of relative positions has no bound of its own."""
    return int(next((model.config[k] for k in ("max_position_embeddings", "n_positions") if model.config.get(k)), 512))


def start_token(model: Any) -> int:
    told = {**model.config, **asked_by(model)}
    found = next(told[k] for k in ("decoder_start_token_id", "bos_token_id", "eos_token_id") if told.get(k) is not None)
    return int(found[0] if isinstance(found, list) else found)
