"""OpenVINO GenAI on the CPU: continuous batching, paged keys and values, prompt lookup, a draft model.

The graph is exported from transformers' module (causal_export.py), for GGUF files too: GenAI's own GGUF reader rounds
Q4_1's block minimum to a whole zero point, and every weight with it.

With weights in fewer bits (int8, int4, as-is) activations are rounded to eight bits in blocks, too, as llama.cpp does,
where the weights' zero point is whole; in fp32 and bf16 nothing else is rounded.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from llm_moments.base.atomic import remove
from llm_moments.base.cache import cache_folder, used
from llm_moments.base.errors import EngineError
from llm_moments.core import NULL, Recorder
from llm_moments.engines.causal_proof import FILE as PROOF
from llm_moments.engines.causal_proof import prove
from llm_moments.engines.dequantised import KEPT
from llm_moments.engines.export import build
from llm_moments.engines.foreign import failing_as
from llm_moments.engines.genai_graph import ENCODES, GRAPH, export
from llm_moments.engines.generator import STEPS, Decoding, Generated, Generator, OnText, Prompt
from llm_moments.engines.grids import BLOCK
from llm_moments.engines.text_watch import TextWatch
from llm_moments.models.generation_settings import asked_by

KV = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "u8", "int4": "u4"}
GUESSES = 4  # tokens a draft model is ahead
NGRAM = 3  # tokens that must be the same before a guess is taken from the prompt


class OpenVinoGenAI(Generator):
    name: ClassVar[str] = "openvino-genai"
    extra: ClassVar[str] = "openvino-genai"
    package: ClassVar[str] = "openvino_genai,openvino,torch,transformers"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16", "int8", "int4", "as-is")
    takes: ClassVar[tuple[str, ...]] = ("threads", "streams", "kv_precision", "prefix_reuse", "draft", "skip_layers")
    decodes: ClassVar[tuple[str, ...]] = (
        "temperature", "top_p", "top_k", "repetition_penalty", "seed", "stop", "lookup",
        "json_schema",
    )  # fmt: skip
    rules: ClassVar[tuple[str, ...]] = ("min_length", "min_new_tokens")
    formats: ClassVar[tuple[str, ...]] = ("transformers", "gguf")
    cpu_only: ClassVar[bool] = True
    builds: ClassVar[bool] = True

    def __init__(
        self, folder: Path, draft: Path | None, settings: Mapping[str, Any], tokenizer: Any,
        asked: Mapping[str, Any] | None = None,
    ):  # fmt: skip
        self.folder, self.draft, self.tokenizer, self.asked = folder, draft, tokenizer, asked or {}
        self.streams, self.reuse = int(settings.get("streams", 1)), bool(settings.get("prefix_reuse"))
        self.options = _options(settings)
        self._pipeline: tuple[bool, Any] | None = None  # whether it looks up guesses, and the pipeline
        self._request: Any = None
        self._asked = 0

    @classmethod
    def open(cls, model: Any, settings: Mapping[str, Any], store: Path, calibration: Any, device: str) -> OpenVinoGenAI:
        from llm_moments.engines.base import built_key

        with failing_as("OpenVINO GenAI cannot take this model"):
            whole = store.parent / built_key({**settings, "precision": "fp32"})
            if store == whole and not (store / PROOF).exists() and cache_folder() in store.parents:
                remove(store)  # of a version that proved nothing
            build(store, lambda folder: _built(folder, model, settings, whole if store != whole else None))
            used(store, KEPT)
            draft = _draft_of(settings) if settings.get("draft") else None
            engine = cls(store, draft, settings, model.tokenizer, asked_by(model))
            engine.pipeline(lookup=False)
        return engine

    @classmethod
    def refuses(cls, model: Any, settings: Mapping[str, Any]) -> str:
        if model.format not in cls.formats:
            return f"openvino-genai reads no {model.format} model; its own engine does"
        if model.config.get("is_encoder_decoder"):
            return ENCODES
        try:
            _options(settings)
        except EngineError as error:
            return str(error)
        return ""

    def pipeline(self, *, lookup: bool) -> Any:
        """Of the two kinds, plain and guessing from the prompt, the one last asked for stays open."""
        import openvino_genai as genai

        if (lookup or self.draft is not None) and not (self.folder / "openvino_tokenizer.xml").exists():
            raise EngineError(
                "openvino-genai guesses tokens only with a tokenizer that openvino_tokenizers can convert, which this "
                "model's is not; unset decode.lookup and forward.draft"
            )
        if self._pipeline is None or self._pipeline[0] != lookup:
            self._pipeline = None
            plan = genai.SchedulerConfig()
            plan.cache_size = 0  # grows with what is asked
            plan.max_num_seqs = self.streams
            plan.enable_prefix_caching = self.reuse
            options = dict(self.options)
            if lookup:
                options["prompt_lookup"] = True
            if self.draft is not None:
                options["draft_model"] = genai.draft_model(str(self.draft), "CPU", **self.options)
            self._pipeline = lookup, genai.ContinuousBatchingPipeline(str(self.folder), plan, "CPU", options)
            self._asked = 0
        return self._pipeline[1]

    # -- answers

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, recorder: Recorder = NULL, on_text: OnText | None = None
    ) -> list[Generated]:
        if decoding.lookup and self.draft is not None:
            raise EngineError(
                "openvino-genai guesses from the prompt or by a draft model: unset decode.lookup or forward.draft"
            )
        if any(not p.ids for p in prompts):
            raise EngineError("openvino-genai needs at least one token of prompt")
        with failing_as("OpenVINO GenAI failed"):
            pipeline = self.pipeline(lookup=bool(decoding.lookup))
            return _Run(self, pipeline, prompts, decoding, recorder, on_text).answers()

    def config(self, decoding: Decoding, pipeline: Any, prompt: Prompt) -> Any:
        config = pipeline.get_config()
        config.max_new_tokens = prompt.limit(decoding)
        least = self.asked.get("min_new_tokens")
        least = self.asked.get("min_length", 0) - len(prompt.ids) if least is None else least
        config.min_new_tokens = min(max(int(least), 0), config.max_new_tokens)
        config.do_sample = decoding.temperature > 0
        config.repetition_penalty = decoding.repetition_penalty
        if config.do_sample:
            config.temperature, config.top_p, config.rng_seed = decoding.temperature, decoding.top_p, decoding.seed
            if decoding.top_k:
                config.top_k = decoding.top_k
        if decoding.json_schema:
            config.structured_output_config = self.kept_to(decoding)
        if decoding.lookup:
            config.num_assistant_tokens, config.max_ngram_size = decoding.lookup, NGRAM
        elif self.draft is not None:
            config.num_assistant_tokens = GUESSES
        return config

    def kept_to(self, decoding: Decoding) -> Any:
        """What makes answers keep to a JSON schema: xgrammar, inside GenAI, by GenAI's own form of the tokenizer. It lets any
        white space stand where JSON does."""
        import openvino_genai as genai

        if decoding.lookup or self.draft is not None:
            raise EngineError(
                "openvino-genai guesses no tokens of an answer that keeps to decode.json_schema; unset decode.lookup, forward.draft"
            )
        if not (self.folder / "openvino_tokenizer.xml").exists():
            raise EngineError(
                "openvino-genai keeps to decode.json_schema only with a tokenizer that openvino_tokenizers can convert, which "
                "this model's is not; take it back, or use transformers"
            )
        return genai.StructuredOutputConfig(json_schema=decoding.json_schema)

    def next_number(self) -> int:
        self._asked += 1
        return self._asked

    # -- likelihood

    def logprobs(self, ids: Sequence[int], start: int, prompt: Prompt | None = None) -> np.ndarray:
        if not 1 <= start < len(ids):
            raise EngineError(f"log-probabilities are told from the second token on, not from {start} of {len(ids)}")
        with failing_as("OpenVINO failed"):
            request = self._forward()
            request.reset_state()
            tokens = np.array([ids], np.int64)[:, :-1]
            length = tokens.shape[1]
            given = {
                "input_ids": tokens, "attention_mask": np.ones_like(tokens),
                "position_ids": np.arange(length, dtype=np.int64)[None], "beam_idx": np.zeros(1, np.int32),
            }  # fmt: skip
            logits = np.array(request.infer(given)[0][0, start - 1 :], np.float32)
            request.reset_state()
        logits -= logits.max(-1, keepdims=True)
        return np.asarray(logits - np.log(np.exp(logits).sum(-1, keepdims=True, dtype=np.float64)), np.float32)

    def _forward(self) -> Any:
        """The same graph with the same settings, outside of GenAI, which shows no logits."""
        import openvino as ov

        if self._request is None:
            self._request = (
                ov.Core().compile_model(str(self.folder / GRAPH), "CPU", self.options).create_infer_request()
            )
        return self._request

    def forget(self) -> None:
        """GenAI cannot be told to drop its cache, so that the pipeline is opened anew if it was asked anything."""
        if self.reuse and self._asked and self._pipeline is not None:
            lookup, self._pipeline = self._pipeline[0], None
            self.pipeline(lookup=lookup)

    def close(self) -> None:
        self._pipeline = self._request = None


class _Run:
    """One call of `generate`: so many requests at a time as there are streams, in the order of the prompts."""

    def __init__(
        self, engine: OpenVinoGenAI, pipeline: Any, prompts: Sequence[Prompt], decoding: Decoding,
        recorder: Recorder, on_text: OnText | None,
    ):  # fmt: skip
        self.engine, self.pipeline, self.prompts, self.recorder = engine, pipeline, prompts, recorder
        self.configs = [engine.config(decoding, pipeline, prompt) for prompt in prompts]
        self.ends = {end for one in self.configs[:1] for end in (*one.stop_token_ids, one.eos_token_id)}
        self.made = [Generated([], finish="length", reused=None if engine.reuse else 0) for _ in prompts]
        self.watch = TextWatch(engine.tokenizer, decoding.stop, on_text)
        self.waiting = deque(range(len(prompts)))
        self.open: dict[int, tuple[Any, float]] = {}
        self.reads = [0] * len(prompts)  # steps that gave a prompt's answer some tokens
        self.guesses = bool(decoding.lookup) or engine.draft is not None

    def answers(self) -> list[Generated]:
        spent, steps = {"prefill": 0.0, "decode": 0.0}, {"prefill": 0, "decode": 0}
        try:
            while self.waiting or self.open:
                self._ask()
                kind = "prefill" if any(self.made[at].first_s is None for at in self.open) else "decode"
                begun = time.perf_counter()
                self.pipeline.step()
                now = time.perf_counter()
                spent[kind] += now - begun
                steps[kind] += 1
                self.recorder.ran(STEPS[kind], begun, now - begun, prompts=len(self.open))
                for at in list(self.open):
                    self._read(at, now)
        finally:
            for handle, _ in self.open.values():  # what is left by an error or by Ctrl-C
                handle.cancel()
        read, new = sum(len(p.ids) for p in self.prompts), sum(len(one.ids or ()) for one in self.made)
        told = {} if self.engine.reuse else {"tokens": read}  # how many of them its cache spared it does not tell
        self.recorder.spent("prefill", spent["prefill"], steps["prefill"], **told)
        self.recorder.spent("decode", spent["decode"], steps["decode"], tokens=new)
        self.recorder.count(prompt_tokens=read, new_tokens=new)
        return self.made

    def _ask(self) -> None:
        import openvino as ov

        while self.waiting and len(self.open) < self.engine.streams:
            at = self.waiting.popleft()
            ids = ov.Tensor(np.array([self.prompts[at].ids], np.int64))
            handle = self.pipeline.add_request(self.engine.next_number(), ids, self.configs[at])
            self.open[at] = handle, time.perf_counter()

    def _read(self, at: int, now: float) -> None:
        handle, asked = self.open[at]
        one = self.made[at]
        assert one.ids is not None
        while handle.can_read():
            for out in handle.read().values():
                if one.first_s is None and out.generated_ids:
                    one.first_s = now - asked
                self.reads[at] += 1
                one.ids += [int(token) for token in out.generated_ids]
        one.later_s = now - asked - (one.first_s or 0.0)
        end = next((i for i, token in enumerate(one.ids) if token in self.ends), None)
        if end is not None:
            del one.ids[end:]
        status = handle.get_status().name
        stopped = self.watch.ended(at, one.ids, last=end is not None or status != "RUNNING")
        if status == "IGNORED":
            raise EngineError(
                f"there was no memory for the keys and values of prompt {at + 1} ({len(self.prompts[at].ids)} tokens)"
            )
        if end is not None or stopped or status != "RUNNING":
            self.recorder.ran("prompt", asked, now - asked, first_s=one.first_s or 0.0, tokens=len(one.ids))
            one.finish = "stop" if end is not None or stopped else "length"
            if self.guesses:  # how many were guessed it does not tell; each step makes one token of its own
                one.accepted = max(len(one.ids) + (end is not None) - self.reads[at], 0)
            if status == "RUNNING":
                handle.stop()
            del self.open[at]


# -- building


def _built(folder: Path, model: Any, settings: Mapping[str, Any], whole: Path | None) -> list[str]:
    """As `export`; a graph in float, for which there is no `whole`, is held against the module that it was made from."""
    if whole is not None:
        return export(folder, model, settings, whole)
    from llm_moments.engines.sharing import shared
    from llm_moments.engines.transformers_generate import TransformersGenerate

    module = shared(model, settings.get("skip_layers", ()))
    names = export(folder, model, settings)
    engine = OpenVinoGenAI(folder, None, {"precision": "fp32"}, model.tokenizer)
    prove(engine, TransformersGenerate(module, model.tokenizer, {}, "cpu"), model, folder)
    engine.close()
    return names


def _draft_of(settings: Mapping[str, Any]) -> Path:
    from llm_moments.base.cache import cache_folder
    from llm_moments.engines.base import built_key
    from llm_moments.models.open import open_model

    model = open_model(settings["draft"])
    wanted = {"engine": OpenVinoGenAI.name, "precision": settings.get("precision", "fp32")}
    store = cache_folder() / model.files_digest[:16] / built_key(wanted)
    build(store, lambda folder: export(folder, model, wanted))
    return store


def _options(settings: Mapping[str, Any]) -> dict[str, Any]:
    import openvino as ov

    precision = settings.get("precision", "fp32")
    able = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "bf16" and "BF16" not in able:
        raise EngineError(f"this CPU has no bf16 (OpenVINO finds {', '.join(able)})")
    hint = "f32" if precision == "fp32" or "BF16" not in able else "bf16"
    own, other = ("bf16", "fp32") if hint == "bf16" else ("fp32", "bf16")
    kept = settings.get("kv_precision") or own
    if kept == other:
        raise EngineError(
            f"openvino-genai computes {precision} in {own} here and keeps no {other} beside it; forward.kv_precision can be "
            f"{own}, fp16, int8, int4 or ''"
        )
    options: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": hint,
        "KV_CACHE_PRECISION": KV[kept],
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0" if precision in ("fp32", "bf16") else str(BLOCK),
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_HYPER_THREADING": False,
    }
    if settings.get("threads"):
        options["INFERENCE_NUM_THREADS"] = int(settings["threads"])
    return options
