"""Reading a checkpoint file safely: tensors and plain values only, never arbitrary pickles.

Understood layouts: the timm wrapper (`state_dict`, `args` as argparse.Namespace), `model`, and a
bare dictionary of tensors; where it is asked for, the timm wrapper's `state_dict_ema`. The prefix
`module.` is dropped; so are `num_batches_tracked`. A `.safetensors` file holds the tensors alone:
its settings come from elsewhere. Torch is imported here and nowhere else in the package.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bestdeploy.errors import CheckpointError, MissingToolError


@dataclass(frozen=True)
class Checkpoint:
    """Tensors and settings of a file.

    Attributes:
        tensors: published key -> numpy array.
        args: plain settings the file carries (empty when it carries none).
        sha256: of the file.
        path: where it was read.
        has_ema: averaged weights (`state_dict_ema`) are there too, and were not taken.
    """

    tensors: dict[str, np.ndarray]
    args: dict[str, Any]
    sha256: str
    path: Path
    has_ema: bool = False


EMA_KEY = "state_dict_ema"
_STATE_DICT = "save a file with only the state dict: torch.save(model.state_dict(), ...)"
_WHOLE = "is the file whole? copy or download it again"
_ANOTHER = "is this another family or variant? see `bestdeploy export --help`"


def read(path: str | Path, *, ema: bool = False) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: the file.
        ema: take the averaged weights, `state_dict_ema`, instead of `state_dict`.

    Raises:
        CheckpointError: unreadable, not a checkpoint, or holding anything but data; no averaged
            weights where they are asked for.
        MissingToolError: torch is not installed.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as e:
        raise CheckpointError(
            f"cannot read `{path}`: {e.strerror}",
            where=str(path),
            hint="give a .pt, .pth, .pth.tar or .safetensors file",
        ) from e
    if path.suffix == ".safetensors":
        if ema:
            raise _no_ema(path)
        return _checkpoint(_load_safetensors(data, path), {}, data, path)
    content = _load_torch(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"`{path}` holds a {type(content).__name__}, expected a dictionary of tensors",
            where=str(path),
            hint=_STATE_DICT,
        )
    if ema and not isinstance(content.get(EMA_KEY), Mapping):
        raise _no_ema(path)
    state = content[EMA_KEY] if ema else _unwrap(content, path)
    args = content.get("args") if state is not content else None
    if isinstance(args, argparse.Namespace):
        args = vars(args)
    plain = dict(args) if isinstance(args, Mapping) else {}
    plain.pop("ema", None)  # which weights are taken is decided before the file is read
    read = _checkpoint(state, plain, data, path)
    return dataclasses.replace(read, has_ema=not ema and isinstance(content.get(EMA_KEY), Mapping))


def _no_ema(path: Path) -> CheckpointError:
    return CheckpointError(
        f"`{path}` holds no averaged weights (`{EMA_KEY}`)",
        where="setting ema",
        hint="leave ema=true away: the file has one set of weights",
    )


def _checkpoint(
    state: Mapping[str, Any], args: dict[str, Any], data: bytes, path: Path
) -> Checkpoint:
    return Checkpoint(_tensors(state, path), args, hashlib.sha256(data).hexdigest(), path)


def _load_safetensors(data: bytes, path: Path) -> Mapping[str, Any]:
    """Read the tensors; the file's metadata is free text for people and is ignored."""
    try:
        from safetensors.torch import load
    except ImportError as e:
        missing = "torch" if (e.name or "").partition(".")[0] == "torch" else "safetensors"
        raise MissingToolError(
            f"reading a .safetensors file needs {missing}, which is not installed",
            hint="pip install 'bestdeploy[export]'",
        ) from e
    try:
        return load(data)
    except Exception as e:  # SafetensorError, or what a hostile header makes of torch
        raise CheckpointError(
            f"`{path}` is damaged or not a .safetensors file ({_reason(e)})",
            where=str(path),
            hint=_WHOLE,
        ) from e


def _load_torch(path: Path) -> Any:
    try:
        import torch
    except ImportError as e:
        raise MissingToolError(
            "reading a checkpoint needs torch, which is not installed",
            hint="pip install 'bestdeploy[export]'",
        ) from e
    import pickle
    import zipfile

    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        raise CheckpointError(
            f"`{path}` is refused: not a checkpoint, or it holds more than tensors and plain "
            f"values ({_reason(e)})",
            where=str(path),
            hint=_STATE_DICT,
        ) from e
    except (RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile, OSError) as e:
        raise CheckpointError(
            f"`{path}` is truncated or not a torch checkpoint ({_reason(e)})",
            where=str(path),
            hint=_WHOLE,
        ) from e
    except Exception as e:  # torch's unpickler lets any exception of a hostile stream through
        raise CheckpointError(
            f"`{path}` is not a torch checkpoint ({type(e).__name__})",
            where=str(path),
            hint=_WHOLE,
        ) from e


def _reason(error: Exception) -> str:
    """First sentence of an exception's text, or its type where it has none."""
    lines = str(error).splitlines()
    return lines[0].split(". ")[0][:160] if lines else type(error).__name__


def _unwrap(content: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    for key in ("state_dict", "model"):
        if isinstance(content.get(key), Mapping):
            return content[key]
    if any(hasattr(v, "shape") for v in content.values()):
        return content
    raise CheckpointError(
        f"`{path}` holds no state dict; its keys are {sorted(map(str, content))[:8]}",
        where=str(path),
        hint="expected `state_dict`, `model`, or the tensors themselves",
    )


# A tensor that repeats one element (stride 0) is small in the file and anything in memory.
_MAX_EXPANDED = 1 << 20


def _array(name: str, value: Any, path: Path) -> np.ndarray:
    """Return a tensor as float32 numpy, refusing what is no plain array of real numbers."""
    if value.is_meta:
        raise CheckpointError(
            f"`{name}` is on the meta device: it has a shape and no values",
            where=str(path),
            hint="load the weights before the checkpoint is saved",
        )
    layout = str(value.layout).removeprefix("torch.").removeprefix("strided")
    if layout or value.is_complex() or value.is_quantized:
        raise CheckpointError(
            f"`{name}` is {layout or 'dense'} {value.dtype}, expected real dense numbers",
            where=str(path),
            hint="save float32 or float16 tensors",
        )
    held = value.untyped_storage().nbytes()
    if value.numel() > _MAX_EXPANDED and value.numel() * value.element_size() > held:
        raise CheckpointError(
            f"`{name}` has shape {tuple(value.shape)} over {held} bytes of values",
            where=str(path),
            hint="save its .contiguous() copy",
        )
    try:
        return value.detach().float().cpu().numpy()
    except (RuntimeError, TypeError, NotImplementedError) as e:
        raise CheckpointError(
            f"`{name}` of {value.dtype} cannot be read as numbers ({_reason(e)})",
            where=str(path),
            hint="save float32 or float16 tensors",
        ) from e


def _tensors(state: Mapping[str, Any], path: Path) -> dict[str, np.ndarray]:
    if not state:
        raise CheckpointError(
            f"`{path}` holds an empty state dict", where=str(path), hint=_STATE_DICT
        )
    tensors: dict[str, np.ndarray] = {}
    for key, value in state.items():
        name = str(key).removeprefix("module.")
        if name.endswith("num_batches_tracked"):
            continue
        if not hasattr(value, "untyped_storage"):
            raise CheckpointError(
                f"`{name}` is a {type(value).__name__}, expected a tensor",
                where=str(path),
                hint=_STATE_DICT,
            )
        if name in tensors:
            raise CheckpointError(
                f"`{name}` is there twice (with and without `module.`)",
                where=str(path),
                hint="save one of the two",
            )
        tensors[name] = _array(name, value, path)
    return tensors


class Tensors:
    """Takes every tensor of a checkpoint exactly once, checking name, shape and values."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._tensors = dict(checkpoint.tensors)
        self._left = set(self._tensors)
        self._where = str(checkpoint.path)

    def shape(self, key: str, rank: int) -> tuple[int, ...]:
        """Return the shape of a tensor that must exist with this rank."""
        array = self._get(key)
        if array.ndim != rank or 0 in array.shape:
            raise CheckpointError(
                f"`{key}` has shape {array.shape}, expected {rank} axes",
                where=self._where,
                hint=_ANOTHER,
            )
        return array.shape

    def take(self, key: str, shape: tuple[int, ...]) -> np.ndarray:
        """Return a float32 tensor of this shape, finite everywhere.

        Raises:
            CheckpointError: missing, mis-shaped or not finite.
        """
        array = self._get(key)
        if array.shape != shape:
            raise CheckpointError(
                f"`{key}` has shape {array.shape}, expected {shape}",
                where=self._where,
                hint=_ANOTHER,
            )
        bad = np.argwhere(~np.isfinite(array))
        if len(bad):
            index = tuple(int(i) for i in bad[0])
            raise CheckpointError(
                f"`{key}` is {array[index]} at {index} ({len(bad)} values are not finite)",
                where=self._where,
                hint="the training has diverged: take an earlier checkpoint",
            )
        self._left.discard(key)
        return array

    def drop(self, keys: Iterable[str]) -> None:
        """Mark dead keys as used."""
        self._left.difference_update(keys)

    def finish(self) -> None:
        """Refuse tensors that nothing took.

        Raises:
            CheckpointError: names the first of them.
        """
        if self._left:
            names = sorted(self._left)
            raise CheckpointError(
                f"{len(names)} tensors do not belong to this model: "
                + ", ".join(f"`{n}`" for n in names[:5]),
                where=self._where,
                hint=_ANOTHER,
            )

    def _get(self, key: str) -> np.ndarray:
        if key not in self._tensors:
            import difflib

            near = difflib.get_close_matches(key, self._tensors, n=2)
            raise CheckpointError(
                f"tensor `{key}` is missing",
                where=self._where,
                hint=f"nearest names: {', '.join(near)}" if near else _ANOTHER,
            )
        return self._tensors[key]


def evaluate(module: Any, frames: np.ndarray) -> np.ndarray:
    """Run a user's torch module on uint8 [B, H, W, C]; return logits [B, K] as numpy."""
    import torch

    with torch.no_grad():
        return np.asarray(module(module.preprocess(frames)).float().cpu().numpy())
