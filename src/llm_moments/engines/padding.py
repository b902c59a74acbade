"""On which side rows of unlike length can be padded, so that no answer hangs on the rows beside it.

Models differ in it, whatever their tokenizer's padding_side says: some count positions from the first place on, some take
the last one, and some (convolutions, Fourier transforms) let padding into every answer. So a model is asked: a
short row alone, and the same row beside a longer one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_moments.base.errors import MomentsError

Arrays = dict[str, np.ndarray]
RIGHT, LEFT, NONE = "right", "left", "none"  # none: only rows of one length go together
FILE = "padding"  # beside a built graph: what its module has answered
ENDS = ("xlnet",)  # where nothing can be asked: these answer from the last place
TEXTS = ("a", "the second row is longer, so that it pads the first", "two words")
SAME = {"fp32": 1e-3, "bf16": 3e-2, "fp16": 1e-2}  # of the largest output


def padded(encoder: Any, rows: Sequence[tuple[Sequence[int], Sequence[int]]], side: str, width: int = 0) -> Arrays:
    """int64 arrays [rows, longest or width] of (ids, types) of each row."""
    width = max(width, *(len(ids) for ids, _ in rows))
    shape = (len(rows), width)
    arrays = {"input_ids": np.full(shape, encoder.pad_id or 0, np.int64), "attention_mask": np.zeros(shape, np.int64)}
    if "token_type_ids" in encoder.names:
        arrays["token_type_ids"] = np.full(shape, encoder.pad_type, np.int64)
    for at, (ids, types) in enumerate(rows):
        where = slice(width - len(ids), width) if side == LEFT else slice(0, len(ids))
        arrays["input_ids"][at, where] = ids
        arrays["attention_mask"][at, where] = 1
        if "token_type_ids" in arrays:
            arrays["token_type_ids"][at, where] = types
    return arrays


def asked(run: Callable[[Arrays], np.ndarray], encoder: Any, same: float = SAME["fp32"]) -> str:
    """What `run(fields) -> [rows, classes]` says: right where that changes nothing, else left, else none."""
    if encoder.pad_id is None:
        return NONE
    rows = [encoder.template(False).build(ids, None) for ids in encoder.encode(TEXTS)]
    try:
        alone = np.concatenate([run(padded(encoder, [row], RIGHT)) for row in rows])
    except MomentsError:
        return RIGHT  # it answers nothing; whoever asks it next is told why
    allowed = same * max(float(np.abs(alone).max()), 1e-6)
    for side in (RIGHT, LEFT):
        try:
            if np.abs(run(padded(encoder, rows, side)) - alone).max() <= allowed:
                return side
        except MomentsError:
            continue
    return NONE


def of_module(module: Any, encoder: Any) -> str:
    """Of a torch module of tokens in float32; its mode is left as it was."""
    import torch

    from llm_moments.engines.foreign import failing_as, quiet
    from llm_moments.models.nets.architectures import taken

    device, training, names = next(module.parameters()).device, module.training, taken(module)

    def run(fields: Arrays) -> np.ndarray:
        inputs = {k: torch.from_numpy(v).to(device) for k, v in fields.items() if names is None or k in names}
        with failing_as("padding"), quiet(), torch.inference_mode():
            return np.asarray(module(**inputs).logits.float().cpu().numpy())

    module.eval()
    found = asked(run, encoder)
    module.train(training)
    return found


def note_side(module: Any, model: Any) -> None:
    """Asks the module of a model that is being trained, whose folder holds no head yet that an engine could open."""
    model.__dict__.setdefault("_padding", of_module(module, model.encoder))


def side_of(model: Any, engines: Any, settings: Mapping[str, Any], encoder: Any) -> str:
    """Of a model by the engine of these settings, asked once."""
    if "_padding" not in model.__dict__:
        model.__dict__["_padding"] = _by_engine(model, engines, settings, encoder)
    return str(model.__dict__["_padding"])


def _by_engine(model: Any, engines: Any, settings: Mapping[str, Any], encoder: Any) -> str:
    engine = engines.get(settings)
    if (found := engine.padding(encoder)) is not None:
        return str(found)
    return LEFT if str(model.config.get("model_type")) in ENDS else RIGHT


def noted(store: Path) -> str | None:
    """What was asked when this graph was built."""
    file = store / FILE
    return file.read_text(encoding="utf-8").strip() if file.is_file() else None
