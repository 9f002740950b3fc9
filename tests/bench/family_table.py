"""One table of trained checkpoints: accuracy, size, NS-ACE and latency of what is deployed of each.

    python tests/bench/family_table.py --data fashion-mnist --data-dir DIR CKPT.pt CKPT.pt ..

Each checkpoint of `training/` is exported (as a module of known parts where its family has no
importer) and compiled for this machine. Accuracy is that of the C runtime on the test split, NS-ACE
is `bestdeploy inspect`'s of the exported network on its first images, latencies are those of
`bestdeploy bench`, one thread, ONNX Runtime's float32 in the same run. A family that is not
exported has a row that says so.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from bestdeploy import deploy, runtime  # noqa: E402
from bestdeploy.errors import BestDeployError  # noqa: E402
from training import checkpoint, data, models  # noqa: E402
from training.errors import TrainingError  # noqa: E402

TRACED = ("spiking_vgg", "sew_resnet")  # families whose keys differ from network to network
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


def export(path: Path, output: Path, some: Path, settings: dict[str, str]) -> None:
    """Export a checkpoint, by its family or as a traced module."""
    content = checkpoint.load(path)
    if content["args"]["family"] not in TRACED:
        deploy.export(path, output, data=some, settings=settings)
        return
    model = models.restore(content, path).eval()
    images = torch.zeros(1, model.config.channels, *2 * (model.config.image_size,))
    pixels = {"mean": model.mean.flatten().tolist(), "std": model.std.flatten().tolist()}
    deploy.export_module(model, images, output, data=some, settings=pixels)


def measured(
    path: Path,
    frames: np.ndarray,
    labels: np.ndarray,
    n: int,
    seconds: float,
    settings: dict[str, str],
) -> tuple:
    """Return a cell for each word of HEADER; the first `n` images are for rates and latency.

    Raises:
        BestDeployError: the checkpoint is not exported, compiled or run.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        some = place / "frames.npz"
        np.savez(some, images=frames[:n])
        export(path, place / "model.onnx", some, settings)
        deploy.compile(place / "model.onnx", output=place / "out")
        logits = runtime.load(place / "out").run(frames)
        found = deploy.inspect(place / "model.onnx", data=some)
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
    parser.add_argument("--set", action="append", default=[], metavar="K=V", help="of export")
    options = parser.parse_args()
    settings = dict(pair.split("=", 1) for pair in options.set)
    frames, labels = data.load(options.data, options.data_dir, "test")
    print(row(HEADER), row(("---",) * len(HEADER)), sep="\n", flush=True)
    failed = 0
    for path in options.checkpoints:
        try:
            cells = measured(path, frames, labels, options.images, options.seconds, settings)
        except (BestDeployError, TrainingError) as error:
            failed += 1
            cells = (path.stem, f"not deployed: {error}", *("",) * (len(HEADER) - 2))
        print(row(cells), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
