"""One table of trained checkpoints: accuracy, size, NS-ACE and latency of what is deployed of each.

    python tests/bench/families.py --data fashion-mnist --data-dir DIR CKPT.pt CKPT.pt ..

Each checkpoint is exported and compiled for this machine. Accuracy is that of the C runtime on the
test split, NS-ACE and rates are `bestdeploy inspect`'s on its first images, latencies those of
`bestdeploy bench`, one thread, ONNX Runtime's float32 in the same run. A family that is not
exported has a row that says so.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from bestdeploy import deploy, runtime  # noqa: E402
from bestdeploy.errors import BestDeployError  # noqa: E402
from training import data  # noqa: E402

HEADER = (
    "network",
    "parameters",
    "accuracy",
    ".bstm",
    "NS-ACE",
    "rate",
    "ms",
    "float32, ms",
    "ratio",
)


def measured(path: Path, frames: np.ndarray, labels: np.ndarray, n: int, seconds: float) -> tuple:
    """Return a cell for each word of HEADER; the first `n` images are for rates and latency.

    Raises:
        BestDeployError: the checkpoint is not exported, compiled or run.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        some = place / "frames.npz"
        np.savez(some, images=frames[:n])
        deploy.export(path, place / "model.onnx", data=some)
        deploy.compile(place / "model.onnx", output=place / "out")
        logits = runtime.load(place / "out").run(frames)
        found = deploy.inspect(path, data=some)
        report = deploy.bench(place / "model.onnx", data=some, seconds=seconds)
    ours, theirs = report.rows
    return (
        path.stem,
        f"{found['parameters']['total']:,}",
        f"{(logits.argmax(axis=1) == labels).mean():.2%}",
        f"{ours.model_bytes / 1e3:.1f} kB",
        f"{found['work']['ns_ace_counted'] / 1e6:.2f} M",
        f"{report.firing_rate:.1%}",
        f"{ours.median_us / 1e3:.3f}",
        f"{theirs.median_us / 1e3:.3f}",
        f"{theirs.ratio:.1f}",
    )


def row(cells: tuple) -> str:
    """Return one line of the table."""
    return "| " + " | ".join(cells) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description="What is deployed of each checkpoint.")
    parser.add_argument("checkpoints", nargs="+", type=Path)
    parser.add_argument("--data", required=True, help="an image set of training/")
    parser.add_argument("--data-dir", required=True, type=Path)
    parser.add_argument("--images", type=int, default=100, help="for rates and latency")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each latency measurement")
    options = parser.parse_args()
    frames, labels = data.load(options.data, options.data_dir, "test")
    print(row(HEADER), row(("---",) * len(HEADER)), sep="\n", flush=True)
    failed = 0
    for path in options.checkpoints:
        try:
            cells = measured(path, frames, labels, options.images, options.seconds)
        except BestDeployError as error:
            failed += 1
            cells = (path.stem, f"not deployed: {error}", *("",) * (len(HEADER) - 2))
        print(row(cells), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
