"""Train a BESTformer.

    python -m training.train --data fashion-mnist --data-dir DIR --config FILE.toml --out ck.pt

Loss = 0.5 * CE(y0, label) + 0.5 * CE(y1, label), both with label smoothing: without a teacher the
second head, which the paper distils, learns from the label. AdamW; warm-up then cosine; flips and
crops as tensor operations; optionally fresh batch-norm statistics after every epoch.

Every epoch writes OUT (weights of the last epoch, never the best on the test set), OUT with suffix
``.resume`` (weights and optimiser, used by ``--resume``) and OUT with suffix ``.csv``. All
randomness comes from (seed, epoch), so a resumed run continues as if it had not stopped.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import time
import tomllib
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training import checkpoint, data
from training.models.bestformer import BESTformer, BESTformerConfig, to_args

CSV_FIELDS = (
    "epoch",
    "lr",
    "train_loss",
    "train_accuracy",
    "test_accuracy",
    "seconds",
    "images_per_s",
)


class TrainError(Exception):
    """The run cannot start or go on; the message says why."""


@dataclass(frozen=True)
class TrainConfig:
    """The [train] table of a config file."""

    epochs: int = 10
    batch_size: int = 100
    lr: float = 1e-3
    min_lr: float = 1e-5
    warmup_lr: float = 1e-5
    warmup_epochs: float = 1.0
    cooldown_epochs: int = 0
    lr_per: str = "step"  # "step": the schedule moves every step; "epoch": once per epoch
    weight_decay: float = 0.06
    label_smoothing: float = 0.1
    flip: bool = True
    crop_padding: int = 0
    bn_weight_init: float = 1.0  # gamma and beta of the batch norms that feed a neuron
    bn_bias_init: float = 0.0
    bn_images: int = 0  # after every epoch, take the batch-norm statistics anew over this many
    seed: int = 42

    def __post_init__(self) -> None:
        if (
            self.epochs < 1
            or self.batch_size < 2
            or self.cooldown_epochs < 0
            or self.crop_padding < 0
            or self.bn_images < 0
        ):
            raise TrainError(
                "epochs >= 1, batch_size >= 2, cooldown_epochs, crop_padding, bn_images >= 0 needed"
            )
        if self.lr_per not in ("step", "epoch"):
            raise TrainError(f"lr_per must be 'step' or 'epoch', got {self.lr_per!r}")
        if not (self.lr > 0 and 0 <= self.label_smoothing < 1 and self.weight_decay >= 0):
            raise TrainError("lr > 0, 0 <= label_smoothing < 1 and weight_decay >= 0 are required")


def _table(kind, table: dict, where: str, given: dict):
    known = {f.name for f in fields(kind)}
    unknown = sorted(set(table) - known)
    if unknown:
        raise TrainError(
            f"{where}: unknown key {', '.join(unknown)}; known: {', '.join(sorted(known))}"
        )
    try:
        return kind(**(given | table))
    except (TypeError, ValueError) as error:
        raise TrainError(f"{where}: {error}") from error


def read_config(path, dataset: data.Dataset) -> tuple[BESTformerConfig, TrainConfig]:
    """Read [model] and [train] of a TOML file; sizes and classes come from the data set."""
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise TrainError(f"cannot read config {path}: {error}") from error
    unknown = sorted(set(table) - {"model", "train"})
    if unknown:
        raise TrainError(f"{path}: unknown table {', '.join(unknown)}; known: model, train")
    given = {
        "image_size": dataset.image_size,
        "channels": dataset.channels,
        "classes": len(dataset.class_names),
    }
    model = _table(BESTformerConfig, table.get("model", {}), f"{path} [model]", given)
    for name, value in given.items():
        if getattr(model, name) != value:
            raise TrainError(
                f"{path} [model]: {name} is {getattr(model, name)}, {dataset.name} has {value}"
            )
    return model, _table(TrainConfig, table.get("train", {}), f"{path} [train]", {})


def learning_rate(c: TrainConfig, epoch: float) -> float:
    """Linear warm-up, a cosine over the whole run (warm-up not subtracted), then ``min_lr``."""
    if epoch < c.warmup_epochs:
        return c.warmup_lr + epoch * (c.lr - c.warmup_lr) / c.warmup_epochs
    if epoch >= c.epochs:
        return c.min_lr
    return c.min_lr + 0.5 * (c.lr - c.min_lr) * (1 + math.cos(math.pi * epoch / c.epochs))


def augment(x: Tensor, c: TrainConfig, generator: torch.Generator) -> Tensor:
    """Flip with probability 1/2 and shift by up to ``crop_padding`` pixels, zeros coming in."""
    if c.flip:
        flip = torch.rand(len(x), generator=generator) < 0.5
        x = torch.where(flip.view(-1, 1, 1, 1), x.flip(3), x)
    if c.crop_padding:
        p, (h, w) = c.crop_padding, x.shape[2:]
        padded = F.pad(x, (p, p, p, p))
        dy, dx = torch.randint(0, 2 * p + 1, (2, len(x), 1), generator=generator)
        rows = (dy + torch.arange(h)).view(-1, 1, h, 1)
        cols = (dx + torch.arange(w)).view(-1, 1, 1, w)
        batch = torch.arange(len(x)).view(-1, 1, 1, 1)
        x = padded[batch, torch.arange(x.shape[1]).view(1, -1, 1, 1), rows, cols]
    return x


def make_optimizer(model: nn.Module, c: TrainConfig) -> torch.optim.Optimizer:
    """AdamW; vectors and biases are not decayed (lambda_attn has five axes and is)."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": c.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=c.lr)


def _batches(images: np.ndarray, labels: np.ndarray, batch_size: int, order: np.ndarray):
    for start in range(0, len(order), batch_size):
        index = order[start : start + batch_size]
        yield images[index], torch.from_numpy(labels[index].astype(np.int64))


@torch.inference_mode()
def accuracy(
    model: BESTformer, images: np.ndarray, labels: np.ndarray, batch_size: int = 100
) -> float:
    """Top-1 accuracy in evaluation mode over all images."""
    was_training = model.training
    model.eval()
    right = 0
    for x, y in _batches(images, labels, batch_size, np.arange(len(images))):
        right += int((model(model.preprocess(x)).argmax(1) == y).sum())
    model.train(was_training)
    return right / len(images)


@torch.no_grad()
def recalibrate(model: nn.Module, images: np.ndarray, batch_size: int) -> None:
    """Replace every batch norm's running statistics by their plain average over ``images``.

    The running averages lag behind binary weights that still flip and then describe
    another network. Training is not affected: it uses the statistics of the batch.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [m.momentum for m in norms]
    was_training = model.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
    model.train()
    for start in range(0, len(images) - batch_size + 1, batch_size):
        model(model.preprocess(images[start : start + batch_size]))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train(was_training)


def train_epoch(
    model: BESTformer,
    optimizer: torch.optim.Optimizer,
    images: np.ndarray,
    labels: np.ndarray,
    c: TrainConfig,
    epoch: int,
    tick=lambda n, loss: None,
) -> tuple[float, float]:
    """One pass; returns the mean loss and the first head's accuracy on the augmented images."""
    generator = torch.Generator().manual_seed(c.seed * 1_000_003 + epoch)
    n = len(images)
    batch_size = min(c.batch_size, n)
    steps = n // batch_size  # the incomplete last batch is dropped
    order = torch.randperm(n, generator=generator)[: steps * batch_size].numpy()
    model.train()
    total, right = 0.0, 0
    for step, (x, y) in enumerate(_batches(images, labels, batch_size, order)):
        lr = learning_rate(c, epoch + (step / steps if c.lr_per == "step" else 0.0))
        for group in optimizer.param_groups:
            group["lr"] = lr
        x = augment(model.preprocess(x), c, generator)
        y0, y1 = model(x)
        loss = sum(
            0.5 * F.cross_entropy(y_, y, label_smoothing=c.label_smoothing) for y_ in (y0, y1)
        )
        value = loss.item()
        if not math.isfinite(value):
            raise TrainError(
                f"loss is {value} at epoch {epoch}, step {step}: lower lr or check the data"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += value
        right += int((y0.argmax(1) == y).sum())
        tick(batch_size, value)
    return total / steps, right / (steps * batch_size)


def _checkpoint_args(model: BESTformerConfig, c: TrainConfig, dataset: data.Dataset) -> dict:
    return to_args(model) | {
        "dataset": dataset.name,
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "class_names": list(dataset.class_names),
        "train": asdict(c),
    }


def _resume(
    path: Path, model: BESTformer, optimizer: torch.optim.Optimizer, args: dict
) -> tuple[int, list]:
    state = checkpoint.load_any(path)
    for key in ("state_dict", "optimizer", "args", "epoch", "log"):
        if key not in state:
            raise TrainError(f"{path} is not a resume file: {key} is missing")
    changed = sorted(
        k for k in args.keys() | state["args"].keys() if args.get(k) != state["args"].get(k)
    )
    if changed:
        raise TrainError(
            f"{path} was made with another configuration; these differ: {', '.join(changed)}"
        )
    model.load_state_dict(state["state_dict"])
    optimizer.load_state_dict(state["optimizer"])
    return state["epoch"] + 1, state["log"]


def _write_log(path: Path, log: list[dict]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, CSV_FIELDS)
        writer.writeheader()
        writer.writerows(log)
    temporary.replace(path)


def run(
    dataset: data.Dataset,
    splits: dict[str, tuple[np.ndarray, np.ndarray]],
    model_config: BESTformerConfig,
    c: TrainConfig,
    out,
    *,
    resume: bool = False,
    stop_after: int | None = None,
    progress=None,
) -> BESTformer:
    """Train and write the files; ``stop_after`` epochs later the run ends, as if interrupted."""
    out = Path(out)
    if not out.parent.is_dir():
        raise TrainError(f"output folder {out.parent} does not exist")
    resume_path = out.with_suffix(".resume")
    torch.manual_seed(c.seed)
    model = BESTformer(model_config)
    model.init_neuron_norms(c.bn_weight_init, c.bn_bias_init)
    model.set_normalisation(list(dataset.mean), list(dataset.std))
    optimizer = make_optimizer(model, c)
    args = _checkpoint_args(model_config, c, dataset)
    start, log = _resume(resume_path, model, optimizer, args) if resume else (0, [])
    images, labels = splits["train"]
    for epoch in range(start, c.epochs + c.cooldown_epochs):
        began = time.perf_counter()
        tick = progress(epoch, len(images)) if progress else lambda n, loss: None
        loss, train_accuracy = train_epoch(model, optimizer, images, labels, c, epoch, tick)
        seconds = time.perf_counter() - began
        if c.bn_images:
            chosen = images[: c.bn_images]
            recalibrate(model, chosen, min(c.batch_size, len(chosen)))
        test_accuracy = accuracy(model, *splits["test"])
        log.append(
            {
                "epoch": epoch,
                "lr": optimizer.param_groups[0]["lr"],
                "train_loss": round(loss, 5),
                "train_accuracy": round(train_accuracy, 5),
                "test_accuracy": test_accuracy,
                "seconds": round(seconds, 1),
                "images_per_s": round(len(images) / seconds, 1),
            }
        )
        state = model.state_dict()
        arch = f"{args['family']}_{model_config.depth}_{model_config.dim}"
        checkpoint.save(out, state, args, epoch=epoch, metric=test_accuracy, arch=arch)
        checkpoint.save_atomic(
            {
                "state_dict": state,
                "optimizer": optimizer.state_dict(),
                "args": args,
                "epoch": epoch,
                "log": log,
            },
            resume_path,
        )
        _write_log(out.with_suffix(".csv"), log)
        if stop_after is not None and epoch + 1 - start >= stop_after:
            break
    return model.eval()


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.train", description="Train a BESTformer."
    )
    parser.add_argument("--data", required=True, choices=list(data.DATASETS), help="data set")
    parser.add_argument("--data-dir", required=True, help="folder with the set's standard files")
    parser.add_argument("--config", required=True, help="TOML file with [model] and [train]")
    parser.add_argument("--out", required=True, help="checkpoint to write")
    parser.add_argument("--epochs", type=int, help="replaces epochs of the config")
    parser.add_argument("--seed", type=int, help="replaces seed of the config")
    parser.add_argument("--limit", type=int, help="use only the first N images of each split")
    parser.add_argument(
        "--threads", type=int, default=0, help="CPU threads (default: torch's choice)"
    )
    parser.add_argument("--stop-after", type=int, help="end after N epochs; --resume goes on")
    parser.add_argument("--resume", action="store_true", help="continue from OUT's .resume file")
    return parser.parse_args(argv)


def _main(args: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    if args.threads:
        torch.set_num_threads(args.threads)
    dataset = data.DATASETS[args.data]
    model_config, c = read_config(args.config, dataset)
    given = {k: v for k, v in (("epochs", args.epochs), ("seed", args.seed)) if v is not None}
    c = replace(c, **given)
    splits = {}
    for split in ("train", "test"):
        images, labels = data.load(args.data, args.data_dir, split)
        splits[split] = (images[: args.limit], labels[: args.limit])
    columns = (
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}  {task.fields[rate]:.0f} images/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:

        def progress(epoch: int, total: int):
            task = bar.add_task("", total=total, epoch=epoch, loss=math.nan, rate=0.0)
            began, done = time.perf_counter(), 0

            def tick(n: int, loss: float) -> None:
                nonlocal done
                done += n
                bar.update(task, advance=n, loss=loss, rate=done / (time.perf_counter() - began))

            return tick

        run(
            dataset,
            splits,
            model_config,
            c,
            args.out,
            resume=args.resume,
            stop_after=args.stop_after,
            progress=progress,
        )
    metric = checkpoint.load(args.out)["metric"]
    print(f"{args.out}: test accuracy {100 * metric:.2f} % on {len(splits['test'][0])} images")


def main(argv: list[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    args = _parse(argv)
    try:
        _main(args)
    except (TrainError, data.DataError, checkpoint.CheckpointError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; continue with --resume", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
