"""What writes the files of a case: each returns a function that is called with the folder."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from error_table.definition import Make


def both(*makes: Make) -> Make:
    """Do one after the other."""

    def write(folder: Path) -> None:
        for make in makes:
            make(folder)

    return write


def file(name: str, content: bytes | str) -> Make:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def folder(name: str) -> Make:
    return lambda where: (where / name).mkdir()


def npy(name: str, array: np.ndarray) -> Make:
    return lambda folder: np.save(folder / name, array)


def npz(name: str, **arrays: Any) -> Make:
    return lambda folder: np.savez(folder / name, **arrays)


def picture(name: str, mode: str, size: tuple[int, int]) -> Make:
    return lambda folder: Image.new(mode, size).save(folder / name)


def png_header(name: str, width: int, height: int) -> Make:
    """The beginning of a PNG of this size: more than a header no reader should look at."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    return file(name, b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""))


def idx(name: str, array: np.ndarray) -> Make:
    """An IDX file of uint8, compressed."""
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return file(name, gzip.compress(header + array.tobytes()))


def without_end(name: str, n_bytes: int, make: Make) -> Make:
    """Make a file and take its last bytes off."""

    def write(folder: Path) -> None:
        make(folder)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-n_bytes])

    return write


def changed_onnx(
    change: Callable[[Any], object], source: str = "model.onnx", name: str = "changed.onnx"
) -> Make:
    """Write an .onnx file after a change of its `onnx_ir` model."""

    def write(folder: Path) -> None:
        from bestdeploy import ir

        model = ir.load(folder / source)
        change(model)
        (folder / name).write_bytes(ir.to_bytes(model))

    return write


def metadata(source: str = "model.onnx", **changes: str | None) -> Make:
    """Write changed.onnx with other metadata; None takes a key out."""

    def change(model: Any) -> None:
        for key, value in changes.items():
            if value is None:
                model.metadata_props.pop(key, None)
            else:
                model.metadata_props[key] = value

    return changed_onnx(change, source)


def preprocessing(**changes: Any) -> Make:
    """Write changed.onnx with other preprocessing."""

    def change(model: Any) -> None:
        found = json.loads(model.metadata_props["preprocessing"])
        model.metadata_props["preprocessing"] = json.dumps({**found, **changes})

    return changed_onnx(change)


def checkpoint(
    change: Callable[[dict[str, Any], dict[str, Any]], object], name: str = "changed.pt"
) -> Make:
    """Write a checkpoint after a change of its (tensors, args)."""

    def write(folder: Path) -> None:
        import torch

        content = torch.load(folder / "ckpt.pt", weights_only=True)
        change(content["state_dict"], content["args"])
        torch.save(content, folder / name)

    return write
