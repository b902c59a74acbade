"""What an answer that is a text rests on: how likely the model finds it, token by token, after the input with parts left out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from llm_moments.base.errors import EngineError, InputError
from llm_moments.core import NULL, Batch, Outputs, Ragged
from llm_moments.core.outputs import texts
from llm_moments.core.parts import Alternative, AnswerToken, Pace, Support
from llm_moments.engines.base import engine_class, put_on
from llm_moments.engines.generator import Prompt
from llm_moments.engines.scoring import Asked, Scored
from llm_moments.models.generation_settings import asked_by
from llm_moments.tasks.generation import Generation

FLOAT = ("transformers", "fp32")  # the engine that judges where the one that answered does not
FORMATS = ("transformers", "gguf")  # of the models that it reads


RULES = (
    "no_repeat_ngram_size",
    "min_length",
    "min_new_tokens",
    "forced_bos_token_id",
    "repetition_penalty",
    "suppress_tokens",
)


def plainly_greedy(pipe: Any) -> bool:
    """Whether each token of an answer is the likeliest one after those before it, and nothing else is asked."""
    decode, asked = pipe.plan.settings("decode"), asked_by(pipe.model)
    plain = not decode.get("temperature") and decode.get("beams", 1) == 1 and decode.get("repetition_penalty", 1) == 1
    return (
        plain
        and not decode.get("stop")
        and not decode.get("json_schema")
        and not any(asked.get(name) for name in RULES)
    )


class TextSupport(Generation):
    """Mixed into a task whose answers are made token by token. The outputs that are explained have a column `told`: the tokens
    of the text, and the one that ended it, where it was ended (`ended`)."""

    pace = Pace(
        alone=12, groups=4, width=1, orders=9, sizes=(1, 2, 4), near=4, together=3, pairs=4, longest=4, at_once=8
    )
    reference_engine = FLOAT[0]

    # -- what each family of models does in its own way

    @abstractmethod
    def before(self, prompt: Prompt) -> tuple[int, ...]:
        """The tokens after which the answer's come: all of the prompt, or what begins the answer of an encoder-decoder."""

    @abstractmethod
    def tokens_of(self, prompt: Prompt, text: str) -> list[int]:
        """Tokens of a text that answers a prompt."""

    @abstractmethod
    def text_of(self, tokens: Sequence[int]) -> str: ...

    # -- the contract

    def explained(self, pipe: Any, value: Any, given: str | None = None) -> Outputs:
        batch = self._through(pipe, [value], made=given is None)
        prompt: Prompt = batch["prompts"][0]
        if given is None:
            text, one = str(batch["outputs"]["text"][0]), batch["generated"][0]
            ids = list(one.ids) if one.ids is not None else self.tokens_of(prompt, text) if text else []
            end = (
                self._end(pipe, prompt, ids)
                if one.finish == "stop" and not pipe.plan.settings("decode").get("stop")
                else []
            )
        else:
            text, ids, end = given, self.tokens_of(prompt, given), []
            room = self.model.max_length - len(self.before(prompt))
            if len(ids) > room:
                raise InputError(
                    f"the answer that is given has {len(ids):,} tokens; the context has room for {max(room, 0):,}"
                )
        if not ids and not end:
            raise InputError("the answer is empty: there is nothing that could rest on anything")
        return texts([text], told=Ragged.of([[*ids, *end]], np.int64), ended=np.array([len(end)]))

    def judging(self, pipe: Any) -> tuple[Any, str]:
        engine = pipe.plan.settings("forward").get("engine", FLOAT[0])
        cls: Any = engine_class(engine)
        if self.scored_by(cls):
            return pipe, ""
        if self.model.format not in FORMATS:
            raise EngineError(
                f"{engine} does not tell how likely a given text is, and no other engine reads this model"
            )
        return pipe.with_(**put_on(*FLOAT)), f"{engine} does not tell how likely a given text is"

    def scored_by(self, engine: Any) -> bool:
        return bool(engine.scoring)

    def support(self, pipe: Any, values: Sequence[Any], answer: Outputs) -> Support:
        """The log-likelihood of the answer's tokens, given all before each; the token that ends it does not count, but the
        answer is the same only where it would be the likeliest, too."""
        told = answer["told"].row(0).tolist()
        length = self._length(answer)
        prompts = self._through(pipe, values)["prompts"]
        asked = [Asked(self.before(prompt), tuple(told), prompt) for prompt in prompts]
        found = self._scores(pipe, asked)
        tokens = np.array([one.logprob[:length] for one in found]).reshape(len(found), length)
        known = plainly_greedy(pipe) and all(one.likeliest is not None for one in found)
        same = np.array([bool(np.all(one.likeliest)) for one in found], bool) if known else None
        read = sum(one.read for one in found)
        whole = sum(len(one.ids) + len(told) - 1 for one in asked)
        return Support(tokens.sum(axis=1), same, tokens, read, max(whole - read, 0))

    def answer_tokens(self, pipe: Any, value: Any, answer: Outputs) -> list[AnswerToken]:
        told = answer["told"].row(0).tolist()
        prompt = self._through(pipe, [value])["prompts"][0]
        (one,) = self._scores(pipe, [Asked(self.before(prompt), tuple(told), prompt)], detailed=True)
        return [self._token(told, at, one) for at in range(self._length(answer))]

    def told(self, outputs: Outputs) -> tuple[str, float | None]:
        return str(outputs["text"][0]), None

    # -- how

    @staticmethod
    def _length(answer: Outputs) -> int:
        """Tokens that count: those of the text or, where it has none, the one that ended it."""
        length = len(answer["told"].row(0))
        return max(length - int(answer["ended"][0]), min(length, 1))

    def _token(self, told: Sequence[int], at: int, one: Scored) -> AnswerToken:
        probability = float(np.exp(one.logprob[at]))
        if one.detail is None:
            return AnswerToken(self._piece(told[at]), probability)
        best = zip(one.detail.best[at].tolist(), np.exp(one.detail.best_logprob[at]).tolist(), strict=True)
        others = tuple(Alternative(self._piece(token), share) for token, share in best if token != told[at])
        return AnswerToken(self._piece(told[at]), probability, float(one.detail.entropy[at]), others)

    def _piece(self, token: int) -> str:
        """A token as it is shown, with the space that it begins with."""
        return self.text_of([token])

    def _scores(self, pipe: Any, asked: Sequence[Asked], detailed: bool = False) -> list[Scored]:
        with pipe.engines.lease(pipe.engine_settings) as engine:
            found: list[Scored] = engine.scores(asked, detailed)
        return found

    @staticmethod
    def _through(pipe: Any, values: Sequence[Any], made: bool = False) -> Batch:
        """The fields of the pipeline's steps up to the prompts or, made, to the end."""
        batch = Batch(len(values), {"input": list(values)})
        for step in pipe.steps:
            if not made and "prompts" in batch.fields:
                break
            batch = step(batch, NULL)
        return batch

    def _end(self, pipe: Any, prompt: Prompt, ids: Sequence[int]) -> list[int]:
        """The token that ended an answer: of those that may, the likeliest there."""
        told = asked_by(self.model).get("eos_token_id", self.model.config.get("eos_token_id"))
        ends = [told] if isinstance(told, int) else [end for end in told or () if isinstance(end, int)]
        if len(ends) < 2:
            return ends
        judge, _ = self.judging(pipe)
        begun = (*self.before(prompt), *ids)
        found = self._scores(judge, [Asked(begun, (end,), prompt) for end in ends])
        return [ends[int(np.argmax([one.logprob[0] for one in found]))]]
