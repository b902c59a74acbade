"""Goal 5 of generation: transformers' `generate` with its defaults against the plan that `improve` certifies.

    python benchmarks/translation.py [--model .demo/translator] [--budget 2m] [--minutes 8]

The model is a small Marian that `moments train` makes of a made-up language (language.py) where it is not there
yet. Stock is `model.generate` of transformers on one tokenized text at a time, with the model's own settings
(4 beams). The search and its certificate take the same model with the same settings on 32 texts of like length at a
time for the original, since it says the same (counted below) in less time. All take turns on blocks of the same texts, A B … then … B A.
--minutes: of the run once the model is there; rounds and test texts are as many as fit after the search. The section
is written after the rounds, and again with what the test texts say.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import language
import results

import llm_moments as lm
from llm_moments import stats
from llm_moments.core import Example
from llm_moments.core.outputs import texts as texts_of
from llm_moments.evaluate.measure import run_seconds
from llm_moments.improve.improve import improve
from llm_moments.train.train import train

SIZES = {
    "vocabulary": 600,
    "width": 128,
    "feed_forward": 384,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "positions": 96,
}
LEARN, SEEDS = 12_000, {"learn": 0, "improve": 1, "test": 2}
TOGETHER = {"forward.streams": 32, "batch.order": "length"}
BATCHED = "transformers, 32 of like length together"
PEERS = {
    BATCHED: TOGETHER,
    "CTranslate2 fp32, 1 at a time": {"forward.engine": "ctranslate2"},
    "CTranslate2 int8, 32 together": {**TOGETHER, "forward.engine": "ctranslate2", "forward.precision": "int8"},
}
BLOCK, ROUNDS = 24, 5


def trained(folder: Path, epochs: int) -> float:
    """Seconds that it took; 0 where the model is there."""
    if folder.exists():
        return 0.0
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        data = language.write(Path(place) / "pairs.csv", language.pairs(LEARN, SEEDS["learn"]))
        train(
            "marian", data, folder, epochs=epochs, batch_tokens=2000, learning_rate=1e-3, max_length=96, dropout=0.0,
            model_options=SIZES, progress=lambda done, message: print(message, file=sys.stderr) if done is None else None,
        )  # fmt: skip
    return time.perf_counter() - start


def stock(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer, module = AutoTokenizer.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder).eval()

    def translate(texts: list[str]) -> list[str]:
        with torch.inference_mode():
            rows = [module.generate(**tokenizer([text], return_tensors="pt"))[0] for text in texts]
        return [tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows]

    return translate


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, default=Path(".demo/translator"))
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rows", type=int, default=2400, help="that improve searches and certifies on")
    parser.add_argument("--test", type=int, default=300)
    parser.add_argument("--budget", default="2m")
    parser.add_argument("--minutes", type=float, default=8.0, help="of the run once the model is there")
    wanted = parser.parse_args()
    print("learning, where the model is not there yet", file=sys.stderr)
    learnt = trained(wanted.model, wanted.epochs)
    end = time.monotonic() + 60 * wanted.minutes
    print(f"searching for {wanted.budget}", file=sys.stderr)
    examples = [Example(*pair) for pair in language.pairs(wanted.rows, SEEDS["improve"])]
    found = improve(lm.load(wanted.model, plan=TOGETHER), examples, max_drop=0.005, budget=wanted.budget)
    improved, test = found.pipeline, language.pairs(wanted.test, SEEDS["test"])
    texts, references = [ours for ours, _ in test], [theirs for _, theirs in test]
    theirs = stock(wanted.model)
    runners: dict[str, Any] = {"transformers generate, its defaults": lambda some: timed(theirs, some)}
    pipes = {name: lm.load(wanted.model, plan=changes) for name, changes in PEERS.items()}
    for name, pipe in {**pipes, "improved": improved}.items():
        runners[name] = lambda some, pipe=pipe: run_seconds(pipe, some)
    times: dict[str, list[float]] = {name: [] for name in runners}
    longest = 0.0
    for turn in range(ROUNDS + 1):  # the first warms up
        begun = time.monotonic()
        if turn > 1 and begun + longest > end:
            print(f"no time for another round: {turn - 1} of {ROUNDS} were run", file=sys.stderr)
            break
        block = [texts[(turn * BLOCK + at) % len(texts)] for at in range(BLOCK)]
        for name in list(runners)[:: 1 if turn % 2 else -1]:
            seconds = runners[name](block) / len(block)
            if turn:
                times[name].append(seconds)
        longest = max(longest, time.monotonic() - begun)
        said = ", ".join(f"{name} {1 / some[-1]:.1f}" for name, some in times.items() if some) or "warm"
        print(f"round {turn} of {ROUNDS}, texts a second: {said}", file=sys.stderr)
    write([*lines(times), "", *told(found, improved, learnt, "")])
    before = until(theirs, texts, end)
    same = sum(a == b for a, b in zip(before, pipes[BATCHED].outputs(texts[: len(before)])["text"], strict=True))
    agreed = f" Batched, transformers says the same as one at a time on {same:,} of {len(before):,} texts."
    tested = judged(before, improved, texts[: len(before)], references[: len(before)])
    write([*lines(times), "", *tested, "", *told(found, improved, learnt, agreed)])


def write(section: list[str]) -> None:
    results.write("Translation (goal 5 of generation)", section)


def until(work: Any, texts: list[str], end: float) -> list[str]:
    """Answers to as many texts as there is time for, one block at least."""
    made: list[str] = []
    while len(made) < len(texts) and (not made or time.monotonic() < end):
        made += work(texts[len(made) : len(made) + BLOCK])
    return made


def timed(work: Any, texts: list[str]) -> float:
    start = time.perf_counter()
    work(texts)
    return time.perf_counter() - start


def lines(times: dict[str, list[float]]) -> list[str]:
    rows = []
    for name, seconds in times.items():
        ratio = stats.ratio_interval(seconds, times["improved"])
        median = sorted(seconds)[len(seconds) // 2]
        rows.append((name, f"{1 / median:,.1f}", f"{ratio.estimate:.1f} ({ratio.low:.1f} to {ratio.high:.1f})"))
    heads = ("", "texts/s (median)", "improved is faster by (95% bounds)")
    rounds = len(times["improved"])
    return [f"{rounds} rounds of the same {BLOCK} texts for all, in turn.", "", *results.table(heads, rows)]


def judged(before: list[str], improved: Any, texts: list[str], references: list[str]) -> list[str]:
    """Both on the test texts, which neither training nor search has seen."""
    after = improved.outputs(texts)["text"].tolist()
    rows = []
    for name, said in (("transformers generate", before), ("improved", after)):
        outputs = texts_of(said)
        beside = improved.task.beside(outputs, references)
        rows.append((name, f"{100 * improved.task.scores(outputs, references).mean():.2f}", *(f"{100 * beside[k]:.2f}" for k in ("corpus chrF", "corpus BLEU", "identical"))))  # fmt: skip
    return results.table(
        (f"{len(texts)} test texts", "chrF, mean of texts", "chrF of all", "BLEU of all", "right to the letter, %"),
        rows,
    )


def told(found: Any, improved: Any, learnt: float, agreed: str) -> list[str]:
    c = found.certificate
    held = f"not certified: {c.reason}" if not c.certified or c.drop_high is None else (
        f"certified on {c.n_certify:,} other texts: mean chrF drops by {100 * (c.drop or 0.0):.2f} points, by less than "
        f"{100 * c.max_drop:.1f} with {c.confidence:.0%} confidence (bound {100 * c.drop_high:.2f}); {c.harmful} texts are "
        f"worse, {c.beneficial} better"
    )  # fmt: skip
    made = f" It was trained in {learnt:.0f} s." if learnt else ""
    return [
        f"A Marian of {SIZES['encoder_layers']} + {SIZES['decoder_layers']} layers, {SIZES['width']} wide, made by `moments train` from "
        f"{LEARN:,} pairs of a made-up language.{made}{agreed} The improved plan is {held}",
        "", f"The plan: {improved.plan.to_dict()}", "", "Goal: 5 times, at a certified chrF drop of at most 0.5.",
    ]  # fmt: skip


if __name__ == "__main__":
    main()
