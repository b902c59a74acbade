"""Given texts scored by a transformers module: prompts that begin alike share what was read of their beginning."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from llm_moments.engines.scoring import Asked, Scored, scored

ROWS = {"cpu": 4}  # that are read together at most; elsewhere MANY
MANY = 32
WASTE = {"cpu": 1.15}  # tokens that a batch may read, to those that its rows would one by one; elsewhere MORE
MORE = 3.0
LOGITS = 2**28  # numbers of a table at most


def scores(engine: Any, asked: Sequence[Asked], detailed: bool) -> list[Scored]:
    with engine.torch.inference_mode():
        if engine.encodes:
            return list(_after_encoder(engine, asked, detailed))
        order = sorted(range(len(asked)), key=lambda at: (*asked[at].ids, *asked[at].told))
        kept = _Kept(engine)
        found: dict[int, Scored] = {}
        for group in _groups(engine, [asked[at] for at in order]):
            some = [order[at] for at in group]
            found |= dict(zip(some, kept.read([asked[at] for at in some], detailed), strict=True))
        return [found[at] for at in range(len(asked))]


def _groups(engine: Any, asked: Sequence[Asked]) -> Iterator[list[int]]:
    """Rows that are read together: as many as share most of their beginning. asked: in the order of their tokens."""
    rows, waste = ROWS.get(engine.device, MANY), WASTE.get(engine.device, MORE)
    vocabulary = int(getattr(engine.module.config.get_text_config(), "vocab_size", 50_000))
    group: list[int] = []
    alone = 0
    before: Sequence[int] = ()
    for at, one in enumerate(asked):
        whole = _whole(one)
        own = len(whole) - min(common(before, whole), len(one.ids) - 1)
        together = [*group, at]
        first = _shared([asked[row] for row in together])
        width = max(len(_whole(asked[row])) for row in together) - first
        fits = len(together) <= rows and width * len(together) * vocabulary <= LOGITS
        if group and not (fits and width * len(together) + first <= waste * (alone + own) + first):
            yield group
            group, alone = [], 0
        group.append(at)
        alone, before = alone + own, whole
    if group:
        yield group


class _Kept:
    """Keys and values of the tokens that were read last, where the model's cache can be cut anywhere."""

    def __init__(self, engine: Any):
        self.engine, self.module = engine, engine.module
        self.ids: list[int] = []
        self.pairs: list[tuple[Any, Any]] = []
        self.fewer = "logits_to_keep" in inspect.signature(self.module.forward).parameters
        self.cuttable = True

    def read(self, group: Sequence[Asked], detailed: bool) -> list[Scored]:
        first = _shared(group) if self.cuttable else 0
        have = min(common(self.ids, _whole(group[0])), first) if self.cuttable else 0
        begun = 0
        if len(group) > 1 and have < first:
            self._forward([_whole(group[0])[have:first]], have, 1)
            have, begun = (first, first - have) if self.cuttable else (0, first - have)
        rows = [_whole(one)[have:-1] for one in group]
        width = max(map(len, rows))
        starts = [len(one.ids) - 1 - have for one in group]
        logits = self._forward([[*row, *[0] * (width - len(row))] for row in rows], have, width - min(starts))
        if len(group) == 1 and self.cuttable:
            self.ids = _whole(group[0])[:-1]
        found = []
        for at, (one, row) in enumerate(zip(group, rows, strict=True)):
            begin = starts[at] - min(starts)
            table = self.engine.torch.log_softmax(logits[at, begin : begin + len(one.told)].float(), dim=-1)
            read = len(row) + (begun if at == 0 else 0)
            found.append(scored(np.asarray(table.cpu().numpy()), one.told, read, detailed))
        return found

    def _forward(self, rows: list[list[int]], have: int, places: int) -> Any:
        """Logits [rows, places, vocabulary] of the last places. What is read of one row is kept."""
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer

        torch = self.engine.torch
        given: dict[str, Any] = {}
        if have:
            cache = DynamicCache()
            for layer, (keys, values) in enumerate(self.pairs):
                cut = [part[:, :, :have].expand(len(rows), -1, -1, -1) for part in (keys, values)]
                cache.update(cut[0], cut[1], layer)
            given[cache_word()] = cache
        keeps = len(rows) == 1 and self.cuttable
        if self.fewer:
            given["logits_to_keep"] = places
        out = self.module(
            input_ids=torch.tensor(rows, device=self.engine.device), use_cache=keeps or bool(have), **given
        )
        if keeps:
            layers = getattr(getattr(out, cache_word()), "layers", ())
            self.cuttable = bool(layers) and all(type(layer) is DynamicLayer for layer in layers)
            self.pairs = [(layer.keys, layer.values) for layer in layers] if self.cuttable else []
            self.ids = [*self.ids[:have], *rows[0]] if self.cuttable else []
        return out.logits[:, -places:]


def cache_word() -> str:
    """What transformers calls its cache: another word since 5.2x."""
    from transformers.generation import utils

    return "cache" if "cache" in getattr(utils, "ALL_CACHE_NAMES", ()) else "past_key_values"


def _whole(one: Asked) -> list[int]:
    return [*one.ids, *one.told]


def _shared(group: Sequence[Asked]) -> int:
    """Tokens that all begin with. Of each row the last token before what is told is read anew: it tells the first one."""
    first, last = _whole(group[0]), _whole(group[-1])  # in order: what these two share, all do
    return min(common(first, last), *(len(one.ids) - 1 for one in group))


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens that both begin with."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _after_encoder(engine: Any, asked: Sequence[Asked], detailed: bool) -> Iterator[Scored]:
    """Rows of one answer are decoded together, each after a source of its own."""
    from llm_moments.engines.generator import Prompt

    torch = engine.torch
    rows = ROWS.get(engine.device, MANY)
    for start in range(0, len(asked), rows):
        group = asked[start : start + rows]
        inputs, _ = engine._inputs([one.prompt or Prompt() for one in group])
        inputs.pop("decoder_input_ids", None)
        width = max(len(_whole(one)) for one in group) - 1
        told = [[*_whole(one)[:-1], *[0] * (width + 1 - len(_whole(one)))] for one in group]
        logits = engine.module(**inputs, decoder_input_ids=torch.tensor(told, device=engine.device)).logits
        for at, one in enumerate(group):
            begin = len(one.ids) - 1
            table = torch.log_softmax(logits[at, begin : begin + len(one.told)].float(), dim=-1)
            size = len(one.prompt.ids) if one.prompt is not None else 0
            yield scored(np.asarray(table.cpu().numpy()), one.told, size + len(told[at]), detailed)
