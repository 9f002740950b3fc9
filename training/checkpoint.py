"""Checkpoint files: tensors and plain values that ``torch.load(weights_only=True)`` accepts.

state_dict   tensors under the published key names
args         plain config: family, attention, tau, decay_input, variant, num_heads, time_step,
             img_size, in_channels, num_classes, mean, std, ...
epoch, metric, arch
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from training.errors import CheckpointError, OutputError

KEYS = ("state_dict", "args", "epoch", "metric", "arch")


def _check_plain(value, where: str) -> None:
    if value is None or isinstance(value, bool | int | float | str):
        return
    if isinstance(value, list | tuple):
        for i, item in enumerate(value):
            _check_plain(item, f"{where}[{i}]")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _check_plain(item, f"{where}.{key}")
    else:
        raise TypeError(f"{where} is a {type(value).__name__}; checkpoints hold plain values only")


def save_atomic(obj, path) -> None:
    """``torch.save`` into a temporary file beside ``path``, then rename over it."""
    path = Path(path)
    try:
        fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror}", hint="does the folder exist?"
        ) from error
    try:
        with os.fdopen(fd, "wb") as file:
            torch.save(obj, file)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def save(
    path, state_dict: Mapping[str, Tensor], args: dict, *, epoch: int, metric: float, arch: str
) -> None:
    """Write a checkpoint of weights and config, without optimiser state."""
    _check_plain(args, "args")
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in state_dict.items()}
    save_atomic(
        {"state_dict": tensors, "args": args, "epoch": epoch, "metric": metric, "arch": arch}, path
    )


def load_any(path) -> dict:
    """Read a dict of tensors and plain values."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist", hint="check the path")
    try:
        obj = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise CheckpointError(
            f"{path} is not a readable checkpoint: {reason}",
            hint="is the file whole? take an earlier one, or train again",
        ) from error
    if not isinstance(obj, dict):
        raise CheckpointError(f"{path} holds a {type(obj).__name__}, a dict was expected")
    return obj


def load(path) -> dict:
    """Read a checkpoint written by ``save``."""
    ckpt = load_any(path)
    missing = [k for k in KEYS if k not in ckpt]
    if missing:
        raise CheckpointError(
            f"{path} lacks {', '.join(missing)}",
            hint="give a file that `python -m training.train` wrote as OUT",
        )
    return ckpt
