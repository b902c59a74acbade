"""A made-up language with known rules, so that a translation can be judged exactly.

    python benchmarks/language.py --rows 20000 --seed 0 --out pairs.csv

Nouns come before their adjectives and take an ending in the plural; the verb goes last; numbers are written out
digit by digit of worth; a date begins with the digits of its year, then the month, then the day.
"""

from __future__ import annotations

import argparse
import csv
import random
from pathlib import Path

NOUNS = dict(
    zip(
        [
            "house",
            "river",
            "teacher",
            "dog",
            "book",
            "tree",
            "garden",
            "bridge",
            "child",
            "doctor",
            "letter",
            "city",
            "horse",
            "king",
            "market",
            "mountain",
            "ship",
            "table",
            "window",
            "farmer",
            "road",
            "stone",
            "bird",
            "cup",
            "door",
            "friend",
            "island",
            "lamp",
            "school",
            "train",
        ],
        [
            "domu",
            "rivo",
            "maistre",
            "kan",
            "libru",
            "arbo",
            "jardi",
            "ponti",
            "infa",
            "medik",
            "karto",
            "urbe",
            "kaval",
            "rego",
            "merka",
            "monte",
            "navi",
            "tabu",
            "fenes",
            "agrik",
            "via",
            "petra",
            "avio",
            "kopa",
            "portu",
            "amik",
            "insu",
            "lampa",
            "skola",
            "treno",
        ],
        strict=True,
    )
)
ADJECTIVES = dict(
    zip(
        ["red", "old", "small", "new", "dark", "quiet", "green", "tall", "cold", "strange", "heavy", "young"],
        ["rosa", "veka", "pika", "nova", "skura", "kveta", "verda", "alta", "frida", "stranja", "peza", "juna"],
        strict=True,
    )
)
VERBS = dict(
    zip(
        [
            "sees",
            "finds",
            "buys",
            "sells",
            "paints",
            "follows",
            "needs",
            "leaves",
            "moves",
            "counts",
            "watches",
            "draws",
        ],
        [
            "vidar",
            "trovar",
            "komprar",
            "vendar",
            "pintar",
            "sekvar",
            "bezonar",
            "lasar",
            "movar",
            "kontar",
            "gardar",
            "desnar",
        ],
        strict=True,
    )
)
MONTHS = dict(
    zip(
        [
            "January",
            "February",
            "March",
            "April",
            "May",
            "June",
            "July",
            "August",
            "September",
            "October",
            "November",
            "December",
        ],
        ["yana", "feva", "marsa", "avra", "maya", "yuna", "yula", "aga", "setem", "okto", "novem", "decem"],
        strict=True,
    )
)
DIGITS = ["nul", "un", "dos", "tri", "kva", "pen", "sek", "sep", "okt", "nov"]
PLACES = ("mil", "cent", "dek", "")


def number(value: int) -> str:
    """0 to 9999 written out: 347 is `tricent kvadek sep`."""
    if value == 0:
        return DIGITS[0]
    digits = f"{value:04d}"
    return " ".join(DIGITS[int(d)] + place for d, place in zip(digits, PLACES, strict=True) if d != "0")


def noun_phrase(rng: random.Random) -> tuple[str, str]:
    noun, word = rng.choice(list(NOUNS.items()))
    some = rng.sample(list(ADJECTIVES.items()), rng.choice((0, 1, 1, 2)))
    count = rng.choice((None, None, rng.randint(2, 9999)))
    theirs = " ".join([word + ("s" if count else ""), *(t for _, t in reversed(some))])
    ours = " ".join([*(a for a, _ in some), noun + ("s" if count else "")])
    if count:
        return f"{count} {ours}", f"{number(count)} {theirs}"
    return f"the {ours}", f"{theirs} la"


def date(rng: random.Random) -> tuple[str, str]:
    month, word = rng.choice(list(MONTHS.items()))
    day, year = rng.randint(1, 28), rng.randint(1800, 2100)
    return f"on {month} {day}, {year}", f"te {' '.join(DIGITS[int(d)] for d in str(year))} {word} {number(day)}"


def sentence(rng: random.Random) -> tuple[str, str]:
    (subject, theirs), (verb, word), (thing, other) = (
        noun_phrase(rng),
        rng.choice(list(VERBS.items())),
        noun_phrase(rng),
    )
    ours, made = f"{subject} {verb} {thing}", f"{theirs} {other} {word}"
    if rng.random() < 0.4:
        when, then = date(rng)
        ours, made = f"{ours} {when}", f"{then} {made}"
    return f"{ours}.", f"{made}."


def pairs(count: int, seed: int) -> list[tuple[str, str]]:
    """That many different sentences with their translations; the same for the same seed."""
    rng, found = random.Random(seed), {}
    while len(found) < count:
        ours, theirs = sentence(rng)
        found[ours] = theirs
    return list(found.items())


def write(path: Path, rows: list[tuple[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("source", "target"))
        writer.writerows(rows)
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    wanted = parser.parse_args()
    write(wanted.out, pairs(wanted.rows, wanted.seed))
