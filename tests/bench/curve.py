"""Latency over firing rate: BESTformer-4-384 with random weights at 2 to 50 %, ours and the peers'.

    make bench      (or: python tests/bench/curve.py --help)

The spikes of a trained network cannot be set at will, so this takes networks whose batch norms are
calibrated until each layer fires at the wanted rate (`random_nets.Spec.rate`). The rate on the
x-axis is the one measured on the frames that are timed. What a trained network takes is measured
on the trained network; the curve says how that would change with its rates.

Writes curve.json (every number and sample) and curve.png. Exports are kept in the output folder,
by the network's description, and found again by the next run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from random_nets import Spec, images_of, save  # noqa: E402

from bestdeploy import deploy, plots  # noqa: E402
from bestdeploy._environment import environment  # noqa: E402
from bestdeploy._output import SCHEMA_VERSION, plain  # noqa: E402

SPEC = Spec(seed=7, dim=384, heads=8, depth=4, n_steps=4, size=32, channels=3, classes=10)
SMALL = Spec(seed=7, dim=16, heads=2, depth=1, n_steps=2, size=8, channels=1, classes=5)
RATES = (0.02, 0.05, 0.10, 0.20, 0.35, 0.50)
N_FRAMES = 8
N_VERIFIED = 1


def exported(spec: Spec, folder: Path) -> Path:
    """Return a folder with model.onnx, model.float.onnx, model.bstm and frames.npz of a network."""
    sources = (ROOT / "tests" / "random_nets.py").read_bytes()
    key = hashlib.sha256(json.dumps(asdict(spec)).encode() + sources).hexdigest()[:12]
    place = folder / f"{spec.depth}-{spec.dim}-{spec.rate}-{key}"
    if not (place / "done").exists():
        place.mkdir(parents=True, exist_ok=True)
        np.savez(place / "frames.npz", images=images_of(spec, N_FRAMES))
        save(place / "net.pt", spec)
        np.savez(place / "verified.npz", images=images_of(spec, N_VERIFIED))
        deploy.export(place / "net.pt", place / "model.onnx", data=place / "verified.npz")
        (place / "done").touch()
    return place


def point(spec: Spec, folder: Path, against: list[str], threads: int, seconds: float) -> Any:
    """Measure one network; return its target rate and the report of `bench`."""
    print(f"== {100 * spec.rate:g} %", file=sys.stderr, flush=True)
    place = exported(spec, folder)
    report = deploy.bench(
        place / "model.onnx",
        against=against,
        threads=threads,
        data=place / "frames.npz",
        seconds=seconds,
    )
    for row in report.rows:
        mark = row.answer and row.answer.mark
        print(
            f"{100 * report.firing_rate:5.1f} %  {row.name:12s} {row.median_us / 1e3:8.2f} ms  "
            f"p90 {row.p90_us / 1e3:8.2f}  cpu {row.cpu_us / 1e3:8.2f}  "
            f"times ours {row.ratio:6.2f} [{row.ratio_low:.2f}, {row.ratio_high:.2f}], "
            f"cpu {row.cpu_ratio:.2f}  {mark}",
            flush=True,
        )
    return {"target_rate": spec.rate, "report": report}


def main() -> None:
    parser = argparse.ArgumentParser(description="Latency over firing rate, synthetic networks.")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench")
    parser.add_argument("--rates", default=",".join(map(str, RATES)), help="fractions, by commas")
    parser.add_argument("--against", default="onnxruntime", help="engines, by commas")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=8.0, help="per rate")
    parser.add_argument("--small", action="store_true", help="a tiny network: tries the script")
    options = parser.parse_args()
    base = SMALL if options.small else SPEC
    points = [
        point(
            replace(base, rate=float(rate)),
            options.out / "nets",
            [name for name in options.against.split(",") if name],
            options.threads,
            options.seconds,
        )
        for rate in options.rates.split(",")
    ]
    document = {
        "schema_version": SCHEMA_VERSION,
        "network": asdict(base),
        "environment": environment(),
        "points": plain(points),
    }
    (options.out / "curve.json").write_text(json.dumps(document, indent=2))
    name = f"BESTformer-{base.depth}-{base.dim}, T = {base.n_steps}, random weights"
    plots.curve([p["report"] for p in points], name, options.out / "curve.png")
    print(f"{options.out}/curve.json\n{options.out}/curve.png")


if __name__ == "__main__":
    main()
