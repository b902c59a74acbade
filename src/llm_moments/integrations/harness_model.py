"""Any plan as a model of lm-eval, registered there as `moments`; imported only where lm_eval is.

`python -c "import llm_moments.integrations.harness_model; from lm_eval.__main__ import cli_evaluate; cli_evaluate()" --model moments
--model_args model=FOLDER --tasks …` is lm-eval's own command with it; `harness.evaluate` does the same from Python.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from llm_moments.assembly.load import load
from llm_moments.base.errors import EngineError, InputError
from llm_moments.core import Pipeline
from llm_moments.engines.generator import Decoding, Prompt, settle
from llm_moments.steps.decode import finished
from llm_moments.tasks.chat import dialogue_of

KNOWN = ("until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k")


@register_model("moments")
class MomentsLM(LM):
    """model: a Pipeline, or where to load one from; choices: of the plan, such as `forward.engine`.

    batch_size above 1 becomes forward.streams. A context is read as lm-eval writes it, control tokens included.
    """

    def __init__(
        self, model: Any = None, batch_size: Any = None, max_batch_size: Any = None, device: str | None = None,
        **choices: Any,
    ):  # fmt: skip
        super().__init__()
        if model is None:
            raise InputError("lm-eval's model moments needs model=FOLDER among its arguments")
        if max_batch_size is not None:
            raise InputError(f"max_batch_size = {max_batch_size!r} is not followed; leave it out")
        if batch_size is not None and str(batch_size) != "1":
            if not str(batch_size).isdecimal():
                raise InputError(f"batch_size is a number, not {batch_size!r}")
            choices["forward.streams"] = int(batch_size)
        pipe = load(model, device=device or "auto", task=None if isinstance(model, Pipeline) else _task(model))
        self.pipe = pipe.with_(**choices) if choices else pipe
        if "decode" not in self.pipe.task.knobs():
            raise InputError(f"{self.pipe.model.name} makes no text (its task is {self.pipe.task.name})")
        self.remote = self.pipe.model.format == "remote"

    @property
    def engine(self) -> Any:
        return self.pipe.engines.get(self.pipe.plan.settings("forward"))

    # -- what lm-eval asks

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(sum of log-probabilities in nats, whether greedy decoding would write it) of each continuation."""
        return [self._of_pair(*request.args) for request in requests]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        found = []
        for request in requests:
            windows = get_rolling_token_windows(
                token_list=self._ids(request.args[0]), prefix_token=self._start()[0],
                max_seq_len=self.pipe.model.max_length - 1, context_len=1,
            )  # fmt: skip
            pairs = map(make_disjoint_window, windows)
            found.append(sum(self._likelihood(list(ids), list(told))[0] for ids, told in pairs))
        return found

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        texts: list[str] = []
        for _, group in itertools.groupby(requests, key=lambda request: repr(request.args[1])):
            some = list(group)
            texts += self._generated([request.args[0] for request in some], self.decoding(some[0].args[1]))
        return texts

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        tokenizer = self._dialogue().tokenizer
        return str(
            tokenizer.apply_chat_template(
                chat_history, tokenize=False, add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )  # fmt: skip

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return str(getattr(self._dialogue().tokenizer, "chat_template", "") or "") if chat_template else ""

    @property
    def tokenizer_name(self) -> str:
        return str(self.pipe.model.name).replace("/", "__")

    # -- how it is answered

    def _dialogue(self) -> Any:
        if self.remote:
            raise EngineError(
                f"{self.pipe.model.name} has its tokenizer elsewhere; only generate_until can be asked of it"
            )
        return dialogue_of(self.pipe.model)

    def _ids(self, text: str) -> list[int]:
        return list(self._dialogue().tokenizer(text, add_special_tokens=False)["input_ids"])

    def _start(self) -> list[int]:
        """What comes before every text: the tokenizer's own beginning, or the token that ends texts."""
        begin = self._dialogue().encode_prompt("a")[: -len(self._ids("a"))]
        tokenizer = self._dialogue().tokenizer
        marks = [t for t in (tokenizer.bos_token_id, tokenizer.eos_token_id) if t is not None]
        return begin or marks[:1] or [0]

    def _context(self, text: str) -> list[int]:
        """Token ids of a context; a template's text has its beginning already."""
        begin, ids = self._dialogue().encode_prompt("a")[: -len(self._ids("a"))], self._ids(text)
        return ids if not begin or ids[: len(begin)] == begin else [*begin, *ids]

    def _of_pair(self, context: str, continuation: str) -> tuple[float, bool]:
        kept = context.rstrip()
        context, continuation = kept, context[len(kept) :] + continuation
        if not context:
            return self._likelihood(self._start(), self._ids(continuation))
        first, whole = self._context(context), self._context(context + continuation)
        return self._likelihood(whole[: len(first)], whole[len(first) :])

    def _likelihood(self, ids: Sequence[int], told: Sequence[int]) -> tuple[float, bool]:
        if not told:
            return 0.0, True
        room = self.pipe.model.max_length - len(told)
        if room < 1:
            raise InputError(
                f"a continuation of {len(told)} tokens is longer than the context of {self.pipe.model.max_length}"
            )
        kept = list(ids)[-room:]
        table = self.engine.logprobs([*kept, *told], len(kept))
        chosen = table[np.arange(len(told)), np.asarray(told)]
        return float(chosen.sum(dtype=np.float64)), bool((table.argmax(axis=1) == np.asarray(told)).all())

    def decoding(self, asked: Mapping[str, Any]) -> Decoding:
        """The plan's decoding with what a task asks for; a setting that is not known is refused."""
        if unknown := sorted(set(asked) - set(KNOWN)):
            raise InputError(f"the task asks for {unknown[0]} = {asked[unknown[0]]!r}; known are {', '.join(KNOWN)}")
        base = Decoding.of(self.pipe.plan.settings("decode"))
        until = asked.get("until") or ()
        stop = tuple(text for text in ([until] if isinstance(until, str) else until) if text)
        drawn = bool(asked.get("do_sample", float(asked.get("temperature", 0)) > 0))
        chosen: dict[str, Any] = {"stop": stop, "max_new_tokens": int(asked.get("max_gen_toks", base.max_new_tokens))}
        chosen["temperature"] = float(asked.get("temperature", 1.0)) if drawn else 0.0
        if drawn:
            chosen |= {name: asked[name] for name in ("top_p", "top_k") if name in asked}
        return settle(replace(base, **chosen), self.engine)

    def _generated(self, contexts: Sequence[str], decoding: Decoding) -> list[str]:
        if self.remote:
            made = self.engine.generate([Prompt(text=text) for text in contexts], decoding)
            return [finished(one, str, decoding.stop) for one in made]
        room = self.pipe.model.max_length - decoding.max_new_tokens
        if room < 1:
            raise InputError(
                f"max_gen_toks = {decoding.max_new_tokens} leaves no room in a context of {self.pipe.model.max_length}"
            )
        prompts = [Prompt(tuple((self._context(text) or self._start())[-room:]), text=text) for text in contexts]
        made = self.engine.generate(prompts, decoding)
        return [finished(one, self._dialogue().decode, decoding.stop) for one in made]


def _task(model: Any) -> str | None:
    """A server is asked to go on with a text, as lm-eval's tasks are written."""
    return "text-generation" if str(model).startswith(("http://", "https://")) else None
