"""What a model's folder says of how its answers are made, and what is followed by whom.

Read from generation_config.json or, as transformers does where there is none, from the settings of that kind in
config.json. Every attribute of transformers 5's GenerationConfig is in exactly one of the groups below.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from llm_moments.base.errors import ModelError
from llm_moments.base.notes import note

FILE = "generation_config.json"


def _whole(value: Any, low: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def _number(value: Any, low: float = -1e9, high: float = 1e9) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _ids(value: Any) -> bool:
    return isinstance(value, list) and all(map(_whole, value))


def _id_or_ids(value: Any) -> bool:
    return _whole(value) or (_ids(value) and bool(value))


def _rows(value: Any) -> bool:
    return isinstance(value, list) and all(_ids(row) and row for row in value)


def _pairs(value: Any) -> bool:
    """Places and tokens; a token that is None is left to the model."""
    return isinstance(value, list) and all(
        isinstance(one, list) and len(one) == 2 and _whole(one[0]) and (one[1] is None or _whole(one[1]))
        for one in value
    )


def _texts(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(v, str) and v for v in value))


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _heats(value: Any) -> bool:
    """A temperature or, for speech, those that an answer is drawn with again."""
    each = value if isinstance(value, list) else [value]
    return bool(each) and all(_number(one, 0, 100) for one in each)


Shape = Callable[[Any], bool]
_share, _from_0, _from_1 = partial(_number, low=0, high=1), _whole, partial(_whole, low=1)

# Each group: the setting, what transformers takes where nothing is said, and what may stand there.
PLANNED: dict[str, tuple[Any, Shape]] = {  # become choices of the plan (its `decode` section) that anyone can change
    "max_new_tokens": (None, _from_1), "max_length": (None, _from_1), "num_beams": (1, lambda v: _from_1(v) and v <= 64),
    "length_penalty": (1.0, partial(_number, low=-10, high=10)),
    "repetition_penalty": (1.0, partial(_number, low=0.01, high=100)), "stop_strings": (None, _texts),
    "do_sample": (False, _flag), "temperature": (1.0, _heats), "top_k": (50, _from_0),
    "top_p": (1.0, partial(_number, low=1e-6, high=1)),
}  # fmt: skip
RULES: dict[str, tuple[Any, Shape]] = {  # stay the folder's; an engine says in `rules` which of them it follows
    "min_length": (0, _from_0), "min_new_tokens": (None, _from_0), "no_repeat_ngram_size": (0, _from_0),
    "bad_words_ids": (None, _rows), "suppress_tokens": (None, _ids), "begin_suppress_tokens": (None, _ids),
    "forced_bos_token_id": (None, _id_or_ids), "forced_eos_token_id": (None, _id_or_ids),
    "early_stopping": (False, lambda v: _flag(v) or v == "never"), "encoder_no_repeat_ngram_size": (0, _from_0),
    "encoder_repetition_penalty": (1.0, partial(_number, low=0.01, high=100)),
    "exponential_decay_length_penalty": (None, lambda v: isinstance(v, list) and len(v) == 2 and all(map(_number, v))),
    "sequence_bias": (None, lambda v: isinstance(v, list | dict)), "guidance_scale": (1.0, _number),
    "watermarking_config": (None, lambda v: isinstance(v, dict)), "max_time": (None, partial(_number, low=0)),
    "renormalize_logits": (False, _flag), "min_p": (None, _share), "top_h": (None, _share), "typical_p": (1.0, _share),
    "epsilon_cutoff": (0.0, _share), "eta_cutoff": (0.0, partial(_number, low=0)),
}  # fmt: skip
DRAWING = ("min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")  # without effect where nothing is drawn
OF_BEAMS = ("early_stopping", "renormalize_logits")  # or where one answer is followed
UNKNOWN_HERE: dict[str, Any] = {  # other ways of decoding, or more answers than one; taken back before `generate`
    "num_return_sequences": 1, "num_beam_groups": 1, "diversity_penalty": 0.0, "force_words_ids": None,
    "constraints": None, "penalty_alpha": None, "dola_layers": None, "token_healing": None,
    "assistant_early_exit": None, "assistant_ensemble_weight": None, "condition_on_prev_tokens": None,
}  # fmt: skip
HOW: dict[str, Any] = {  # how it is computed, and what is told beside the answer: the plan and the recorder say that
    "use_cache": True, "use_mtp": None, "cache_implementation": None, "cache_config": None, "max_cache_len": None,
    "prefill_chunk_size": None, "compile_config": None, "disable_compile": None, "continuous_batching_config": None,
    "low_memory": None, "output_attentions": False, "output_hidden_states": False, "output_scores": False,
    "output_logits": None, "return_dict_in_generate": False, "is_assistant": None, "num_assistant_tokens": 20,
    "num_assistant_tokens_schedule": "constant", "assistant_confidence_threshold": 0.4,
    "prompt_lookup_num_tokens": None, "max_matching_ngram_size": None, "assistant_lookbehind": 10,
    "target_lookbehind": 10, "speculation_type": None, "remove_invalid_values": False, "prev_sot_token_id": None,
    "median_filter_width": None, "return_token_timestamps": None,
}  # fmt: skip
IDS: dict[str, Shape] = {
    "pad_token_id": lambda v: _number(v), "bos_token_id": _id_or_ids, "eos_token_id": _id_or_ids,
    "decoder_start_token_id": _id_or_ids,
}  # fmt: skip
SPEECH: dict[str, Shape] = {  # of Whisper: they become choices of `speech` and `fallback`, or are read by its engine
    "language": lambda v: isinstance(v, str), "task": lambda v: v in ("transcribe", "translate"),
    "forced_decoder_ids": _pairs, "return_timestamps": lambda v: _flag(v) or v == "word", "is_multilingual": _flag,
    "lang_to_id": lambda v: isinstance(v, dict) and all(map(_whole, v.values())),
    "task_to_id": lambda v: isinstance(v, dict) and all(map(_whole, v.values())),
    "no_timestamps_token_id": _from_0, "alignment_heads": lambda v: isinstance(v, list) and all(map(_ids, v)),
    "max_initial_timestamp_index": _from_0, "logprob_threshold": _number, "no_speech_threshold": _share,
    "compression_ratio_threshold": _number,
}  # fmt: skip
SHAPES: dict[str, Shape] = {**{k: v for k, (_, v) in (PLANNED | RULES).items()}, **IDS, **SPEECH}
USUAL: dict[str, Any] = {**{k: v for k, (v, _) in (PLANNED | RULES).items()}, **UNKNOWN_HERE, **HOW}
KNOWN = {*USUAL, *IDS, *SPEECH}


def asked_by(model: Any) -> dict[str, Any]:
    """The settings of a model's folder that are not what transformers takes where nothing is said; none of a server.

    ModelError names the file, the setting and a value that is impossible.
    """
    if "_asked" not in model.__dict__:
        model.__dict__["_asked"] = {} if model.format == "remote" else _read(model)
    return dict(model.__dict__["_asked"])


def _read(model: Any) -> dict[str, Any]:
    file = model.path / FILE
    if file.is_file():
        told = _json(file)
    else:
        file, told = model.path / "config.json", _old(model.config)
    for name, value in told.items():
        if value is not None and name in SHAPES and not SHAPES[name](value):
            raise ModelError(
                f"{file}: {name} = {value!r:.60} is no value that it can have; mend it there, or take it out"
            )
    return {name: value for name, value in told.items() if value is not None and USUAL.get(name) != value}


def _json(file: Any) -> dict[str, Any]:
    try:
        told = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file} cannot be read as JSON: {error!s:.120}") from error
    if not isinstance(told, dict):
        raise ModelError(f"{file} should hold a JSON object")
    return told


def _old(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of this kind in a config.json, those of its decoder where it has none of its own."""
    inner: dict[str, Any] = next(
        (config[k] for k in ("decoder", "generator", "text_config") if isinstance(config.get(k), dict)), {}
    )
    return {name: value for part in (inner, config) for name in KNOWN if (value := part.get(name)) is not None}


def decoding_of(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Choices of the plan's `decode` section that these settings stand for, but for the number of tokens."""
    found: dict[str, Any] = {}
    for name, knob in (("num_beams", "beams"), ("repetition_penalty", "repetition_penalty")):
        if name in asked:
            found[knob] = asked[name]
    if "length_penalty" in asked:
        found["length_penalty"] = float(asked["length_penalty"])
    if stop := asked.get("stop_strings"):
        found["stop"] = [stop] if isinstance(stop, str) else list(stop)
    if asked.get("do_sample"):  # of use once decode.temperature is above 0
        found["top_k"] = asked.get("top_k", USUAL["top_k"])
        found["top_p"] = float(asked.get("top_p", 1.0))
    return found


def unfollowed(model: Any, engine: Any, decoding: Any) -> str:
    """The folder's rules, as they stand there, that this engine (or class of them) does not follow and that matter under
    this plan's decoding; '' for none."""
    asked = asked_by(model)
    rules = [name for name in RULES if name in asked and name not in engine.rules]
    drawn, beams = decoding.temperature > 0, decoding.beams > 1
    return _said(asked, [n for n in rules if (drawn or n not in DRAWING) and (beams or n not in OF_BEAMS)])


def tell(model: Any, engine: Any, decoding: Any) -> None:
    """Notes of what this engine, or nobody here, follows of what the folder says. decoding: of the plan."""
    asked = asked_by(model)
    drawn = decoding.temperature > 0
    if left_out := unfollowed(model, engine, decoding):
        note(f"{model.name}: {engine.name} does not follow {left_out}: answers may be others than transformers'")
    if left := [name for name in UNKNOWN_HERE if name in asked]:
        note(f"{model.name}: {_said(asked, left)} is not followed here")
    if asked.get("do_sample") and not drawn:
        heat = asked.get("temperature", 1.0)
        note(
            f"{model.name} asks for answers that are drawn ({_said(asked, ('do_sample', 'temperature', 'top_k', 'top_p', *DRAWING))}); "
            f"they are greedy here, and the same every time. --set decode.temperature={heat} draws them"
        )
    if asked.get("stop_strings") and decoding.stop:
        note(f"{model.name}: {_said(asked, ['stop_strings'])} ends an answer, and is left out of it")
    if asked.get("cache_implementation") == "quantized":
        note(
            f"{model.name}: {_said(asked, ['cache_implementation'])} is not followed; forward.kv_precision is its knob"
        )
    if strange := sorted(name for name in asked if name not in KNOWN and not name.startswith(("_", "transformers_"))):
        note(f"{model.name}: {FILE} holds what `generate` does not know and is left alone: {', '.join(strange)[:200]}")


def _said(asked: Mapping[str, Any], names: Any) -> str:
    return ", ".join(f"{name} = {asked[name]!r:.60}" for name in names if name in asked)
