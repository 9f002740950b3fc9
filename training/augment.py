"""Augmentation of a batch: images in 0..1 or event counts in, normalised tensors and targets out.

Flips and shifts are whole-pixel index operations and need no library. RandAugment, erasing, cutmix
and the geometry of events come from kornia. kornia's mixup draws lambda evenly and not from the
Beta law of the recipes, so that one line is here.

    images   flip, shift, RandAugment | normalise | erasing | mixup or cutmix
    events   flip, roll, then one of {nothing, shear, translate, rotate, cutout}, the same for
             all steps of a recording | normalise | mixup

Every batch draws from a generator seeded by (seed, epoch, step, shard), so a resumed run, and a
run of several processes, sees the same images.
"""

from __future__ import annotations

import functools
import warnings

import torch
from torch import Tensor
from torch.nn import functional as F

from training.errors import MissingPackageError
from training.losses import smoothed

KORNIA_STRENGTH = 3.0
"""timm counts RandAugment's strength m from 0 to 10, kornia from 0 to 30."""


def batch_seed(seed: int, epoch: int, step: int, shard: int) -> int:
    """A number that differs for every batch (64-bit mix of four numbers)."""
    value = seed
    for part in (epoch, step, shard):
        value = (value * 6364136223846793005 + part + 1442695040888963407) % 2**63
    return value


def _kornia():
    try:
        import kornia.augmentation as augmentation
    except ImportError as error:
        raise MissingPackageError(
            "this augmentation needs kornia, which is not installed",
            hint="pip install 'bestdeploy[train]', or switch rand_augment_n, erasing, cutmix and "
            "event_affine off",
        ) from error
    return augmentation


def require_packages(c) -> None:
    """Raise MissingPackageError when the [train] table needs kornia and it is not there."""
    if c.rand_augment_n or c.erasing or c.cutmix or c.event_affine:
        _kornia()


def flip_and_shift(x: Tensor, c, generator: torch.Generator) -> Tensor:
    """Flip with probability 1/2 and shift by up to ``crop_padding`` pixels, zeros coming in.

    The last three axes of ``x`` [B, ..., H, W] are [C, H, W]; every image draws for itself.
    """
    b = len(x)
    if c.flip:
        flip = torch.rand(b, generator=generator) < 0.5
        x = torch.where(flip.view(-1, *[1] * (x.ndim - 1)).to(x.device), x.flip(-1), x)
    if c.crop_padding:
        p, (h, w) = c.crop_padding, x.shape[-2:]
        dy, dx = torch.randint(0, 2 * p + 1, (2, b, 1), generator=generator)
        rows = (dy + torch.arange(h)).view(b, 1, h, 1)
        cols = (dx + torch.arange(w)).view(b, 1, 1, w)
        flat = F.pad(x, (p, p, p, p)).flatten(1, -3)
        batch = torch.arange(b).view(-1, 1, 1, 1)
        planes = torch.arange(flat.shape[1]).view(1, -1, 1, 1)
        x = flat[batch, planes, rows, cols].view(x.shape)
    return x


@functools.cache
def _rand_augment(n: int, m: float):
    return _kornia().auto.RandAugment(n=n, m=round(m * KORNIA_STRENGTH))


@functools.cache
def _event_transforms():
    """Shear, translation, rotation, cutout, as SNNAugmentWide has them for 128 pixels."""
    k = _kornia()
    nearest = {"resample": "nearest", "p": 1.0}
    return (
        k.RandomAffine(degrees=0.0, shear=(-16.7, 16.7), **nearest),  # atan 0.3 in degrees
        k.RandomAffine(degrees=0.0, translate=(0.04, 0.04), **nearest),
        k.RandomAffine(degrees=30.0, **nearest),
        k.RandomErasing(p=1.0, scale=(0.001, 0.11), ratio=(1.0, 1.0)),
    )


def _roll(x: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Roll every recording [B, T*C, H, W] by up to ``most`` pixels in both directions."""
    shifts = torch.randint(-most, most + 1, (len(x), 2), generator=generator)
    return torch.stack(
        [torch.roll(s, d, (-2, -1)) for s, d in zip(x, shifts.tolist(), strict=True)]
    )


def _events(x: Tensor, c, generator: torch.Generator) -> Tensor:
    """Augment [T, B, C, H, W]; all steps of a recording move together."""
    steps = len(x)
    x = flip_and_shift(x.transpose(0, 1), c, generator).flatten(1, 2)
    if c.event_roll:
        x = _roll(x, c.event_roll, generator)
    if c.event_affine:
        transforms = _event_transforms()
        choice = torch.randint(0, len(transforms) + 1, (len(x),), generator=generator)
        x = x.clone()
        for i, transform in enumerate(transforms, 1):
            chosen = choice == i
            if chosen.any():
                x[chosen] = transform(x[chosen])
    return x.unflatten(1, (steps, -1)).transpose(0, 1).contiguous()


def _mix(x: Tensor, target: Tensor, c, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mixup or cutmix over the batch axis of ``x`` ([B, ...], or [T, B, ...] for events)."""
    if torch.rand((), generator=generator) >= c.mix_prob:
        return x, target
    cut = c.cutmix > 0 and (c.mixup == 0 or torch.rand((), generator=generator) < 0.5)
    if not cut:
        strength = torch.tensor(float(c.mixup))
        lam = torch.distributions.Beta(strength, strength).sample().item()
        order = torch.randperm(len(target), generator=generator).to(x.device)
        other = x[order] if x.ndim == 4 else x[:, order]
        return x.lerp(other, 1 - lam), target.lerp(target[order], 1 - lam)
    mixer = _cutmix(float(c.cutmix))
    mixed, pairs = mixer(x, torch.arange(len(x), device=x.device))
    first, second, lam = pairs[0].T
    lam = lam[:, None].to(target.dtype)  # what is left of the first image
    return mixed, target[first.long()] * lam + target[second.long()] * (1 - lam)


@functools.cache
def _cutmix(strength: float):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return _kornia().RandomCutMixV2(
            num_mix=1,
            beta=torch.tensor(strength),
            p=1.0,
            data_keys=["input", "class"],
            use_correct_lambda=True,
        )


@functools.cache
def _erasing(p: float):
    return _kornia().RandomErasing(p=p, scale=(0.02, 1 / 3), ratio=(0.3, 3.3))


def augment(model, frames, labels: Tensor, c, epoch: int, seed: int) -> tuple[Tensor, Tensor]:
    """Uint8 frames and labels [B] -> what the network takes, and targets [B, K].

    Args:
        model: knows how to scale and normalise, and the number of classes.
        frames: as ``model.preprocess``.
        labels: class indices, on the model's device.
        c: the [train] table.
        epoch: mixing ends with ``mix_off_epoch``.
        seed: of this batch; the global generator is left as it was.
    """
    generator = torch.Generator().manual_seed(seed)
    x = model.unit(frames)
    target = smoothed(labels, model.config.classes, c.label_smoothing)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if model.config.input == "events":
            x = model.normalise(_events(x, c, generator))
        else:
            x = flip_and_shift(x, c, generator)
            if c.rand_augment_n:
                x = _rand_augment(c.rand_augment_n, c.rand_augment_m)(x)
            x = model.normalise(x)
            if c.erasing:
                x = _erasing(c.erasing)(x)
        if (c.mixup or c.cutmix) and (not c.mix_off_epoch or epoch < c.mix_off_epoch):
            x, target = _mix(x, target, c, generator)
    return x, target
