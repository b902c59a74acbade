"""Images as values: decoding whatever is given, and clear words about what cannot be."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from llm_moments.base.errors import DataError
from llm_moments.data import images
from llm_moments.data.images import Image, check, decoded, image_of, size_of
from tests.image_fakes import bomb, damaged, encoded, make_arrays, photo


def saved(image: Pillow.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def as_array(value: object, channels: int = 3) -> np.ndarray:
    return np.asarray(decoded(image_of(value), channels))


@pytest.mark.parametrize(("name", "data"), damaged().items())
def test_damaged_files_are_named_and_never_crash(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=name):
        check(image_of(tmp_path / name))
    with pytest.raises(DataError):
        check(image_of(data))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"]), st.data())
def test_any_damage_is_an_image_or_a_clear_error(kind: str, data: st.DataObject) -> None:
    whole = saved(photo(24, 18), kind)
    cut = data.draw(st.integers(0, len(whole)))
    made = bytearray(whole[:cut])
    for at in data.draw(st.lists(st.integers(0, max(cut - 1, 0)), max_size=4)) if made else ():
        made[at] = data.draw(st.integers(0, 255))
    try:
        decoded(Image(data=bytes(made), name="x"))
    except DataError as error:
        assert str(error).startswith("x ")


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="60000 x 60000 pixels|more than"):
        decoded(image_of(bomb(60_000, 60_000)))
    with pytest.raises(DataError, match=r"9000 x 9000 pixels, over 64,000,000"):
        decoded(image_of(bomb(9000, 9000)))
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    for value in (np.zeros((11, 10), np.uint8), Pillow.new("RGB", (11, 10)), encoded(np.zeros((11, 10), np.uint8))):
        with pytest.raises(DataError, match="over 100"):
            decoded(image_of(value))


def test_every_kind_of_value_is_the_same_image(tmp_path: Path) -> None:
    array = make_arrays(1)[0]
    (tmp_path / "a.png").write_bytes(encoded(array))
    same = [
        array, encoded(array), bytearray(encoded(array)), Pillow.fromarray(array), str(tmp_path / "a.png"),
        tmp_path / "a.png", {"image": array}, {"bytes": encoded(array), "path": None}, {"path": str(tmp_path / "a.png")},
        image_of(encoded(array)).portable(), image_of(array).portable(), image_of(array),
    ]  # fmt: skip
    for value in same:
        assert np.array_equal(as_array(value), array)
        json.dumps(image_of(value).portable())


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").mkdir()
    with pytest.raises(DataError, match=r"x.jpg is a folder.*--data"):
        decoded(image_of(tmp_path / "x.jpg"))


def test_what_is_no_image_is_told_so() -> None:
    for value in (5, None, ["a"], {}, {"text": "a"}, "https://host/a.png", {"base64": "%"}, {"array": "AAAA"}):
        with pytest.raises(DataError):
            decoded(image_of(value))
    for wrong in (
        np.zeros((4, 4), np.float32),
        np.zeros((4, 4, 5), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((0, 4), np.uint8),
    ):
        with pytest.raises(DataError):
            image_of(wrong)


def test_modes_become_colour_or_grey() -> None:
    colour = np.asarray(photo())
    grey = np.asarray(photo().convert("L"))
    assert np.array_equal(as_array(saved(photo(), "PNG")), colour)
    assert np.array_equal(as_array(saved(photo(), "PNG"), 1)[..., None] if grey.ndim == 2 else grey, grey[..., None])
    assert np.array_equal(as_array(grey), np.repeat(grey[:, :, None], 3, 2))
    assert np.array_equal(as_array(colour, 1)[:, :, 0], grey)  # an array, by the same formula as Pillow
    rgba = np.dstack([colour, np.full(colour.shape[:2], 7, np.uint8)])
    for value in (rgba, encoded(rgba)):  # alpha is left out
        assert np.array_equal(as_array(value), colour)
    palette = saved(photo().quantize(16), "PNG")
    assert as_array(palette).shape == colour.shape
    palette = saved(photo().quantize(16), "PNG", transparency=0)
    assert as_array(palette).shape == colour.shape
    bits = saved(photo().convert("1"), "PNG")
    assert set(np.unique(as_array(bits))) <= {0, 255}
    cmyk = saved(photo().convert("CMYK"), "JPEG", quality=98)
    assert np.abs(as_array(cmyk).astype(int) - colour).mean() < 12


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    wide = np.linspace(0, 65535, 300).astype(np.uint16).reshape(15, 20)
    png = saved(Pillow.fromarray(wide), "PNG")
    for value in (wide, png):
        found = as_array(value, 1).reshape(15, 20)
        assert np.abs(found.astype(int) - wide // 257).max() <= 1
    with pytest.raises(DataError, match="values from"):
        decoded(image_of(saved(Pillow.fromarray(np.full((4, 4), -5.0, np.float32)), "TIFF")))


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_orientation_is_undone(turn: int) -> None:
    array = make_arrays(1, size=8)[0][:5]
    exif = Pillow.Exif()
    exif[0x0112] = turn
    found = as_array(saved(Pillow.fromarray(array), "PNG", exif=exif))
    turned = {1: array, 2: array[:, ::-1], 3: array[::-1, ::-1], 4: array[::-1]}
    expected = turned.get(turn)
    if expected is None:
        t = array.transpose(1, 0, 2)
        expected = {5: t, 6: t[:, ::-1], 7: t[::-1, ::-1], 8: t[::-1]}[turn]
    assert np.array_equal(found, expected)


def test_the_first_frame_of_an_animation_counts() -> None:
    frames = [Pillow.new("RGB", (6, 4), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert tuple(as_array(data)[0, 0]) == (255, 0, 0) or kind == "WEBP"


def test_a_draft_is_no_smaller_than_asked() -> None:
    data = saved(photo(400, 300), "JPEG")
    for least in (0, 1, 60, 150, 299):
        found = decoded(image_of(data), 3, least)
        assert min(found.size) >= least
    assert decoded(image_of(data), 3, 60).size == (100, 75)
    assert decoded(image_of(data), 3, 0).size == (400, 300) == size_of(image_of(data))
    assert decoded(image_of(data), 1, 60).mode == "L"


def test_images_are_known_by_their_content(tmp_path: Path) -> None:
    one, two = make_arrays(2)
    (tmp_path / "a.png").write_bytes(encoded(one))
    (tmp_path / "b.png").write_bytes(encoded(one))
    assert image_of(tmp_path / "a.png") == image_of(tmp_path / "b.png")
    assert str(image_of(one)) == str(image_of(one.copy())) != str(image_of(two))
    assert len({image_of(one), image_of(one.copy()), image_of(two)}) == 2
