"""Pieces of ONNX function bodies that several ops share, in standard ops of opset 17 only.

Integer rules of the standard that shape these pieces: `Div` truncates (so a floor shift adds a
large offset first), `BitShift` is unsigned, int8 `Mul` has no CPU kernel in older runtimes (so
bits are unpacked by `Gather` from a table), and `MatMulInteger` may saturate on some x86 CPUs (so
products of spikes and weights are `ConvInteger` of uint8 by uint8, other products `MatMul`).
"""

from __future__ import annotations

import numpy as np

from bestdeploy import ir

INT32, INT64, UINT8, DOUBLE, BOOL = 6, 7, 2, 11, 9

# Added before a truncating division, taken off after: a multiple of every divisor used here.
# |x| < 2^62 holds for every dividend: the largest is (x - v) R with |x - v| < 2^32, R <= 2^30.
_OFFSET_BITS = 62

WORD_BITS = 64


def cast(b: ir.Builder, x: ir.Value, to: int) -> ir.Value:
    """Cast to an ONNX element type."""
    return b.op("Cast", x, to=to)


def int_attribute(b: ir.Builder, name: str) -> ir.Value:
    """Read an INT attribute of the function as an int64 scalar."""
    return b.op("Constant", value_int=ir.reference_attribute("value_int", name, "INT"))


def float_attribute(b: ir.Builder, name: str) -> ir.Value:
    """Read a FLOAT attribute of the function as a float64 scalar."""
    return cast(
        b,
        b.op("Constant", value_float=ir.reference_attribute("value_float", name, "FLOAT")),
        DOUBLE,
    )


def dims(b: ir.Builder, x: ir.Value, start: int, end: int) -> ir.Value:
    """Return Shape(x)[start:end] as an int64 vector."""
    return b.op("Shape", x, start=start, end=end)


def vector(b: ir.Builder, scalar: ir.Value) -> ir.Value:
    """Turn an int64 scalar into a vector of one."""
    return b.op("Reshape", scalar, b.constant([1]))


def reshape(b: ir.Builder, x: ir.Value, *parts: ir.Value | int) -> ir.Value:
    """Reshape to the concatenation of vectors and plain numbers."""
    vectors = [b.constant([p]) if isinstance(p, int) else p for p in parts]
    return b.op("Reshape", x, b.op("Concat", *vectors, axis=0) if len(vectors) > 1 else vectors[0])


def floor_shift(b: ir.Builder, x: ir.Value, bits: int) -> ir.Value:
    """Floor of x / 2^bits for int64 x with |x| < 2^62."""
    lifted = b.op("Add", x, b.constant(np.int64(2**_OFFSET_BITS)))
    divided = b.op("Div", lifted, b.constant(np.int64(2**bits)))
    return b.op("Sub", divided, b.constant(np.int64(2 ** (_OFFSET_BITS - bits))))


def floor_divide(b: ir.Builder, x: ir.Value, divisor: ir.Value) -> ir.Value:
    """Floor of x / divisor for int64 x, |x| < 2^62, and powers of two as int64 divisors."""
    offset = b.constant(np.int64(2**_OFFSET_BITS))
    divided = b.op("Div", b.op("Add", x, offset), divisor)
    return b.op("Sub", divided, b.op("Div", offset, divisor))


def step(b: ir.Builder, x: ir.Value, t: int) -> ir.Value:
    """Return x[t] without the time axis."""
    return b.op("Gather", x, b.constant(np.int64(t)), axis=0)


def stack(b: ir.Builder, steps: list[ir.Value]) -> ir.Value:
    """Stack steps along a new first axis."""
    axis = b.constant([0])
    lifted = [b.op("Unsqueeze", s, axis) for s in steps]
    return b.op("Concat", *lifted, axis=0) if len(lifted) > 1 else lifted[0]


def bit_table(low: int, high: int, dtype: type) -> np.ndarray:
    """[256, 8] table of the bits of a byte, lowest first, with `low` for 0 and `high` for 1."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return np.where(bits == 1, high, low).astype(dtype)


def unpack(b: ir.Builder, packed: ir.Value, channels: ir.Value, *, signs: bool = False) -> ir.Value:
    """Unpack [.., P] bytes of rank 4 (weights) or 5 (spikes) to [.., channels] bits or +-1."""
    table = bit_table(-1, 1, np.int8) if signs else bit_table(0, 1, np.uint8)
    index = cast(b, packed, INT32)
    bits = b.op("Gather", b.constant(table), index, axis=0)
    flat = b.op("Reshape", bits, b.constant([0, 0, 0, -1] if signs else [0, 0, 0, 0, -1]))
    return b.op("Slice", flat, b.constant([0]), vector(b, channels), b.constant([-1]))


def unpack_planes(b: ir.Builder, packed: ir.Value, channels: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Unpack rows of several planes, [.., n P] bytes, to int32 bits [.., n, channels] and n [1].

    P is the number of bytes of a row of `channels` bits, padded to 64 bits.
    """
    word = b.constant([WORD_BITS])
    wide = vector(b, channels)
    n_bits = b.op("Mul", word, b.op("Div", b.op("Add", wide, b.constant([WORD_BITS - 1])), word))
    n_planes = b.op("Div", b.op("Mul", b.op("Shape", packed, start=-1), b.constant([8])), n_bits)
    bits = b.op("Gather", b.constant(bit_table(0, 1, np.int32)), cast(b, packed, INT32), axis=0)
    rows = reshape(b, bits, dims(b, packed, 0, -1), n_planes, n_bits)
    return b.op("Slice", rows, b.constant([0]), wide, b.constant([-1])), n_planes


def join_planes(b: ir.Builder, bits: ir.Value, factors: ir.Value) -> ir.Value:
    """Sum of int32 planes [.., n, C] times int32 factors [n], [.., C]."""
    column = b.op("Unsqueeze", factors, b.constant([1]))
    return b.op("ReduceSum", b.op("Mul", bits, column), b.constant([-2]), keepdims=0)


def pack(b: ir.Builder, bits: ir.Value) -> ir.Value:
    """Pack uint8 {0,1} of rank 5 along the last axis: little bit order, zero padded to 64 bits."""
    n = dims(b, bits, 4, 5)
    word = b.constant([WORD_BITS])
    missing = b.op("Mod", b.op("Sub", word, b.op("Mod", n, word)), word)
    pads = b.op("Concat", b.constant([0] * 9), missing, axis=0)
    padded = b.op("Pad", bits, pads, b.constant(np.uint8(0)))
    octets = b.op("Reshape", padded, b.constant([0, 0, 0, 0, -1, 8]))
    weighted = b.op("Mul", cast(b, octets, INT32), b.constant(2 ** np.arange(8, dtype=np.int32)))
    return cast(b, b.op("ReduceSum", weighted, b.constant([-1]), keepdims=0), UINT8)


def convolve(
    b: ir.Builder, op: str, x: ir.Value, w: ir.Value, *, zero_point: int = 128
) -> ir.Value:
    """Channel-last convolution of x [.., H, W, I], any number of leading axes, w [O, kh, kw, I].

    `op` is Conv or ConvInteger, for which w + zero_point lies in 0..255; the op's `strides` and
    `pads` attributes are used.
    """
    image = reshape(b, x, -1, b.op("Shape", x, start=-3))
    zero_points: list[ir.Value] = []
    if op == "ConvInteger":
        # uint8 x int8 has no CPU kernel in ONNX Runtime 1.17 to 1.23, and on CPUs without VNNI it
        # may go through an instruction that saturates; uint8 x uint8 is everywhere and exact.
        w = cast(b, b.op("Add", cast(b, w, INT32), b.constant(np.int32(zero_point))), UINT8)
        zero_points = [b.constant(np.uint8(0)), b.constant(np.uint8(zero_point))]
    y = b.op(
        op,
        b.op("Transpose", image, perm=[0, 3, 1, 2]),
        b.op("Transpose", w, perm=[0, 3, 1, 2]),
        *zero_points,
        strides=ir.reference_attribute("strides", "strides", "INTS"),
        pads=ir.reference_attribute("pads", "pads", "INTS"),
    )
    y = b.op("Transpose", y, perm=[0, 2, 3, 1])
    return reshape(b, y, dims(b, x, 0, -3), dims(b, y, 1, 4))


def to_heads(b: ir.Builder, x: ir.Value, heads: ir.Value) -> ir.Value:
    """[T, B, H, W, D] -> [T, B, heads, N, d] with channel = head * d + j."""
    split = reshape(b, x, dims(b, x, 0, 2), -1, vector(b, heads), _head_width(b, x, heads))
    return b.op("Transpose", split, perm=[0, 1, 3, 2, 4])


def from_heads(b: ir.Builder, x: ir.Value, like: ir.Value) -> ir.Value:
    """[T, B, heads, N, d] -> the shape of `like` [T, B, H, W, D]."""
    return b.op("Reshape", b.op("Transpose", x, perm=[0, 1, 3, 2, 4]), b.op("Shape", like))


def _head_width(b: ir.Builder, x: ir.Value, heads: ir.Value) -> ir.Value:
    return b.op("Div", dims(b, x, 4, 5), vector(b, heads))
