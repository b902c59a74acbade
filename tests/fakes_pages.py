"""Pages of text, drawn, and the two models that read them, where they are installed."""

from __future__ import annotations

from pathlib import Path

import pytest


def model(kind: str) -> Path:
    """PaddleOCR's detector (det) or recogniser (rec), from the package rapidocr; the test is skipped without it."""
    package = pytest.importorskip("rapidocr", reason="rapidocr is not installed (pip install 'llm-moments[ocr]')")
    return next((Path(package.__file__).parent / "models").glob(f"*{kind}*.onnx"))


def drawn(folder: Path, name: str, lines: list[str], size: tuple[int, int] = (640, 480), tall: int = 26) -> Path:
    """A white page with these lines."""
    from PIL import Image, ImageDraw, ImageFont

    page = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(page)
    for at, line in enumerate(lines):
        pen.text((30, 24 + at * int(tall * 2.2)), line, fill=(20, 20, 60), font=ImageFont.load_default(tall))
    page.save(folder / f"{name}.png")
    return folder / f"{name}.png"
