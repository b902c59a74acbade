"""Small image models with random weights, images that can be learnt, and damaged files of every kind."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from llm_moments.core import Example

CLASSES = ["circle", "cross", "stripes"]
# As small as each architecture can be, with two or three blocks.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "vit": {
        "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 32,
        "patch_size": 8,
    },
    "resnet": {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [2, 2], "layer_type": "basic"},
    "convnext": {"hidden_sizes": [16, 32], "depths": [2, 2], "num_stages": 2, "image_size": 32},
    "mobilenet_v2": {"depth_multiplier": 0.25, "image_size": 32},
    "beit": {
        "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 32,
        "patch_size": 8,
    },
    "deit": {
        "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 32,
        "patch_size": 8, "architectures": ["DeiTForImageClassification"],
    },
    "swin": {
        "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "image_size": 32, "patch_size": 2,
    },
}  # fmt: skip


def make_image_model(folder: Path, arch: str = "vit", *, seed: int = 0, size: int = 32, **more: Any) -> Path:
    """A model folder with random weights; cnn is the project's own. more: entries of its configuration."""
    import torch
    from transformers import AutoConfig, AutoModelForImageClassification
    from transformers.utils import logging

    logging.disable_progress_bar()
    names = {"id2label": dict(enumerate(CLASSES)), "label2id": {n: i for i, n in enumerate(CLASSES)}}
    torch.manual_seed(seed)
    if arch == "cnn":
        from llm_moments.models.nets.cnn import CnnConfig, MomentsCnnForImageClassification

        options = {"image_size": size, "channels": [8, 16], "hidden": 32, "grid": 4, **more}
        MomentsCnnForImageClassification(CnnConfig(**options, **names)).save_pretrained(folder)
        return folder
    config = AutoConfig.for_model(arch, **{**ARCHITECTURES[arch], **names, **more})
    module = AutoModelForImageClassification.from_config(config)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.15)
            elif parameter.ndim == 4:
                torch.nn.init.kaiming_normal_(parameter)
    module.save_pretrained(folder)
    return with_processor(folder, size)


def with_processor(folder: Path, size: int = 32) -> Path:
    """Squashed to a square, whatever class of image processor the architecture has by itself: some crop, or take no square."""
    told: dict[str, Any] = {"image_processor_type": "ViTImageProcessor", "size": {"height": size, "width": size}}
    told |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
    return folder


def make_arrays(count: int, seed: int = 0, size: int = 16, channels: int = 3) -> list[np.ndarray]:
    """Noise in which no two images are alike: uint8 [size, size, channels]."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (size, size, channels), np.uint8) for _ in range(count)]


def make_pictures(count: int, seed: int = 0, size: int = 16) -> list[Example]:
    """Grey circles, crosses and stripes on noise, with their names: easy to learn."""
    rng = np.random.default_rng(seed)
    grid = np.mgrid[:size, :size]
    made = []
    for number in range(count):
        kind = int(rng.integers(3))
        middle = rng.integers(size // 3, 2 * size // 3 + 1, 2)[:, None, None]
        apart = grid - middle
        shape = [
            np.abs(np.hypot(*apart) - size / 4) < 1.2,
            (np.abs(apart) < 1).any(0),
            (grid[0] + int(rng.integers(4))) % 4 < 2,
        ][kind]
        pixels = np.clip(shape * 150 + rng.integers(0, 80, (size, size)), 0, 255).astype(np.uint8)
        made.append(Example(pixels, CLASSES[kind], number))
    return made


def encoded(array: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind, **options)
    return stream.getvalue()


def photo(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    """Smooth colours, as a photograph has them."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes whose header asks for width x height pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )


def damaged() -> dict[str, bytes]:
    """Files that are no whole image, by what is wrong with them."""
    stream = io.BytesIO()
    photo(200, 150).save(stream, "JPEG", quality=90)
    jpeg, png = stream.getvalue(), encoded(make_arrays(1, size=64)[0])
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 0xFF
    return {
        "empty.png": b"", "text.jpg": b"this is a text, not an image", "half.jpg": jpeg[: len(jpeg) // 2],
        "half.png": png[: len(png) // 2], "head.jpg": jpeg[:20], "head.png": png[:20], "flipped.png": bytes(flipped),
        "bomb.png": bomb(60_000, 60_000), "postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "gif.gif": b"GIF89a" + b"\xff" * 30, "webp.webp": b"RIFF\x10\0\0\0WEBPVP8 \xff\xff\xff\xff",
        "bmp.bmp": b"BM" + b"\xff" * 60, "tiff.tif": b"II*\0\xff\xff\xff\xff" + b"\0" * 20,
    }  # fmt: skip
