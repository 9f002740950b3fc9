"""Peak memory of one training step against depth, with and without recomputation.

    python -m training.memory [--depths 2,8,16] [--dim 64] [--batch 16]

Every case runs in a process of its own: one forward and backward pass of a BESTformer, 32x32x3.
"peak" is what the step adds to the process at its highest point (on CUDA: to the allocator);
"kept" are the bytes that the forward pass holds for the backward pass, parameters excluded.
With recomputation (``recompute = true`` in [train]) the encoder keeps its two last streams only, so
"kept" does not depend on depth; gradients of the weights still grow with it, as weights do.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys

import torch

from training.errors import ConfigError, TrainingError, guarded
from training.models.bestformer import BESTformer, BESTformerConfig

MIB = 2**20
SIZE = 32


def kept_bytes(model: torch.nn.Module, x: torch.Tensor) -> tuple[int, torch.Tensor]:
    """Bytes that a forward pass keeps for the backward pass, and the sum of its outputs."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        total = sum(y.float().sum() for y in model(x))
    return sum(seen.values()), total


def _peak(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # KiB on Linux


def measure(depth: int, dim: int, batch: int, recompute: bool, device: str) -> dict:
    """One case in this process: bytes "peak" and "kept"."""
    torch.manual_seed(0)
    config = BESTformerConfig(depth, dim, max(1, dim // 32), 4, SIZE, 3, 10)
    model = BESTformer(config).to(device).train()
    model.recompute = recompute
    x = torch.randn(batch, 3, SIZE, SIZE, device=device)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    before = _peak(device)
    kept, total = kept_bytes(model, x)
    total.backward()
    return {"peak": _peak(device) - before, "kept": kept}


def _child(depth: int, recompute: bool, args: argparse.Namespace) -> dict:
    command = [sys.executable, "-m", "training.memory", "--one", f"--depths={depth}",
               f"--dim={args.dim}", f"--batch={args.batch}", f"--device={args.device}"]  # fmt: skip
    done = subprocess.run(
        command + (["--recompute"] if recompute else []), capture_output=True, text=True
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise TrainingError(
            f"depth {depth}: the process ended with {done.returncode}: {last}",
            hint="out of memory? try a smaller --batch",
        )
    return json.loads(done.stdout)


def _work(args: argparse.Namespace) -> None:
    try:
        depths = [int(part) for part in args.depths.split(",")]
    except ValueError as error:
        raise ConfigError(f"--depths {args.depths}: expected whole numbers, 2,8,16") from error
    torch.set_num_threads(1)
    if args.one:
        found = measure(depths[0], args.dim, args.batch, args.recompute, args.device)
        print(json.dumps(found))
        return
    print(f"BESTformer, D {args.dim}, T 4, {SIZE}x{SIZE}x3, batch {args.batch}, {args.device}")
    print("| blocks | kept MiB | kept MiB, recompute | peak MiB | peak MiB, recompute |")
    print("|---|---|---|---|---|")
    for depth in depths:
        plain, again = (_child(depth, recompute, args) for recompute in (False, True))
        cells = [plain["kept"], again["kept"], plain["peak"], again["peak"]]
        print(f"| {depth} | {' | '.join(f'{c / MIB:.1f}' for c in cells)} |", flush=True)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.memory", description="Peak memory of a step against depth."
    )
    parser.add_argument("--depths", default="2,8,16")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--recompute", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    return guarded(_parse, _work, argv)


if __name__ == "__main__":
    sys.exit(main())
