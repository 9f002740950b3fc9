"""The numpy side of the arithmetic that several ops share (numerics: integers, floor shifts).

These functions are the reference that everything else is compared with; they are written to be
read. Products of spikes and +-1 weights go through float32 or float64 matrix products where every
partial sum is an integer below 2^24 or 2^53, hence exact.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

WORD_BITS = 64


def pack_bits(bits: np.ndarray) -> np.ndarray:
    """Pack {0,1} along the last axis into bytes: little bit order, zero padded to 64 bits."""
    missing = -bits.shape[-1] % WORD_BITS
    padded = np.pad(bits, [(0, 0)] * (bits.ndim - 1) + [(0, missing)])
    return np.packbits(padded.astype(np.uint8), axis=-1, bitorder="little")


def unpack_bits(packed: np.ndarray, channels: int) -> np.ndarray:
    """Undo `pack_bits`: uint8 {0,1} [.., channels]."""
    return np.unpackbits(packed, axis=-1, count=channels, bitorder="little")


def unpack_signs(packed: np.ndarray, channels: int) -> np.ndarray:
    """Unpack weight bits to int8: 1 -> +1, 0 -> -1."""
    return (2 * unpack_bits(packed, channels).astype(np.int8) - 1).astype(np.int8)


def pack_levels(levels: np.ndarray, n_planes: int) -> np.ndarray:
    """Pack levels 0 .. 2^n - 1 [.., C] as n planes of bits, lowest first: bytes [.., n P]."""
    planes = [pack_bits((levels >> i) & 1) for i in range(n_planes)]
    return np.concatenate(planes, axis=-1)


def _planes(packed: np.ndarray, channels: int) -> list[np.ndarray]:
    """Return the planes of [.., n P] bytes, int64 {0,1} [.., C] each."""
    row = -(-channels // WORD_BITS) * WORD_BITS // 8
    parts = np.split(packed, packed.shape[-1] // row, axis=-1)
    return [unpack_bits(part, channels).astype(np.int64) for part in parts]


def unpack_levels(packed: np.ndarray, channels: int) -> np.ndarray:
    """Undo `pack_levels`: uint8 [.., C]. One plane holds spikes."""
    planes = _planes(packed, channels)
    return np.asarray(sum(plane << i for i, plane in enumerate(planes))).astype(np.uint8)


def weight_bits(w: np.ndarray) -> int:
    """Return how many planes hold integer weights: 1 for +-1, else two's complement bits >= 2."""
    if np.isin(w, (-1, 1)).all():
        return 1
    low, high = int(w.min()), int(w.max())
    return 1 + max(1, high.bit_length(), (-low - 1).bit_length() if low < 0 else 0)


def pack_weights(w: np.ndarray) -> np.ndarray:
    """Pack integer weights [.., I] as `weight_bits(w)` planes of bits: bytes [.., n P].

    One plane holds signs, 1 for +1; more hold two's complement, lowest first.
    """
    n = weight_bits(w)
    wide = w.astype(np.int64)
    return pack_bits(w > 0) if n == 1 else pack_levels(wide & (2**n - 1), n)


def unpack_weights(packed: np.ndarray, channels: int) -> np.ndarray:
    """Undo `pack_weights`: int16 [.., I]."""
    planes = _planes(packed, channels)
    n = len(planes)
    if n == 1:
        return (2 * planes[0] - 1).astype(np.int16)
    total = sum(plane << i for i, plane in enumerate(planes)) - (planes[-1] << n)
    return np.asarray(total).astype(np.int16)


def convolve(
    x: np.ndarray, w: np.ndarray, strides: list[int], pads: list[int], dtype: type
) -> np.ndarray:
    """Channel-last convolution over the last three axes of x [.., H, W, I], w [O, kh, kw, I].

    Computed as a matrix product in `dtype`; the caller knows that it is exact there.
    """
    lead, (h, width, n_in) = x.shape[:-3], x.shape[-3:]
    n_out, kh, kw = w.shape[0], w.shape[1], w.shape[2]
    top, left, bottom, right = pads
    image = x.reshape(-1, h, width, n_in)
    matrix: np.ndarray = w.reshape(n_out, -1).T.astype(dtype)
    if kh == kw == 1 and not any(pads) and list(strides) == [1, 1]:
        out = image.reshape(-1, n_in).astype(dtype) @ matrix
        return out.reshape(*lead, h, width, n_out)
    padded: np.ndarray = np.pad(image.astype(dtype), ((0, 0), (top, bottom), (left, right), (0, 0)))
    windows = sliding_window_view(padded, (kh, kw), axis=(1, 2))[:, :: strides[0], :: strides[1]]
    columns = windows.transpose(0, 1, 2, 4, 5, 3)  # [B, Ho, Wo, kh, kw, I]
    rows = columns.reshape(-1, kh * kw * n_in)
    return (rows @ matrix).reshape(*lead, *columns.shape[1:3], n_out)


def counts(s: np.ndarray, w: np.ndarray, strides: list[int], pads: list[int]) -> np.ndarray:
    """Integer convolution of spikes with +-1 weights; every partial sum is below 2^24."""
    return convolve(s, w, strides, pads, np.float32).astype(np.int32)


def to_heads(x: np.ndarray, heads: int) -> np.ndarray:
    """[T, B, H, W, D] -> [T, B, heads, N, d] with channel = head * d + j."""
    n_steps, batch, h, w, dim = x.shape
    return x.reshape(n_steps, batch, h * w, heads, dim // heads).transpose(0, 1, 3, 2, 4)


def from_heads(x: np.ndarray, like: tuple[int, ...]) -> np.ndarray:
    """[T, B, heads, N, d] -> `like` = [T, B, H, W, D]."""
    return x.transpose(0, 1, 3, 2, 4).reshape(like)


def out_size(size: int, kernel: int, stride: int, pad_before: int, pad_after: int) -> int:
    """Number of output positions of a window along one axis."""
    return (size + pad_before + pad_after - kernel) // stride + 1
