"""Writes docs/verbs/VERB.md from each verb's own help; `--check` fails if a page is not up to date."""

import os
import subprocess
import sys
from pathlib import Path

from llm_moments.cli.main import app

VERBS = [str(verb.name) for verb in app.registered_commands]
FOLDER = Path(__file__).parent.parent / "docs" / "verbs"


def page(verb: str) -> str:
    command = [sys.executable, "-m", "llm_moments.cli.main", verb, "--help"]
    plain = {**os.environ, "COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}
    plain = {k: v for k, v in plain.items() if not k.startswith("MOMENTS_")}
    text = subprocess.run(command, capture_output=True, text=True, check=True, env=plain).stdout
    shown = "\n".join(
        line.rstrip() for line in text.replace("python -m llm_moments.cli.main", "moments").strip().splitlines()
    )
    return f"# moments {verb}\n\nFrom `moments {verb} --help`; written by `make docs`.\n\n```\n{shown}\n```\n"


def main() -> None:
    stale = []
    for verb in VERBS:
        file, text = FOLDER / f"{verb}.md", page(verb)
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            stale.append(file.name)
            if "--check" not in sys.argv:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8")
    if stale and "--check" in sys.argv:
        sys.exit(f"not up to date: {', '.join(stale)}; run make docs")


if __name__ == "__main__":
    main()
