"""Sounds in tables and folders: columns of any name, bytes inside a table, texts beside files, paths that lead out."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_moments.base.errors import DataError
from llm_moments.data.audio import blocks, check
from llm_moments.data.readers import read
from tests.fakes_speech import silence, tone, write


def table(file: Path, rows: list[dict[str, Any]]) -> Path:
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return file
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file


@pytest.mark.parametrize(
    ("sound", "text"),
    [
        ("path", "sentence"),
        ("audio_filepath", "text"),
        ("file_name", "transcription"),
        ("wav", "said"),
        ("audio", None),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_columns_of_other_names_are_found(kind: str, sound: str, text: str | None, tmp_path: Path) -> None:
    names = [write(tmp_path / f"{i}.wav", tone(0.5 + i)).name for i in range(2)]
    rows = [{sound: name, "speaker": "a", **({text: f"words {name}"} if text else {})} for name in names]
    data = read(table(tmp_path / f"rows.{kind}", rows), **({"label": "said"} if text == "said" else {}))
    found = list(data)
    assert [Path(e.input["audio"]).name for e in found] == names
    assert [e.reference for e in found] == [f"words {name}" if text else None for name in names]


def test_a_column_that_is_named_is_taken(tmp_path: Path) -> None:
    names = [write(tmp_path / f"{i}.flac", tone(1)).name for i in range(2)]
    rows = [{"near": name, "far": name, "text": "words"} for name in names]
    data = read(table(tmp_path / "rows.csv", rows), text="far")
    assert data.columns["text"] == "far"
    assert data.columns["label"] == "text"
    with pytest.raises(DataError, match="did you mean 'far'"):
        read(tmp_path / "rows.csv", text="farr")


def test_bytes_in_a_table_are_the_same_sound(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = [write(tmp_path / f"{i}.flac", tone(1 + i)) for i in range(2)]
    rows = [{"audio": {"bytes": f.read_bytes(), "path": f.name}, "text": "words"} for f in files]
    rows.append({"audio": {"bytes": b"no sound", "path": "bad.wav"}, "text": "words"})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    data = read(tmp_path / "rows.parquet", on_error="skip")
    found = list(data)
    assert data.errors["no sound"] == 1
    assert "bad.wav" in data.reported[0]
    for example, file in zip(found, files, strict=True):
        assert example.reference == "words"
        np.testing.assert_array_equal(
            np.concatenate(list(blocks(example.input))), np.concatenate(list(blocks(str(file))))
        )


def test_a_folder_of_sounds_has_its_texts_beside_them(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    write(tmp_path / "one" / "a.wav", tone(1))
    write(tmp_path / "b.ogg", tone(1))
    (tmp_path / "one" / "a.txt").write_text("what is said\n")
    (tmp_path / ".hidden.wav").write_bytes(b"")
    found = list(read(tmp_path))
    assert [(Path(e.input["audio"]).name, e.reference) for e in found] == [("b.ogg", None), ("a.wav", "what is said")]


def test_paths_that_lead_out_or_nowhere_are_named(tmp_path: Path) -> None:
    write(tmp_path / "outside.wav", tone(1))
    room = tmp_path / "room"
    room.mkdir()
    good = write(room / "good.wav", tone(1)).name
    for name, said in (
        ("../outside.wav", "outside of"),
        ("gone.wav", "no such file"),
        ("", "not the path"),
        (".", "no such"),
    ):
        data = table(room / "rows.jsonl", [{"audio": good, "text": "a"}, {"audio": name, "text": "b"}])
        with pytest.raises(DataError, match=f"row 2: .*{said}"):
            list(read(data))


def test_odd_files_are_heard_or_refused(tmp_path: Path) -> None:
    """8 bits, floats with NaN, more channels, a wrong extension: the same sound. What is none says so."""
    sound = tone(1)
    broken = sound.copy()
    broken[100:200], broken[300] = np.nan, np.inf
    stereo = np.stack([sound, sound], 1)
    write(tmp_path / "eight.wav", sound, subtype="PCM_U8")
    write(tmp_path / "stereo.wav", stereo, subtype="PCM_24")
    write(tmp_path / "nan.wav", broken, subtype="FLOAT")
    (tmp_path / "wrong.mp3").write_bytes(write(tmp_path / "plain.wav", sound, subtype="PCM_16").read_bytes())
    for name in ("eight.wav", "stereo.wav", "nan.wav", "wrong.mp3"):
        assert check(tmp_path / name) == pytest.approx(1.0)
        heard = np.concatenate(list(blocks(str(tmp_path / name))))
        assert np.isfinite(heard).all()
        assert np.abs(heard[1000:] - sound[1000:]).max() < 0.02, name
    write(tmp_path / "zero.wav", silence(0))
    for path, said in (
        (tmp_path / "zero.wav", "no samples"),
        (tmp_path, "a folder"),
        (tmp_path / "none.wav", "no such file"),
    ):
        with pytest.raises(DataError, match=said):
            check(path)


def test_rows_in_memory_have_their_references(tmp_path: Path) -> None:
    from llm_moments.evaluate.evaluation import gather

    file = str(write(tmp_path / "a.wav", tone(1)))
    found, _ = gather([{"audio": file, "text": "words"}, {"source": "red dog", "target": "dogo redo"}])
    assert [(e.input, e.reference) for e in found] == [
        ({"audio": file}, "words"), ({"source": "red dog"}, "dogo redo"),
    ]  # fmt: skip
