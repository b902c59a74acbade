"""The model that a name means: a folder, a file, a server, or an id on the hub."""

from __future__ import annotations

from pathlib import Path

from llm_moments.base.errors import ModelError
from llm_moments.models import formats
from llm_moments.models.model import Model, checked_config, notes_of


def open_model(ref: str | Path, *, trust_remote_code: bool = False) -> Model:
    """The model in a local folder or, if there is none, of that id on the Hugging Face hub."""
    if str(ref).startswith(("http://", "https://")):
        return formats.remote(str(ref))
    path = Path(ref).expanduser()
    if not path.exists() and path.suffix in formats.FILES:
        raise ModelError(f"{ref}: there is no such file")
    if not path.exists():
        path = _download(str(ref))
    if path.suffix in formats.FILES and path.is_file():
        return formats.alone(path, str(ref))
    if path.is_file():
        raise ModelError(
            f"{ref} is a file; a model is a folder with config.json and *.safetensors, or a file ({', '.join(formats.FILES)})"
        )
    if (own := formats.folder(path, str(ref))) is not None:
        return own
    return Model(
        path,
        checked_config(path, trust_remote_code),
        trust_remote_code,
        source=str(ref),
        notes=notes_of(path),
    )


def _download(ref: str) -> Path:
    if ref.count("/") > 1 or ref.startswith((".", "/", "~")):
        raise ModelError(f"{ref}: there is no such folder")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError
    except ImportError as error:
        raise ModelError(f"{ref}: there is no such folder, and huggingface_hub is not installed") from error
    keep = ["*.json", "*.safetensors", "*.txt", "*.model", "*.spm"]
    try:
        return Path(snapshot_download(ref, allow_patterns=keep))
    except (OSError, ValueError, HFValidationError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{ref}: no such folder, and the hub did not give it: {first}") from error
