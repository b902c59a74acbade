"""What an older version leaves, made by running this with that version first on the path: files.zip.

    PYTHONPATH=<a checkout of the older version>/src python -m tests.made_before.make

No weights are kept: they are noise of a fixed seed, which the test draws again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

SIZES = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
STORE = Path(__file__).with_name("files.zip")


def noise(file: Path, shapes: dict[str, list[Any]]) -> None:
    """Tensors of those shapes, drawn in the order of their names; optimiser's second moments are no less than nought."""
    draw = np.random.default_rng(7)
    tensors = {
        name: np.asarray(draw.normal(0, 0.3, shape)).astype(kind) for name, (shape, kind) in sorted(shapes.items())
    }
    for name, (_, kind) in shapes.items():
        if kind == "uint8":  # a generator's state
            tensors[name] = torch.Generator().manual_seed(7).get_state().numpy()
    save_file(
        {n: np.asarray(abs(t)) for n, t in tensors.items()} if "optimiser" in file.name else tensors,
        file,
        {"format": "pt"},
    )


def shapes_of(file: Path) -> dict[str, list[Any]]:
    return {name: [list(tensor.shape), str(tensor.dtype)] for name, tensor in load_file(file).items()}


def main(room: Path) -> None:
    import llm_moments as lm
    from llm_moments.core import Example
    from tests.fakes import label_of, make_model, make_texts

    class Stop(Exception):
        pass

    def stop(loop: Any) -> None:
        if loop.position.updates == 5:
            raise Stop

    model = make_model(room / "model", **SIZES)
    noise(model / "model.safetensors", shapes_of(model / "model.safetensors"))
    data = [Example(text, label_of(text)) for text in make_texts(120, seed=3)]
    texts = [e.input for e in data[:20]]
    pipe = lm.load(model, plan={"truncate.max_length": 12, "batch.order": "length", "cascade.threshold": 0.5,
                                "cascade.cheap": {"truncate.max_length": 6}})  # fmt: skip
    pipe.save(room / "artefact")
    lm.record(model, data[:12]).save(room / "session.json")
    (room / "worths.json").write_text(json.dumps(lm.weigh(model, data[:20], budget="20s").to_dict()))
    lm.improve(model, data, max_drop=0.3, budget="12s", out=room / "improved")
    (room / "improved" / "report.html").unlink()
    manifest = room / "improved" / "MANIFEST.json"
    told = json.loads(manifest.read_text())
    told["files"].pop("report.html")
    for file in sorted((room / "improved" / "model").rglob("*.safetensors")):
        noise(file, shapes_of(file))
        told["files"][str(file.relative_to(room / "improved"))] = hashlib.sha256(file.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(told))
    learn = {"epochs": 2, "batch_size": 16, "checkpoint_every": 2, "precision": "fp32"}
    try:
        lm.train(model, data[:64], room / "trained", on_update=stop, **learn)
    except Stop:
        pass
    shutil.rmtree(room / "trained.training" / "checkpoints" / "step-00000002")
    last = room / "trained.training" / "checkpoints" / "step-00000004"
    state = json.loads((last / "state.json").read_text())
    for name in state["files"]:
        noise(last / name, shapes_of(last / name))
        state["files"][name] = hashlib.sha256((last / name).read_bytes()).hexdigest()
    state.pop("digest")
    state["digest"] = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
    (last / "state.json").write_text(json.dumps(state))
    found: dict[str, Any] = {
        "answers": np.asarray(pipe.outputs(texts)).tolist(),
        "improved": np.asarray(lm.load(room / "improved").outputs(texts)).tolist(),
        "shapes": {str(f.relative_to(room)): shapes_of(f) for f in sorted(room.rglob("*.safetensors"))},
    }
    kept = sorted(f for f in room.rglob("*") if f.is_file() and f.suffix != ".safetensors" and f.name != ".lock")
    with zipfile.ZipFile(STORE, "w", zipfile.ZIP_DEFLATED) as store:
        for file in kept:
            store.writestr(zipfile.ZipInfo(str(file.relative_to(room))), file.read_bytes(), zipfile.ZIP_DEFLATED)
        weights = lm.train(model, data[:64], room / "trained", **learn).folder / "model.safetensors"
        found["trained"] = {name: float(tensor.astype(float).sum()) for name, tensor in load_file(weights).items()}
        store.writestr(zipfile.ZipInfo("found.json"), json.dumps(found), zipfile.ZIP_DEFLATED)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as room:
        main(Path(room))
    sys.exit(0)
