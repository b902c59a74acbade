"""Whisper by transformers' plain `generate`: encoder, prefill and decode timed apart; the likelihood of each answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from llm_moments.base.errors import EngineError
from llm_moments.core import Recorder
from llm_moments.engines.generator import Decoding, Generated, Prompt

EARLIEST = 50  # the first time token is at most 1 s, as in Whisper's own decoding


def together(
    engine: Any, prompts: Sequence[Prompt], decoding: Decoding, recorder: Recorder, watch: Any
) -> list[Generated]:
    """Answers of chunks that are decoded in one batch. engine: a TransformersGenerate; watch: its stopping criterion."""
    torch, module = engine.torch, engine.module
    start = time.perf_counter()
    with torch.inference_mode():
        engine.phase = 3
        encoded = encode(engine, [p.features for p in prompts])
        engine.phase = 1
        middle = time.perf_counter()
        begun = torch.tensor([p.decoder for p in prompts], device=engine.device)
        out = _plain_generate(module)(
            encoder_outputs=encoded, decoder_input_ids=begun, **engine._options(decoding), stopping_criteria=[watch],
            logits_processor=_times(module, prompts), return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
        engine.phase = 0
        end = time.perf_counter()
        silence = _silence(engine, encoded, begun)
        last = time.perf_counter()
    answers = [engine._answer(row, decoding) for row in out.sequences[:, begun.shape[1] :].tolist()]
    first = (watch.times[0] if watch.times else end) - middle
    for answer, score, quiet in zip(answers, _scores(engine, out, answers, decoding), silence, strict=True):
        answer.score, answer.silence = score, quiet
        answer.first_s, answer.later_s = middle - start + first, end - middle - first
    heard = sum(p.features.shape[1] for p in prompts if p.features is not None)
    rows, places = encoded.last_hidden_state.shape[:2]
    recorder.spent("encoder", middle - start, 1, frames=heard, positions=rows * places, squares=rows * places**2)
    recorder.spent("prefill", first, 1, tokens=int(begun.numel()))
    tokens = sum(len(a.ids or ()) for a in answers)
    recorder.spent("decode", end - middle - first, max(watch.steps - 1, 0), tokens=tokens)
    recorder.spent("no speech?", last - end, 1)
    recorder.count(prompt_tokens=int(begun.numel()), new_tokens=tokens)
    return answers


def encode(engine: Any, features: Sequence[Any]) -> Any:
    """The encoder's outputs; shorter features are filled up with their last frame, which is silence."""
    frames = 2 * int(engine.module.config.max_source_positions)
    if any(f.shape[1] > frames for f in features):
        raise EngineError(
            f"this model hears {frames} frames at a time; one chunk has {max(f.shape[1] for f in features)}"
        )
    rows = np.stack([np.pad(f, ((0, 0), (0, frames - f.shape[1])), mode="edge") for f in features])
    inputs = engine.torch.from_numpy(rows).to(engine.device, engine.module.dtype)
    return engine.module.get_encoder()(inputs)


def _plain_generate(module: Any) -> Any:
    """Whisper's own `generate` cuts, seeks and tries again by itself; here these are steps of the plan."""
    from transformers.generation import GenerationMixin

    return lambda **options: GenerationMixin.generate(module, **options)


def _times(module: Any, prompts: Sequence[Prompt]) -> Any:
    """What keeps time tokens in pairs and rising, where the prompts ask for them."""
    from transformers import LogitsProcessorList, WhisperTimeStampLogitsProcessor

    config = module.generation_config
    without = getattr(config, "no_timestamps_token_id", None)
    if without is None or without in prompts[0].decoder:
        return LogitsProcessorList()
    if getattr(config, "max_initial_timestamp_index", None) is None:
        config.max_initial_timestamp_index = EARLIEST
    return LogitsProcessorList([WhisperTimeStampLogitsProcessor(config, begin_index=len(prompts[0].decoder))])


def _scores(engine: Any, out: Any, answers: Sequence[Generated], decoding: Decoding) -> list[float]:
    """Mean log-probability of each answer's tokens, its end included."""
    counts = [len(a.ids or ()) + (a.finish == "stop") for a in answers]
    if decoding.beams > 1:
        penalised = out.sequences_scores.float().cpu().numpy()
        sums = [float(s) * count**decoding.length_penalty for s, count in zip(penalised, counts, strict=True)]
    else:
        steps = engine.module.compute_transition_scores(out.sequences, out.scores, normalize_logits=True)
        told = steps.float().cpu().numpy()
        sums = [float(row[:count].sum()) for row, count in zip(told, counts, strict=True)]
    return [total / max(count, 1) for total, count in zip(sums, counts, strict=True)]


def _silence(engine: Any, encoded: Any, begun: Any) -> list[float | None]:
    """How likely <|nospeech|> (the token before <|notimestamps|>) is right after <|startoftranscript|>."""
    without = getattr(engine.module.generation_config, "no_timestamps_token_id", None)
    if without is None:
        return [None] * len(begun)
    logits = engine.module(encoder_outputs=encoded, decoder_input_ids=begun[:, :1]).logits[:, 0]
    return [float(p) for p in engine.torch.softmax(logits.float(), -1)[:, without - 1]]


def languages(engine: Any, features: Sequence[Any], tokens: Any) -> list[str]:
    """The likeliest of the languages that `tokens` (a SpeechTokens) knows, for each."""
    codes, ids = zip(*sorted(tokens.languages.items()), strict=True)
    with engine.torch.inference_mode():
        encoded = encode(engine, features)
        begun = engine.torch.full((len(features), 1), tokens.start, device=engine.device)
        logits = engine.module(encoder_outputs=encoded, decoder_input_ids=begun).logits[:, 0]
    return [codes[int(at)] for at in logits[:, list(ids)].argmax(-1)]
