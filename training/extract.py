"""Make a checkpoint of where an interrupted run stands.

    python -m training.extract run.resume out.pt --data cifar10 --data-dir DIR [--bn-images 2000]

The weights (the averaged ones where the run averages) are taken as they are; batch-norm statistics
are taken anew over ``bn_images`` images of the training split, as `training.train` does before a
test; the network is tested, and OUT is what a run of that many epochs would have written. The run
can still go on from its ``.resume`` file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from training import checkpoint, config, data, engine, models
from training.errors import CheckpointError, ConfigError, guarded
from training.train import add_common_arguments

NEEDED = ("state_dict", "args", "progress")
EMA_PREFIX = "module."


def weights(state: dict) -> dict:
    """The state dict that would have been saved: the averaged weights where there are some."""
    average = state.get("ema")
    if not average:
        return state["state_dict"]
    return {k.removeprefix(EMA_PREFIX): v for k, v in average.items() if k.startswith(EMA_PREFIX)}


def read(path) -> tuple[dict, models.Network]:
    """Content of a ``.resume`` file and its network.

    Raises:
        CheckpointError: it is another kind of file, or damaged.
    """
    state = checkpoint.load_any(path)
    missing = [k for k in NEEDED if k not in state]
    if missing:
        raise CheckpointError(
            f"{path} is not a resume file: {', '.join(missing)} missing",
            hint="`python -m training.train` writes it beside its OUT",
        )
    held = {"state_dict": weights(state), "args": state["args"]}
    return state, models.restore(held, str(path))


def _splits(args: argparse.Namespace, held: dict) -> dict:
    if args.data != held["dataset"]:
        raise ConfigError(
            f"the run was trained on {held['dataset']}", where="--data", hint="name the same set"
        )
    c = config.DataConfig(limit=args.limit, split_by=held.get("split_by", "number"))
    return data.open_split(args.data, args.data_dir, c, held["time_step"])[1]


def _work(args: argparse.Namespace) -> None:
    if args.threads:
        torch.set_num_threads(args.threads)
    state, model = read(args.resume)
    held = state["args"]
    splits = _splits(args, held)
    with engine.world(args.device) as w:
        model.to(w.device)
        images = held["train"]["bn_images"] if args.bn_images is None else args.bn_images
        if images:
            engine.recalibrate(model, splits["train"], images, held["train"]["batch_size"])
        metric = engine.accuracy(model, splits["test"], w)
    epoch, steps = state["progress"]["epoch"], state["progress"]["step"]
    arch = f"{held['family']}_{model.config.depth}_{model.config.dim}"
    checkpoint.save(args.out, model.state_dict(), held, epoch=epoch - 1, metric=metric, arch=arch)
    print(f"{args.out}: {epoch} epochs and {steps} steps, test accuracy {100 * metric:.2f} % "
          f"on {len(splits['test'])} images")  # fmt: skip
    print(f"next: bestdeploy export {args.out}")


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.extract", description="A checkpoint from a .resume file."
    )
    parser.add_argument("resume", type=Path, help="file with suffix .resume")
    parser.add_argument("out", type=Path, help="checkpoint to write")
    add_common_arguments(parser)
    parser.add_argument("--bn-images", type=int, help="default: as the run's config; 0 for none")
    parser.add_argument("--limit", type=int, default=0, help="only N images of each split")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    return guarded(_parse, _work, argv)


if __name__ == "__main__":
    sys.exit(main())
