"""Answers that keep to a JSON schema, in an engine that shows its logits: llguidance says which tokens may come next.

It is kept, needs nothing else, and reads the fast tokenizers of transformers; OpenVINO GenAI has a like of its own (xgrammar).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from llm_moments.base.errors import EngineError, EngineMissing, PlanError

# As `json.dumps` writes it: where a model may put any white space, a small one goes on with that for ever.
WRITTEN: Any = {"whitespace_flexible": False, "key_separator": ": ", "item_separator": ", "}


class Grammars:
    """Of one tokenizer. ends: ids that end an answer; size: of the logits."""

    def __init__(self, tokenizer: Any, ends: Sequence[int], size: int):
        try:
            import llguidance
            from llguidance.hf import from_tokenizer
        except ImportError as error:
            raise EngineMissing("llguidance", "generate") from error
        if not getattr(tokenizer, "is_fast", False) or not ends:
            raise EngineError("decode.json_schema needs a fast tokenizer and a token that ends an answer")
        self.library, self.size = llguidance, size
        self.tokenizer = from_tokenizer(tokenizer, n_vocab=size, eos_token=list(ends))

    def masks(self, schema: str, rows: int, begun: int) -> Masks:
        """For one call of `generate`. PlanError, with the library's own words, for a schema that cannot be kept to."""
        kind = self.library.LLMatcher
        try:
            grammar = kind.grammar_from_json_schema(json.loads(schema), defaults=WRITTEN)
        except (ValueError, TypeError) as error:
            raise PlanError(f"decode.json_schema cannot be kept to: {_line(error)}") from error
        if said := kind.validate_grammar(grammar, self.tokenizer):
            raise PlanError(f"decode.json_schema cannot be kept to: {_line(said)}")
        return Masks(self, [kind(self.tokenizer, grammar) for _ in range(rows)], begun)


class Masks:
    """Called by transformers' `generate` before each token: what may not come gets a probability of 0."""

    def __init__(self, grammars: Grammars, matchers: list[Any], begun: int):
        from llguidance.numpy import allocate_token_bitmask

        self.matchers, self.begun, self.read = matchers, begun, begun
        self.bits = allocate_token_bitmask(len(matchers), grammars.size)

    def __call__(self, ids: Any, scores: Any) -> Any:
        import torch
        from llguidance.numpy import fill_next_token_bitmask
        from llguidance.torch import apply_token_bitmask_inplace

        for row, matcher in enumerate(self.matchers):
            new = ids[row, self.read :].tolist()
            if new and not matcher.is_stopped() and not matcher.consume_tokens(new):
                raise EngineError(f"decode.json_schema: {_line(matcher.get_error())}")
            fill_next_token_bitmask(matcher, self.bits, row)
        self.read = ids.shape[1]
        apply_token_bitmask_inplace(scores, torch.from_numpy(self.bits).to(scores.device))
        return scores


def _line(said: Any) -> str:
    return " ".join(str(said).split())[:300]
