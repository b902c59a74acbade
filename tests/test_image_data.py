"""Readers of images: IDX, folders, tables of paths, Parquet with bytes; and what is wrong with some of them."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm_moments.base.errors import DataError
from llm_moments.data.images import decoded
from llm_moments.data.readers import read, split
from tests.image_fakes import damaged, encoded, make_arrays


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return head + array.tobytes()


def idx_pair(folder: Path, count: int = 5, *, packed: bool = True, labels: int | None = None) -> Path:
    rng = np.random.default_rng(0)
    images, classes = rng.integers(0, 256, (count, 6, 4), np.uint8), np.arange(labels or count, dtype=np.uint8) % 3
    pack, end = (gzip.compress, ".gz") if packed else (bytes, "")
    (folder / f"t10k-images-idx3-ubyte{end}").write_bytes(pack(idx(images)))
    (folder / f"t10k-labels-idx1-ubyte{end}").write_bytes(pack(idx(classes)))
    return folder / f"t10k-images-idx3-ubyte{end}"


@pytest.mark.parametrize("packed", [True, False])
def test_idx_finds_its_labels(tmp_path: Path, packed: bool) -> None:
    found = list(read(idx_pair(tmp_path, packed=packed)))
    assert [e.reference for e in found] == [0, 1, 2, 0, 1]
    assert found[0].input.array.shape == (6, 4)
    assert "image 1" in found[0].input.name


def test_idx_without_labels_is_read(tmp_path: Path) -> None:
    file = idx_pair(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    assert [e.reference for e in read(file)] == [None] * 5


def test_faults_of_idx_files_are_named(tmp_path: Path) -> None:
    file = idx_pair(tmp_path, labels=7)
    with pytest.raises(DataError, match="7 labels for the 5 images"):
        list(read(file))
    with pytest.raises(DataError, match="holds labels; give the file of the images"):
        list(read(tmp_path / "t10k-labels-idx1-ubyte.gz"))
    whole = gzip.decompress(file.read_bytes())
    other = tmp_path / "x-images-idx3-ubyte"
    for data, words in (
        (whole[:-3], "but has 117"), (whole + b"x", "but has more"), (whole[:9], "ends within its header"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "over"),
    ):  # fmt: skip
        other.write_bytes(data)
        with pytest.raises(DataError, match=words):
            list(read(other))
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(DataError, match="no whole gzip file|but has"):
        list(read(file))


def picture_folder(folder: Path) -> Path:
    for at, name in enumerate(("cat", "cat", "dog")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / f"{at}.png").write_bytes(encoded(make_arrays(1, seed=at)[0]))
    (folder / "cat" / "notes.md").write_text("no image")
    (folder / "cat" / ".hidden.png").write_bytes(b"")
    return folder


def test_a_folder_of_classes(tmp_path: Path) -> None:
    found = list(read(picture_folder(tmp_path / "pictures")))
    assert [(e.id, e.reference) for e in found] == [("cat/0.png", "cat"), ("cat/1.png", "cat"), ("dog/2.png", "dog")]
    assert decoded(found[0].input).size == (16, 16)


def test_a_folder_too_high_up_is_told_where_the_classes_are(tmp_path: Path) -> None:
    picture_folder(tmp_path / "nested" / "train")
    (tmp_path / "nested" / "a" / "b").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no images.*Did you mean .*nested/train\?"):
        list(read(tmp_path / "nested"))


def test_a_folder_of_images_without_classes(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(make_arrays(1)[0], "JPEG"))
    assert [e.reference for e in read(tmp_path)] == [None]


def table(folder: Path, paths: list[str], name: str = "file") -> Path:
    with (folder / "table.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["split", name, "label"], *(["train", path, "cat"] for path in paths)])
    return folder / "table.csv"


def test_a_table_of_paths(tmp_path: Path) -> None:
    picture_folder(tmp_path / "pictures")
    found = list(read(table(tmp_path, ["pictures/cat/0.png", "pictures/dog/2.png"])))
    assert [decoded(e.input).size for e in found] == [(16, 16)] * 2
    assert [e.reference for e in found] == ["cat", "cat"]


def test_paths_never_leave_the_folder_of_their_table(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(encoded(make_arrays(1)[0]))
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link.png").symlink_to(tmp_path / "secret.png")
    for path in ("../secret.png", str(tmp_path / "secret.png"), "link.png"):
        with pytest.raises(DataError, match="row 1.*leads out of"):
            list(read(table(inside, [path])))


def test_parquet_with_bytes(tmp_path: Path) -> None:
    data = [encoded(array) for array in make_arrays(3)]
    pq.write_table(pa.table({"image": data, "label": [1, 0, 1]}), tmp_path / "a.parquet")
    rows = [{"bytes": d, "path": f"{i}.png"} for i, d in enumerate(data)]
    pq.write_table(pa.table({"image": rows, "label": [1, 0, 1]}), tmp_path / "b.parquet")
    for name in ("a", "b"):
        found = list(read(tmp_path / f"{name}.parquet"))
        assert [e.reference for e in found] == [1, 0, 1]
        assert np.array_equal(np.asarray(decoded(found[2].input)), make_arrays(3)[2])


def test_damaged_images_are_skipped_and_counted(tmp_path: Path) -> None:
    for name, data in {**damaged(), "good.png": encoded(make_arrays(1)[0])}.items():
        (tmp_path / name).write_bytes(data)
    file = table(tmp_path, [*damaged(), "good.png", "missing.png"])
    data = read(file, on_error="skip")
    assert [e.input.name for e in data] == ["good.png"]
    assert data.errors == {"unreadable image": len(damaged()) + 1}
    assert all(any(name in line for line in data.reported) for name in damaged())


def test_bad_files_of_a_folder_are_single_rows(tmp_path: Path) -> None:
    """A link that leads out of the folder does not end it, and a folder that is called like an image is none."""
    folder = picture_folder(tmp_path / "pictures")
    (tmp_path / "secret.png").write_bytes(encoded(make_arrays(1)[0]))
    (folder / "cat" / "0 link.png").symlink_to(tmp_path / "secret.png")
    (folder / "cat" / "1 gone.png").symlink_to(tmp_path / "nothing.png")
    (folder / "cat" / "2.jpg").mkdir()
    (folder / " dog").mkdir()
    (folder / " dog" / " 3.png").write_bytes(encoded(make_arrays(1)[0]))
    data = read(folder, on_error="skip")
    assert [e.id for e in data] == [" dog/ 3.png", "cat/0.png", "cat/1.png", "dog/2.png"]
    assert data.errors == {"outside": 2}
    with pytest.raises(DataError, match="leads out of"):
        list(read(folder))


def test_images_are_split_by_content(tmp_path: Path) -> None:
    examples = list(read(idx_pair(tmp_path, 200)))
    parts = split(examples, fractions={"a": 0.5, "b": 0.5})
    again = split([*reversed(examples), *examples], fractions={"a": 0.5, "b": 0.5})
    assert 60 < len(parts["a"]) < 140
    assert {e.input.digest for e in parts["a"]} == {e.input.digest for e in again["a"]}


def test_a_text_column_stays_text(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("text,label\nsee cat.jpg here,1\ncat.jpg,0\n")
    assert [e.input for e in read(file)] == ["see cat.jpg here", "cat.jpg"]
