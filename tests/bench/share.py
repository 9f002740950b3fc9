"""Where the time of a whole model goes: shares of the event limit, of the model and its tokenizer.

    python tests/bench/share.py MODEL.bstm [--frames FRAMES.npz] [--repeats N]

The limit counts a row of weights (up to 512 outputs) per spike and tap of every binary
convolution, one row per cycle: rows = SOPs / outputs * ceil(outputs / 512). The clock is measured
(kernels_bench).
The tokenizer is every step before the first block's attention. Step times are medians, one thread.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from bestdeploy import runtime, toolchain  # noqa: E402

LANES = 512
CONVOLUTIONS = ("conv_neuron", "conv_affine", "weight_conv_neuron", "weight_conv_affine")


def rows_added(step: runtime.StepProfile) -> float:
    """Return rows of up to 512 weights that a step's spikes select, 0 for other steps."""
    if step.step.op not in CONVOLUTIONS:
        return 0.0
    outputs = step.step.outputs[0].shape[-1]
    return step.sops / outputs * -(-outputs // LANES)


def clock_ghz() -> float:
    """Return the clock while computing, as kernels_bench measures it."""
    program = toolchain.build_program(HERE / "kernels_bench.c")
    command = [program, "--reps", "1", "--shape", "8,8,64,64,1", "--rate", "0.1"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return next(line["ghz"] for line in map(json.loads, done.stdout.splitlines()) if "ghz" in line)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="share of the event limit and of the tokenizer")
    parser.add_argument("model", type=Path)
    parser.add_argument("--frames", type=Path, help="npz with `images`; the golden frame without")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--isa")
    options = parser.parse_args()
    model = runtime.load(options.model, isa=options.isa)
    frame = np.load(options.frames)["images"][0] if options.frames else None
    steps = model.profile(frame, options.repeats)
    first = next(i for i, step in enumerate(steps) if step.step.name.startswith("block."))
    ghz = clock_ghz()
    for name, part in (("model", steps), ("tokenizer", steps[:first]), ("blocks", steps[first:])):
        us, rows = sum(step.us for step in part), sum(map(rows_added, part))
        limit = rows / ghz / 1e3
        print(
            f"{name}: {us:.0f} us, {rows:,.0f} rows, at {ghz:.2f} GHz {limit:.0f} us at one per"
            f" cycle: {limit / us:.1%} of the event limit"
        )


if __name__ == "__main__":
    main()
