"""From a checkpoint to exact predictions on a PC and on arm64: the whole way in one script.

    python examples/01_quickstart.py

1 export the shipped checkpoint   2 compile for this machine and for arm64   3 classify the shipped
images   4 compare four forms of the network, integer by integer   5 latency against ONNX Runtime
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bestdeploy import images, runtime, toolchain

HERE = Path(__file__).resolve().parent
OUT = Path("build/quickstart")
N_REFERENCE = 4  # frames for the numpy reference: it is the meaning of the model, not fast
N_PARITY = 16


def bestdeploy(*arguments: str | Path, show: bool = True) -> str:
    """Run a command of the command line; return its stdout."""
    words = [str(a) for a in arguments]
    if show:
        print(f"\n$ bestdeploy {' '.join(words)}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "bestdeploy.cli", *words],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        stderr=None if show else subprocess.PIPE,
    )
    if done.returncode != 0:
        print(done.stdout, done.stderr or "", file=sys.stderr)
        raise SystemExit(done.returncode)
    return done.stdout


def shipped_checkpoint() -> Path:
    """Return the small checkpoint that the shipped images belong to."""
    path = HERE / "checkpoints" / "fashion_mnist_2_32.pt"
    if not path.is_file():
        raise SystemExit(f"{path} is missing: it belongs to the sources")
    return path


def shipped_images() -> Path:
    """Return the shipped images: an array file with labels, else the folder."""
    folder = HERE / "images"
    for pattern in ("*.npz", "*idx3-ubyte*", "*.npy"):
        for path in sorted(folder.glob(pattern)):
            return path
    return folder


def raw_by_cli(model: Path, engine: str, source: Path, limit: int) -> np.ndarray:
    """Return the raw logits that `bestdeploy run` prints as JSON."""
    text = bestdeploy(
        "run", model, source, "--engine", engine, "--limit", limit, "--json", show=False
    )
    return np.array([frame["raw"] for frame in json.loads(text)["result"]["frames"]])


def raw_by_program(bundle: Path, target: str, frames: np.ndarray) -> np.ndarray | None:
    """Return the raw logits of the bundle's own program, under an emulator where needed."""
    emulator = toolchain.find_emulator(target)
    if emulator is None:
        return None
    with tempfile.NamedTemporaryFile(suffix=".raw") as file:
        file.write(frames.tobytes())
        file.flush()
        program = [*emulator, bundle / "bin" / "bst_run", bundle / "model.bstm", file.name]
        done = subprocess.run([*program, "--json"], stdout=subprocess.PIPE, text=True, check=True)
    return np.array([json.loads(line)["raw"] for line in done.stdout.splitlines()])


def parity(model: Path, host: Path, arm: Path, source: Path) -> bool:
    """Print how many raw logits of each form differ from the C runtime; return whether none."""
    meta = runtime.load(host).meta.get("preprocessing")
    shape = runtime.load(host).input_shape
    batches = images.read_batches(source, shape, meta, limit=N_PARITY)
    frames = np.concatenate([batch.frames for batch in batches])
    ours = raw_by_cli(host, "c", source, N_PARITY)
    forms: dict[str, Any] = {
        "numpy reference": raw_by_cli(model, "reference", source, N_REFERENCE),
        "onnxruntime, function bodies": raw_by_cli(model, "ort", source, N_PARITY),
        "onnxruntime, standard ops": raw_by_cli(model, "std", source, N_PARITY),
        "C, host library": ours,
        "C, host program": raw_by_program(host, "host", frames),
        "C, arm64 program": raw_by_program(arm, "arm", frames),
    }
    print(f"\n{'form':30} {'frames':>6} {'raw logits':>10} {'different':>9}")
    exact = True
    for name, raw in forms.items():
        if raw is None:
            print(f"{name:30} not run: no emulator (apt install qemu-user-static)")
            continue
        n_different = int((raw != ours[: len(raw)]).sum())
        exact = exact and n_different == 0
        print(f"{name:30} {len(raw):6} {raw.size:10} {n_different:9}")
    return exact


def main() -> int:
    """Run the five steps."""
    checkpoint, source = shipped_checkpoint(), shipped_images()
    model, host, arm = OUT / "model.onnx", OUT / "host", OUT / "arm"
    config = checkpoint.with_suffix(".toml")
    extra = ("--config", config) if config.is_file() else ()

    print(bestdeploy("export", checkpoint, "-o", model, *extra), end="")
    print(bestdeploy("compile", model, "--target", "host", "-o", host), end="")
    print(bestdeploy("compile", model, "--target", "arm", "-o", arm), end="")
    predictions = bestdeploy("run", host, source, "--top", "3").splitlines()
    print("\n".join([*predictions[:5], "...", predictions[-1]]))
    exact = parity(model, host, arm, source)
    print(f"every form gives the same integers: {'yes' if exact else 'NO'}")
    print(bestdeploy("bench", model), end="")
    print(f"\nnext: bestdeploy inspect {host} --data {source}")
    return 0 if exact else 5


if __name__ == "__main__":
    sys.exit(main())
