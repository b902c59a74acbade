"""CTranslate2 for encoder-decoders of text: Marian, M2M100, NLLB, T5; converted from a Hugging Face folder or as they are."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from llm_moments.base.errors import EngineError, ModelError
from llm_moments.base.notes import note
from llm_moments.core import NULL, Recorder
from llm_moments.engines.ctranslate2_generate import CTranslate2Generate, opened, workers_of
from llm_moments.engines.export import build
from llm_moments.engines.foreign import failing_as, quiet
from llm_moments.engines.generator import Decoding, Generated, OnText, Prompt
from llm_moments.engines.scoring import Asked, Scored
from llm_moments.models.generation_settings import asked_by

STORED = {"int8": "int8", "int8-bf16": "int8"}  # weights as they lie on the disk; others in float32


class CTranslate2Translate(CTranslate2Generate):
    """One source a prompt; `forward.streams` of them are decoded together, in the order they come.

    forward.threads: of one batch; as many batches run at the same time as there are cores for.
    """

    scoring: ClassVar[bool] = True
    decodes: ClassVar[tuple[str, ...]] = (
        "temperature", "top_p", "top_k", "repetition_penalty", "beams", "length_penalty", "seed",
    )  # fmt: skip

    rules: ClassVar[tuple[str, ...]] = (
        "min_length", "min_new_tokens", "no_repeat_ngram_size", "bad_words_ids", "suppress_tokens",
        "forced_bos_token_id", "forced_eos_token_id",
    )  # fmt: skip

    def __init__(self, model: Any, folder: Path, settings: Mapping[str, Any], asked: Mapping[str, Any] | None = None):
        self.model, self.asked = model, dict(asked or {})
        self.forced_end = self.asked.get("forced_eos_token_id")
        self.begins_with_end = False
        self.streams, self.workers = int(settings.get("streams", 1)), workers_of(settings)
        self.starts = _starts(folder)
        self.source, self.target = (_vocabulary(folder, side) for side in ("source", "target"))
        self.numbers = {token: at for at, token in enumerate(self.target)}

    @classmethod
    def open(
        cls, model: Any, settings: Mapping[str, Any], store: Path, calibration: Any, device: str
    ) -> CTranslate2Translate:
        """A Hugging Face folder is converted first; that is kept in `store`."""
        folder = model.path
        if model.format == "transformers":
            folder = converted(model, store, STORED.get(settings.get("precision", "fp32"), "float32"))
        made = opened("Translator", folder, settings, device, workers_of(settings))
        engine = cls(made, folder, settings, asked_by(model))
        told = {**model.config, **engine.asked}
        ends = told.get("eos_token_id")
        engine.begins_with_end = told.get("decoder_start_token_id") in (ends if isinstance(ends, list) else [ends])
        return engine

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, recorder: Recorder = NULL, on_text: OnText | None = None
    ) -> list[Generated]:
        import ctranslate2

        if on_text is not None:
            raise EngineError("ctranslate2 gives a translation when it is whole; it cannot be told piece by piece")
        if decoding.temperature > 0:
            ctranslate2.set_random_seed(decoding.seed)
        if decoding.repetition_penalty != 1 and self.begins_with_end:
            note(
                f"ctranslate2 does not count the token that answers begin with for repetition_penalty = "
                f"{decoding.repetition_penalty:g}, transformers does; it is the end token here: answers may end sooner"
            )
        size = min(self.streams, -(-len(prompts) // self.workers)) or 1
        groups = [prompts[at : at + size] for at in range(0, len(prompts), size)]
        start = time.perf_counter()
        made = self.at_once(lambda group: self._together(group, decoding), groups)
        # Encoding and decoding are one call here; the time of the first token is not told.
        tokens = sum(len(answer.ids or ()) for some in made for answer in some)
        recorder.spent("translate", time.perf_counter() - start, len(groups), tokens=tokens)
        recorder.count(prompt_tokens=sum(len(p.ids) for p in prompts), new_tokens=tokens)
        return [answer for some in made for answer in some]

    def _together(self, prompts: Sequence[Prompt], decoding: Decoding) -> list[Generated]:
        # A model that forces its end token has that one as its last, of those that it may make.
        most = max(decoding.max_new_tokens - (self.forced_end is not None), 1)
        begun, forced = [p.decoder[self.starts :] for p in prompts], self._forced(prompts[0])
        given = len(begun[0]) - (1 - self.starts)  # CTranslate2 counts them, but for the start
        options: dict[str, Any] = {
            "beam_size": decoding.beams, "max_decoding_length": most + given, "max_input_length": 0,
            "min_decoding_length": min(self._least(prompts[0]) + given, most + given),
            "repetition_penalty": decoding.repetition_penalty, "replace_unknowns": False, **self._ruled(),
        }  # fmt: skip
        if decoding.beams > 1:
            options["length_penalty"] = decoding.length_penalty
        if decoding.temperature > 0:
            options |= {"sampling_temperature": decoding.temperature, "sampling_topp": decoding.top_p}
            options |= {"sampling_topk": decoding.top_k}
        if begun[0] or forced:
            options["target_prefix"] = [[self.target[i] for i in (*one, *forced)] for one in begun]
        sources = [[self.source[i] for i in p.ids] for p in prompts]
        results = self.model.translate_batch(sources, **options)
        return [
            self._answer(one.hypotheses[0][len(some) - (1 - self.starts) :], most)
            for one, some in zip(results, begun, strict=True)
        ]

    def scores(self, asked: Sequence[Asked], detailed: bool = False) -> list[Scored]:
        """By CTranslate2's own scoring, which tells the tokens' log-probabilities and no other token's."""
        begun = [one.ids[self.starts :] for one in asked]
        sources = [[self.source[i] for i in one.prompt.ids] for one in asked]
        targets = [[self.target[i] for i in (*some, *one.told)] for some, one in zip(begun, asked, strict=True)]
        with failing_as("ctranslate2 failed"):
            found = self.model.score_batch(sources, targets, max_input_length=0)
        return [
            Scored(
                np.asarray(result.log_probs[len(some) : len(some) + len(one.told)], np.float64), None,
                len(source) + len(one.told),
            )
            for one, some, source, result in zip(asked, begun, sources, found, strict=True)
        ]  # fmt: skip

    def _forced(self, prompt: Prompt) -> tuple[int, ...]:
        """The first token of every answer, where the folder forces one and the prompt has not begun the answer."""
        found = self.asked.get("forced_bos_token_id")
        found = found[0] if isinstance(found, list) else found
        return () if found is None or prompt.decoder or found >= len(self.target) else (found,)

    def _least(self, prompt: Prompt) -> int:
        """Tokens that an answer has before its end may come; min_length counts those it begins with."""
        told = self.asked.get("min_new_tokens")
        return max(int(self.asked.get("min_length", 0)) - max(len(prompt.decoder), 1), 0) if told is None else int(told)

    def _ruled(self) -> dict[str, Any]:
        never = [*self.asked.get("bad_words_ids", ()), *([one] for one in self.asked.get("suppress_tokens", ()))]
        # What is no token of its own here (Marian's padding) is never made.
        told = [[self.target[i] for i in row] for row in never if max(row) < len(self.target)]
        found: dict[str, Any] = {"no_repeat_ngram_size": int(self.asked.get("no_repeat_ngram_size", 0))}
        ends = self.asked.get("eos_token_id")
        if isinstance(ends, list):
            found["end_token"] = [self.target[i] for i in ends if i < len(self.target)]
        return found | ({"suppress_sequences": told} if told else {})

    def _answer(self, tokens: Sequence[str], most: int) -> Generated:
        ids = [self.numbers[token] for token in tokens]
        return Generated(ids, finish="length" if len(ids) >= most else "stop")


def converted(model: Any, store: Path, weights: str) -> Path:
    """The CTranslate2 folder of a Hugging Face folder: made once, kept in `store`. EngineError if it has no way."""
    from ctranslate2.converters import TransformersConverter

    if model.trust_remote_code:
        raise EngineError("CTranslate2 converts the architectures that it knows; code from a model folder is not run")

    class Checked(TransformersConverter):
        def load_model(self, model_class: Any, model_name_or_path: Any, **kwargs: Any) -> Any:
            kwargs["dtype"] = "float32"
            module = super().load_model(model_class, model_name_or_path, local_files_only=True, **kwargs)
            if module.config.model_type == "bart":
                module.config.normalize_before = False  # the converter asks for what transformers 5 says no more
            if module.config.model_type == "marian":
                _starts_from_nothing(module)
            return module

        def load_tokenizer(self, tokenizer_class: Any, model_name_or_path: Any, **kwargs: Any) -> Any:
            tokenizer = super().load_tokenizer(tokenizer_class, model_name_or_path, local_files_only=True, **kwargs)
            if languages := getattr(tokenizer, "lang_token_to_id", None):
                # transformers 5 lists M2M100's language tokens under another name than the converter looks for
                tokenizer.get_vocab = partial(_with, tokenizer.get_vocab, languages)
            return tokenizer

    def make(folder: Path) -> list[str]:
        with quiet(), failing_as("CTranslate2 cannot convert this model"):
            Checked(str(model.path)).convert(str(folder / "model"), quantization=weights)
        return ["tokens"]

    build(store, make)
    return store / "model"


def _with(vocabulary: Any, more: Mapping[str, int]) -> dict[str, int]:
    return {**vocabulary(), **more}


def _starts_from_nothing(module: Any) -> None:
    """CTranslate2 takes a Marian's last token for padding, and zeros for its embedding: a decoder starts from it."""
    pad, table = module.config.pad_token_id, module.get_decoder().get_input_embeddings().weight
    if pad != len(table) - 1:
        raise EngineError(
            f"this Marian's padding token is number {pad} of {len(table)}; CTranslate2 wants it to be the last"
        )
    if bool((table[pad] != 0).any()):
        raise EngineError(
            "this Marian's decoder starts from a padding token that is not zeros; CTranslate2 would start from zeros"
        )


def _vocabulary(folder: Path, side: str) -> list[str]:
    """Tokens in the order of their ids, which is the Hugging Face tokenizer's own."""
    for name in ("shared_vocabulary", f"{side}_vocabulary"):
        file = folder / f"{name}.json"
        if file.exists():
            return list(json.loads(file.read_text(encoding="utf-8")))
        if file.with_suffix(".txt").exists():
            return file.with_suffix(".txt").read_text(encoding="utf-8").split("\n")
    raise ModelError(f"{folder} has no vocabulary: neither shared_vocabulary.json nor {side}_vocabulary.json")


def _starts(folder: Path) -> int:
    """1 where CTranslate2 sets the start token by itself; 0 where it is the answer's language, which we give (mBART)."""
    try:
        told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / 'config.json'} cannot be read: {error}") from error
    return 0 if told.get("decoder_start_token", "") is None else 1
