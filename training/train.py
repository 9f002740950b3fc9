"""Train a network.

    python -m training.train --data fashion-mnist --data-dir DIR --config FILE.toml --out ck.pt
    torchrun --nproc-per-node 4 -m training.train ...                    several GPUs

Every epoch writes OUT with suffix ``.resume`` (everything a run needs to go on, used by
``--resume``) and OUT with suffix ``.csv``; those that are tested (all, unless ``test_every`` says
otherwise) write OUT: the weights of that epoch, never the best on the test set. An interrupt
(Ctrl-C, SIGTERM) ends after the step at hand and writes ``.resume``, too.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch

from training import checkpoint, config, data, engine, models, neurons, teachers
from training.augment import require_packages
from training.config import TrainConfig
from training.errors import (
    CheckpointError,
    ConfigError,
    InterruptedTraining,
    OutputError,
    UnsupportedError,
    guarded,
)
from training.losses import DistillConfig
from training.models.skeleton import Network, SkeletonConfig
from training.optimisers import make_optimizer

CSV_FIELDS = (
    "epoch",
    "lr",
    "train_loss",
    "train_accuracy",
    "test_accuracy",
    "firing_rate",
    "seconds",
    "images_per_s",
)
RESUME_KEYS = ("state_dict", "optimizer", "scaler", "ema", "args", "progress", "log")
FREE_TO_CHANGE = {
    "save_every",
    "compile",
    "compile_network",
    "recompute",
    "channels_last",
    "test_every",
}  # of [train], on resuming


def check_together(
    model: SkeletonConfig, c: TrainConfig, distill: DistillConfig | None, n_images: int, size: int
) -> None:
    """Refuse settings that are fine alone and make no sense together.

    Args:
        model: the network.
        c: the [train] table.
        distill: the [distill] table.
        n_images: in the training split.
        size: number of processes.

    Raises:
        ConfigError, UnsupportedError: names the settings.
    """
    reversible = getattr(model, "residual", "plain") == "reversible"
    if c.recompute and not reversible:
        raise ConfigError("recompute needs a network with residual = reversible")
    if c.recompute and c.rate_penalty:
        raise UnsupportedError(
            "rate_penalty needs the spikes that recompute does not keep",
            hint="set recompute = false",
        )
    if c.tet and distill is not None:
        raise UnsupportedError(
            "tet and distillation are losses of the same logits",
            where="[train] tet",
            hint="leave [distill] out, or set tet = false",
        )
    if c.compile_network and (c.recompute or c.rate_penalty or c.tet):
        raise UnsupportedError(
            "compile_network excludes recompute, rate_penalty and tet",
            hint="set compile = true instead, which compiles the neurons alone",
        )
    alone = distill is not None and not distill.attention
    if alone and not getattr(model, "two_heads", False):
        raise ConfigError(
            "distillation needs a network with two heads",
            where="[distill]",
            hint="set two_heads = true, or leave [distill] out",
        )
    if model.input == "events":
        if c.cutmix or c.rand_augment_n or c.erasing:
            raise UnsupportedError(
                "cutmix, RandAugment and erasing are for images",
                where="[train]",
                hint="events have flip, crop_padding, event_roll, event_affine and mixup",
            )
    elif c.event_roll or c.event_affine:
        raise UnsupportedError(
            "event_roll and event_affine are for events",
            where="[train]",
            hint="images have flip, crop_padding, rand_augment_n, erasing, mixup and cutmix",
        )
    batch = min(c.batch_size, n_images)
    if batch % size:
        raise ConfigError(f"batch_size {batch} is not divisible by {size} processes")
    if batch // size < 2:
        raise ConfigError(f"{batch} images for {size} processes: two each are needed")
    if n_images < batch * c.accumulate:
        raise ConfigError(
            f"{n_images} training images are fewer than one step of {batch} x {c.accumulate}"
        )


def checkpoint_args(
    model: SkeletonConfig, c: TrainConfig, distill: DistillConfig | None, dataset: data.Dataset
) -> dict:
    """What a checkpoint says about itself: network, preprocessing, recipe; plain values."""
    return model.to_args() | {
        "dataset": dataset.name,
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "class_names": list(dataset.class_names),
        "train": asdict(c),
        "distill": None if distill is None else asdict(distill),
    }


def differences(held: dict, wanted: dict) -> list[str]:
    """Dotted names of settings that differ between the args of two checkpoints."""
    found = []
    for key in sorted(held.keys() | wanted.keys()):
        a, b = held.get(key), wanted.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += [f"{key}.{k}" for k in differences(a, b)]
        elif a != b and key not in FREE_TO_CHANGE:
            found.append(key)
    return found


def with_defaults(args: dict) -> dict:
    """The args of a checkpoint, [train] keys that did not exist yet at their defaults."""
    return args | {"train": asdict(TrainConfig()) | args.get("train", {})}


def _resume(path: Path, trainer: engine.Trainer, args: dict) -> tuple[engine.Progress, list]:
    state = checkpoint.load_any(path)
    missing = [k for k in RESUME_KEYS if k not in state]
    if missing:
        raise CheckpointError(
            f"{path} is not a resume file: {', '.join(missing)} missing",
            hint="train without --resume",
        )
    differ = differences(with_defaults(state["args"]), args)
    if differ:
        raise CheckpointError(
            f"{path} was made with another configuration; these differ: {', '.join(differ)}",
            hint="use the same config, or another --out",
        )
    try:
        trainer.load_state(state)
        return engine.Progress(**state["progress"]), state["log"]
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}", hint="train anew") from error


def _start_from(path, model: Network) -> None:
    """Copy the weights of another checkpoint of the same network.

    Raises:
        CheckpointError: other shapes; T that does not fit lambda is named.
    """
    ckpt = checkpoint.load(path)
    mine, held = model.state_dict(), ckpt["state_dict"]
    for key, value in mine.items():
        if key not in held:
            raise CheckpointError(f"{path} lacks {key}", hint="is it the same kind of network?")
        shape = tuple(held[key].shape)
        if key.endswith("lambda_attn") and len(shape) == 5 and shape[0] != len(value):
            raise CheckpointError(
                f"{path}: {key} has {shape[0]} time steps, the config has n_steps = {len(value)}",
                hint=f"set n_steps = {shape[0]} in [model], or start from a network with T = "
                f"{len(value)}",
            )
        if shape != tuple(value.shape):
            raise CheckpointError(
                f"{path}: {key} has shape {list(shape)}, this network {list(value.shape)}",
                hint="depth, dim, heads and classes must be the same",
            )
    model.load_state_dict({k: held[k] for k in mine})


def _write_log(path: Path, log: list[dict]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, CSV_FIELDS)
        writer.writeheader()
        writer.writerows(log)
    temporary.replace(path)


def build(
    dataset: data.Dataset,
    model_config: SkeletonConfig,
    c: TrainConfig,
    distill: DistillConfig | None = None,
    *,
    init=None,
    world: engine.World | None = None,
) -> engine.Trainer:
    """Network, teacher and optimiser of a run, at its beginning."""
    w = world or engine.World()
    torch.manual_seed(c.seed)
    model = models.FAMILIES[model_config.FAMILY].Model(model_config)
    model.init_neuron_norms(c.bn_weight_init, c.bn_bias_init)
    model.set_normalisation(list(dataset.mean), list(dataset.std))
    if init is not None:
        _start_from(init, model)
    teacher = None if distill is None else teachers.make(distill, model).to(w.device)
    model.recompute = c.recompute
    model.to(w.device)
    if c.channels_last:
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.to(memory_format=torch.channels_last)
    if c.sync_bn and w.size > 1 and w.device.type == "cuda":
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    neurons.use_compiled(c.compile)
    return engine.Trainer(
        model, make_optimizer(model, c), c, distill=distill, teacher=teacher, world=w
    )


def run(
    dataset: data.Dataset,
    splits: dict,
    model_config: SkeletonConfig,
    c: TrainConfig,
    out,
    *,
    distill: DistillConfig | None = None,
    init=None,
    resume: bool = False,
    stop_after: int | None = None,
    progress=None,
    world: engine.World | None = None,
) -> Network:
    """Train and write the files; ``stop_after`` epochs later the run ends, as if interrupted.

    Args:
        dataset: names, normalisation.
        splits: "train" and "test", each a `data.Split` or (frames, labels).
        model_config: the network.
        c: the [train] table.
        out: checkpoint to write.
        distill: the [distill] table.
        init: checkpoint whose weights are the start.
        resume: go on from OUT's ``.resume`` file.
        stop_after: see above.
        progress: called with (epoch, images) at the start of each epoch, returns ``tick``.
        world: the processes.

    Raises:
        TrainingError: before anything is trained where the cause is known by then.
    """
    out, w = Path(out), world or engine.World()
    if not out.parent.is_dir():
        raise OutputError(
            f"output folder {out.parent} does not exist", where="--out", hint="make it first"
        )
    splits = {k: s if hasattr(s, "take") else data.Arrays(*s) for k, s in splits.items()}
    train, test = splits["train"], splits["test"]
    check_together(model_config, c, distill, len(train), w.size)
    require_packages(c)
    resume_path = out.with_suffix(".resume")
    trainer = build(dataset, model_config, c, distill, init=init, world=w)
    args = checkpoint_args(model_config, c, distill, dataset)
    p, log = _resume(resume_path, trainer, args) if resume else (engine.Progress(), [])
    saved_at = time.monotonic()

    def save_resume() -> None:
        if w.first:
            state = trainer.state() | {"args": args, "progress": asdict(p), "log": log}
            checkpoint.save_atomic(state, resume_path)

    with engine.Stop() as stop:

        def pause(_p: engine.Progress) -> None:
            nonlocal saved_at
            if w.total([float(stop.asked)])[0]:
                save_resume()
                raise InterruptedTraining(
                    f"stopped in epoch {p.epoch} after step {p.step}; {resume_path} has the state",
                    hint="the same command with --resume goes on from there",
                )
            if w.first and c.save_every and time.monotonic() - saved_at > c.save_every:
                save_resume()
                saved_at = time.monotonic()

        began_at = p.epoch
        while p.epoch < c.epochs + c.cooldown_epochs:
            tick = progress(p, len(train)) if progress and w.first else lambda n, loss: None
            loss, train_accuracy, rate = trainer.epoch(train, p, tick=tick, pause=pause)
            done = p.epoch + 1 >= c.epochs + c.cooldown_epochs
            ends = done or (stop_after is not None and p.epoch + 1 - began_at >= stop_after)
            tested = ends or (p.epoch + 1) % c.test_every == 0
            if tested and c.bn_images:
                engine.recalibrate(trainer.result, train, c.bn_images, c.batch_size)
            test_accuracy = engine.accuracy(trainer.result, test, w) if tested else None
            log.append(
                {
                    "epoch": p.epoch,
                    "lr": trainer.optimizer.param_groups[0]["lr"],
                    "train_loss": round(loss, 5),
                    "train_accuracy": round(train_accuracy, 5),
                    "test_accuracy": test_accuracy if tested else "",
                    "firing_rate": round(rate, 5) if c.rate_penalty else "",
                    "seconds": round(p.seconds, 1),
                    "images_per_s": round(len(train) / p.seconds, 1),
                }
            )
            epoch = p.epoch
            p = engine.Progress(epoch + 1)
            if w.first:
                if tested:
                    arch = f"{args['family']}_{model_config.depth}_{model_config.dim}"
                    state = trainer.result.state_dict()
                    checkpoint.save(out, state, args, epoch=epoch, metric=test_accuracy, arch=arch)
                _write_log(out.with_suffix(".csv"), log)
            save_resume()
            saved_at = time.monotonic()
            if ends:
                break
            pause(p)
    return trainer.result.eval()


def progress_bar():
    """A context whose value is ``progress`` of ``run``: a bar per epoch on stderr."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    class Bars(Progress):
        def start_epoch(self, p: engine.Progress, total: int):
            began, done = time.perf_counter(), 0
            task = self.add_task("", total=total, epoch=p.epoch, loss=math.nan, rate=0.0)

            def tick(n: int, loss: float) -> None:
                nonlocal done
                done += n
                rate = done / (time.perf_counter() - began)
                self.update(task, advance=n, loss=loss, rate=rate)

            return tick

    return Bars(
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}  {task.fields[rate]:.0f} images/s"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that every command that trains has."""
    parser.add_argument("--data", required=True, choices=list(data.DATASETS), help="data set")
    parser.add_argument("--data-dir", required=True, help="folder with the set's standard files")
    parser.add_argument(
        "--threads", type=int, default=0, help="CPU threads (default: torch's choice)"
    )
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.train", description="Train a network of any family."
    )
    add_common_arguments(parser)
    parser.add_argument("--config", required=True, help="TOML file; recipes: training/configs/")
    parser.add_argument("--out", required=True, help="checkpoint to write")
    parser.add_argument("--epochs", type=int, help="replaces epochs of the config")
    parser.add_argument("--seed", type=int, help="replaces seed of the config")
    parser.add_argument("--limit", type=int, help="use only the first N images of each split")
    parser.add_argument("--fold", help="k/n: hold part k of n of the training split out as test")
    parser.add_argument("--teacher", help="replaces teacher of [distill]")
    parser.add_argument("--init", help="checkpoint whose weights are the start")
    parser.add_argument("--stop-after", type=int, help="end after N epochs; --resume goes on")
    parser.add_argument("--resume", action="store_true", help="continue from OUT's .resume file")
    return parser.parse_args(argv)


def configured(args: argparse.Namespace) -> config.Config:
    """The config file with what the command line replaces."""
    tables = config.read_tables(args.config)
    changes = {
        "train.epochs": args.epochs,
        "train.seed": args.seed,
        "data.limit": args.limit,
        "data.fold": args.fold,
        "distill.teacher": args.teacher,
    }
    given = {k: v for k, v in changes.items() if v is not None}
    return config.parse(config.changed(tables, given), args.config)


def _work(args: argparse.Namespace) -> None:
    if args.threads:
        torch.set_num_threads(args.threads)
    c = configured(args)
    if data.DATASETS[args.data].class_names:
        c.model_config(data.DATASETS[args.data])  # a mistake in it is told before files are read
    dataset, splits = data.open_split(args.data, args.data_dir, c.data, c.n_steps)
    with engine.world(args.device) as w, progress_bar() as bars:
        run(
            dataset,
            splits,
            c.model_config(dataset),
            c.train,
            args.out,
            distill=c.distill,
            init=args.init,
            resume=args.resume,
            stop_after=args.stop_after,
            progress=bars.start_epoch,
            world=w,
        )
        first = w.first
    if first:
        metric = checkpoint.load(args.out)["metric"]
        print(f"{args.out}: test accuracy {100 * metric:.2f} % on {len(splits['test'])} images")
        print(f"next: bestdeploy export {args.out}")


def main(argv: list[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    return guarded(_parse, _work, argv)


if __name__ == "__main__":
    sys.exit(main())
