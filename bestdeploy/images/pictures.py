"""Image files and folders of them, prepared as the preprocessing metadata says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bestdeploy.errors import InputError
from bestdeploy.images.definition import BROKEN, Frame, Shape

__all__ = ["IMAGE_SUFFIXES", "read_image"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
EXPORT_AGAIN = "the model's preprocessing metadata is damaged: export the model again"
FILTERS = ("nearest", "bilinear", "bicubic", "lanczos")


def read_image(path: Path, shape: Shape, rules: Mapping[str, Any]) -> Frame:
    """Read one image file and prepare it as the preprocessing metadata says.

    Args:
        path: a file that Pillow reads.
        shape: (H, W, C) of the model.
        rules: preprocessing metadata, see `bestdeploy.images`.
    """
    from PIL import Image

    height, width, channels = shape
    try:
        with Image.open(path) as opened:
            image = _to_color(opened, channels, rules.get("color"), path)
            image = _to_size(image, height, width, rules, path)
            frame = np.array(image, np.uint8)
    except Image.DecompressionBombError as error:
        raise InputError(
            f"`{path}` is too large: {error}", hint="scale it down before it is read here"
        ) from error
    except BROKEN as error:
        raise InputError(
            f"`{path}` cannot be read as an image: {error}", hint="the file may be damaged"
        ) from error
    return frame.reshape(height, width, channels)


def _to_color(image: Any, channels: int, color: str | None, path: Path) -> Any:
    wanted = {1: "L", 3: "RGB"}.get(channels)
    if wanted is None:
        raise InputError(
            f"the model takes {channels} channels, image files have 1 or 3",
            hint="give the frames as .npy",
        )
    if color not in (None, "rgb", "gray"):
        raise InputError(
            f"preprocessing color is `{color}`, expected rgb or gray",
            where="preprocessing",
            hint=EXPORT_AGAIN,
        )
    if image.mode == "P" and "transparency" not in image.info:
        image = image.convert("RGB")  # a palette is only a coding of RGB
    if image.mode == "1":
        image = image.convert("L")
    if image.mode == wanted:
        return image
    if color is None or image.mode.startswith(("I", "F")):
        raise InputError(
            f"`{path}` has colour mode {image.mode}, expected {wanted} ({channels} channels)",
            hint=f"convert the file to {'gray' if wanted == 'L' else wanted}",
        )
    return image.convert(wanted)


def _to_size(image: Any, height: int, width: int, rules: Mapping[str, Any], path: Path) -> Any:
    from PIL import Image

    resize = rules.get("resize")
    name = str(rules.get("filter", "bicubic"))
    if name not in FILTERS:
        raise InputError(
            f"preprocessing filter is `{name}`, expected one of {', '.join(FILTERS)}",
            where="preprocessing",
            hint=EXPORT_AGAIN,
        )
    method = Image.Resampling[name.upper()]
    if resize == "stretch":
        return image.resize((width, height), method)
    if resize is None:
        if image.size != (width, height):
            raise InputError(
                f"`{path}` is {image.width}x{image.height} pixels, expected {width}x{height}",
                hint="the model's preprocessing names no resizing: resize the file",
            )
        return image
    if resize == "short-side":
        side = int(min(height, width) / float(rules.get("crop_pct") or 1.0))
    elif isinstance(resize, int) and resize > 0:
        side = resize
    else:
        raise InputError(
            f"preprocessing resize is `{resize}`, expected short-side, stretch or a size",
            where="preprocessing",
            hint=EXPORT_AGAIN,
        )
    scale = side / min(image.size)
    size = (max(side, round(image.width * scale)), max(side, round(image.height * scale)))
    if size != image.size:
        image = image.resize(size, method)
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    if left < 0 or top < 0:
        raise InputError(
            f"resized to {size[0]}x{size[1]}, smaller than the crop {width}x{height}",
            where="preprocessing",
            hint=EXPORT_AGAIN,
        )
    return image.crop((left, top, left + width, top + height))
