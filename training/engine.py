"""The training loop.

One epoch walks the images once in an order drawn from (seed, epoch); the incomplete last batch is
dropped. A step takes ``accumulate`` micro-batches of ``batch_size`` images. Several processes
(torchrun) share every micro-batch: process r of n takes the r-th part. All randomness comes from
(seed, epoch, step, shard), so a run that was interrupted and resumed goes on as if it had not
stopped, and n processes do what one process does with n times the micro-batches.

Batch norms see the statistics of the part that their process holds.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training import losses
from training.augment import augment, batch_seed
from training.config import TrainConfig
from training.data import Split
from training.errors import ConfigError, DivergedError
from training.models.skeleton import Network
from training.optimisers import learning_rate

EVAL_BATCH = 100
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class World:
    """The processes of a run; started by torchrun, or one."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def total(self, values: list[float]) -> list[float]:
        """Sums of the values of all processes."""
        if self.size == 1:
            return values
        held = torch.tensor(values, dtype=torch.float64)
        held = held.to(self.device) if distributed.get_backend() == "nccl" else held
        distributed.all_reduce(held)
        return held.tolist()


@contextlib.contextmanager
def world(device: str | None = None) -> Iterator[World]:
    """Join the processes that torchrun started; CUDA where there is one unless told otherwise.

    Raises:
        ConfigError: a device that is not there.
    """
    cuda = torch.cuda.is_available()
    name = device or ("cuda" if cuda else "cpu")
    if name.startswith("cuda") and not cuda:
        raise ConfigError(f"--device {name}: no CUDA device", hint="leave --device out")
    if "RANK" not in os.environ:
        yield World(device=torch.device(name))
        return
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        torch.cuda.set_device(name)
    distributed.init_process_group("nccl" if name.startswith("cuda") else "gloo")
    try:
        yield World(distributed.get_rank(), distributed.get_world_size(), torch.device(name))
        distributed.barrier()  # who leaves closes connections that another may still read
    finally:
        distributed.destroy_process_group()


class Stop:
    """Set by SIGINT or SIGTERM, read after every step; a second signal ends the program at once."""

    def __init__(self) -> None:
        self.asked = False
        self._old: dict = {}

    def _handle(self, number, _frame) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_error) -> None:
        for number, old in self._old.items():
            signal.signal(number, old)


@dataclass
class Progress:
    """Where a run is, and what this epoch has gathered."""

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    right: float = 0.0
    rate: float = 0.0
    seconds: float = 0.0


class Trainer:
    """Network, optimiser and averages of one run, and one epoch of it."""

    def __init__(
        self,
        model: Network,
        optimizer: torch.optim.Optimizer,
        c: TrainConfig,
        *,
        distill: losses.DistillConfig | None = None,
        teacher: nn.Module | None = None,
        world: World | None = None,
    ) -> None:
        self.c, self.distill, self.world = c, distill, world or World()
        self.model, self.optimizer, self.teacher = model, optimizer, teacher
        self.device = self.world.device
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=c.amp == "fp16")
        self.average = None
        if c.ema:
            self.average = AveragedModel(
                model, multi_avg_fn=get_ema_multi_avg_fn(c.ema), use_buffers=True
            )
        self.wrapped: nn.Module = model
        if self.world.size > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            self.wrapped = nn.parallel.DistributedDataParallel(model, device_ids=ids)
        if c.compile_network:
            for region in model.regions():
                region.compile()

    @property
    def result(self) -> Network:
        """The network that is evaluated and saved."""
        return self.model if self.average is None else self.average.module

    def state(self) -> dict:
        """Everything a resumed run needs but the progress."""
        return {
            "state_dict": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": None if self.average is None else self.average.state_dict(),
        }

    def load_state(self, state: dict) -> None:
        """Inverse of ``state``."""
        self.model.load_state_dict(state["state_dict"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["ema"])

    def n_steps(self, n_images: int) -> int:
        """Optimiser steps of an epoch."""
        return n_images // (min(self.c.batch_size, n_images) * self.c.accumulate)

    def _micro_batch(self, split: Split, order: np.ndarray, p: Progress, micro: int):
        """This process's part of a micro-batch: input, targets, labels."""
        c, w = self.c, self.world
        size = min(c.batch_size, len(split)) // w.size
        shard = micro * w.size + w.rank
        start = (p.step * c.accumulate * w.size + shard) * size
        index = order[start : start + size]
        labels = torch.from_numpy(split.labels[index]).to(self.device)
        frames = torch.from_numpy(np.ascontiguousarray(split.take(index))).to(self.device)
        seed = batch_seed(c.seed, p.epoch, p.step, shard)
        x, target = augment(self.model, frames, labels, c, p.epoch, seed)
        if c.channels_last and x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        return x, target, labels

    def _loss(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, the classifying head's logits, mean firing rate (0 unless it is penalised)."""
        c, d = self.c, self.distill
        watch = losses.firing_rates(self.model) if c.rate_penalty else contextlib.nullcontext([])
        amp = torch.autocast(self.device.type, DTYPES.get(c.amp), enabled=c.amp != "none")
        steps = losses.step_logits(self.model) if c.tet else contextlib.nullcontext([])
        with amp, watch as rates, steps as each:
            outputs = self.wrapped(x)
            taught = self.teacher(x) if self.teacher is not None else None
        value = (losses.tet(each, target, c.tet_lambda) if c.tet else
                 losses.loss(outputs, target, taught, d))  # fmt: skip
        value = value + self.model.extra_loss(self.teacher, d.attention if d is not None else 0.0)
        rate = torch.stack(rates).mean() if rates else value.new_zeros(())
        if c.rate_penalty:
            value = value + c.rate_penalty * rate
        swapped = d is not None and d.swap
        return value, outputs[-1 if swapped else 0], rate

    def step(self, split: Split, order: np.ndarray, p: Progress) -> float:
        """One optimiser step; returns the loss, mean over all micro-batches and processes."""
        c = self.c
        self.optimizer.zero_grad(set_to_none=True)
        sums = [0.0, 0.0, 0.0]
        for micro in range(c.accumulate):
            x, target, labels = self._micro_batch(split, order, p, micro)
            last = micro + 1 == c.accumulate
            hold = contextlib.nullcontext() if last or self.world.size == 1 else (
                self.wrapped.no_sync())  # fmt: skip
            with hold:
                value, logits, rate = self._loss(x, target)
                self.scaler.scale(value / c.accumulate).backward()
            right = (logits.argmax(1) == labels).sum().item()
            sums = [a + b for a, b in zip(sums, (value.item(), right, rate.item()), strict=True)]
        loss, right, rate = self.world.total(sums)
        loss, rate = (v / c.accumulate / self.world.size for v in (loss, rate))
        if not math.isfinite(loss):
            raise DivergedError(
                f"loss is {loss} at epoch {p.epoch}, step {p.step}",
                hint="lower lr, set clip_grad = 1.0, or check the data; --resume goes back to the "
                "last saved state",
            )
        if c.clip_grad:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), c.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.model)
        p.loss, p.right, p.rate = p.loss + loss, p.right + right, p.rate + rate
        return loss

    def epoch(
        self,
        split: Split,
        p: Progress,
        *,
        tick: Callable[[int, float], None] = lambda n, loss: None,
        pause: Callable[[Progress], None] = lambda p: None,
    ) -> tuple[float, float, float]:
        """Walk the rest of epoch ``p.epoch`` from step ``p.step``.

        ``tick`` is told (images, loss) after every step, ``pause`` may save and raise.
        Returns mean loss, accuracy of the classifying head on what it was shown, firing rate.
        """
        c = self.c
        steps = self.n_steps(len(split))
        order = torch.randperm(
            len(split), generator=torch.Generator().manual_seed(c.seed * 1_000_003 + p.epoch)
        ).numpy()
        images = min(c.batch_size, len(split)) // self.world.size * self.world.size * c.accumulate
        self.model.train()
        while p.step < steps:
            began = time.perf_counter()
            lr = learning_rate(c, p.epoch + (p.step / steps if c.lr_per == "step" else 0.0))
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            loss = self.step(split, order, p)
            p.step += 1
            p.seconds += time.perf_counter() - began
            tick(images, loss)
            if p.step < steps:
                pause(p)
        bad = [n for n, w in self.model.named_parameters() if not bool(w.isfinite().all())]
        if bad:
            raise DivergedError(f"{bad[0]} is not finite after epoch {p.epoch}", hint="lower lr")
        return p.loss / steps, p.right / (steps * images), p.rate / steps


@contextlib.contextmanager
def as_deployed() -> Iterator[None]:
    """Run what was compiled for training as it stands, in float32 with all its bits.

    By default cuDNN rounds the operands of float32 convolutions to 10 bits ("TF32").
    """
    backends = (torch.backends.cudnn, torch.backends.cuda.matmul)
    kept = [b.allow_tf32 for b in backends]
    for b in backends:
        b.allow_tf32 = False
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for b, value in zip(backends, kept, strict=True):
            b.allow_tf32 = value


@torch.inference_mode()
def accuracy(
    model: Network, split: Split, world: World | None = None, batch_size: int = EVAL_BATCH
) -> float:
    """Top-1 accuracy in evaluation mode, float32, over all images (of all processes)."""
    w = world or World()
    was_training = model.training
    model.eval()
    right = 0
    mine = np.arange(len(split))[w.rank :: w.size]
    with as_deployed():
        for start in range(0, len(mine), batch_size):
            index = mine[start : start + batch_size]
            y = model(model.preprocess(np.ascontiguousarray(split.take(index))))
            right += int((y.argmax(1).cpu().numpy() == split.labels[index]).sum())
    model.train(was_training)
    return w.total([right])[0] / len(split)


@torch.no_grad()
def recalibrate(model: Network, split: Split, n_images: int, batch_size: int) -> None:
    """Replace every batch norm's running statistics by their plain average over some images.

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
    n = min(n_images, len(split))
    batch_size = min(batch_size, n)
    with as_deployed():
        for start in range(0, n - batch_size + 1, batch_size):
            frames = split.take(np.arange(start, start + batch_size))
            model(model.preprocess(np.ascontiguousarray(frames)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train(was_training)
