"""What other optimisers bring out of the box: int8 ONNX models by `olive auto-opt` and neural-compressor.

    python benchmarks/peers.py [--model .demo/model]

Each is installed in a virtual environment of its own under .bench/ (git-ignored), since they pin old
versions, and makes its model once. One that cannot be installed or fails on this model gives its reason,
which the benchmark of speed prints.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import llm_moments as lm
from llm_moments.engines.onnx_runtime import GRAPH

ROOT = Path(__file__).resolve().parents[1] / ".bench"
QUIET = {"OLIVE_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
PATIENCE = 1200  # seconds for one step of one peer


@dataclass(frozen=True)
class Peer:
    """packages: a pip command each. make: the program, run in the peer's environment, that writes the model."""

    packages: tuple[tuple[str, ...], ...]
    make: str


OLIVE = """
import subprocess, sys
from pathlib import Path
model, plain, out = sys.argv[1:]
olive = Path(sys.executable).with_name("olive")
subprocess.run([str(olive), "auto-opt", "-m", model, "--task", "text-classification", "--device", "cpu",
    "--provider", "CPUExecutionProvider", "--precision", "int8", "-o", out], check=True)
"""
# A graph in, a graph out: dynamic quantisation with its own defaults.
COMPRESSOR = """
import sys
from neural_compressor import PostTrainingQuantConfig, quantization
model, plain, out = sys.argv[1:]
found = quantization.fit(model=plain, conf=PostTrainingQuantConfig(approach="dynamic"))
found.save(out + "/model.onnx")
"""
PEERS = {
    "olive auto-opt int8": Peer(
        (("torch==2.13.0",), ("torch==2.13.0", "olive-ai", "transformers", "onnxruntime", "onnxscript", "optimum", "requests")), OLIVE
    ),
    # 2.6 is the last that quantises ONNX models; 3.x makes torch modules only.
    "neural-compressor 2.6 int8": Peer(
        (("neural-compressor==2.6", "numpy<2", "onnx<1.18", "onnxruntime<1.20", "setuptools", "six"),), COMPRESSOR
    ),
}  # fmt: skip


class Failed(Exception):
    """Why a peer has no model."""


def made(name: str, model: str, root: Path = ROOT) -> Path:
    """The peer's ONNX file for that model, made if it is not there; Failed with the reason."""
    folder = root / name.split()[0]
    out = folder / "models" / lm.load(model).model.digest[:16]
    found = sorted(out.rglob("*.onnx"))
    if not found:
        out.mkdir(parents=True, exist_ok=True)
        python = _environment(folder / "venv", PEERS[name])
        words = [PEERS[name].make, str(Path(model).resolve()), str(_plain(model).resolve()), str(out)]
        _run(
            f"{name} makes its model", [str(python), "-c", *words], cwd=out
        )  # they leave caches and logs where they run
        found = sorted(out.rglob("*.onnx"))
    if not found:
        raise Failed("it ended well, but left no *.onnx")
    return max(found, key=lambda file: file.stat().st_mtime)


def _environment(folder: Path, peer: Peer) -> Path:
    """The interpreter of the peer's own environment, with its packages."""
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    done = folder / ".installed"
    if not done.exists():
        venv.create(folder, with_pip=True, clear=True)
        for packages in peer.packages:
            _run(f"pip install {' '.join(packages)}", [str(python), "-m", "pip", "install", "-q", *packages])
        done.touch()
    return python


def _plain(model: str) -> Path:
    """The model as fp32 ONNX, as our own engine exports it."""
    pipe = lm.load(model, plan={"forward.engine": "onnxruntime"})
    settings = pipe.plan.settings("forward")
    pipe.engines.get(settings)
    return pipe.engines.store(settings) / GRAPH


def _run(what: str, command: list[str], cwd: Path | None = None) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, env=os.environ | QUIET, cwd=cwd
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{what}: not done after {PATIENCE} s") from None
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise Failed(f"{what}: {lines[-1][:160] if lines else f'exit code {done.returncode}'}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=".demo/model")
    wanted = parser.parse_args()
    for name in PEERS:
        try:
            print(name, made(name, wanted.model))
        except Failed as why:
            print(name, "has no model:", why)


if __name__ == "__main__":
    main()
