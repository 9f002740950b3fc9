"""Binary convolutions in TIR: the kernels that TVM compiles itself, with their fixed schedules.

Spikes are 0/1, weights +1/-1, 32 of each in a word. With A = popcount(x & w+) summed over the words
of a window and S = popcount(x), the count of numerics.md 4 and 6 is n = 2A - S. It is dense work:
no weight is skipped, and every instruction works on a block of output channels.

A tile is `rows` windows (pixels times time steps) against one block of `lanes` channels:

    window[r, k]         the words of a window, zero outside of the image
    w[block, k, lane]    weights, laid out at load, so that one vector load meets every row
    count[r, lane] += popcount(window[r, k] & w[block, k, lane])       in registers

Neuron (numerics.md 4): the rows of a tile hold all time steps of a pixel, so the potential I_t and
the step s of the last spike stay in registers; s selects the threshold Theta[t, s]. Affine
(numerics.md 6): y = n*Ai + ((n*Af + 2^14) >> 15) + B, in wrapping uint32.

Types. TVM tells LLVM that memory of different types never overlaps. Buffers of the arena are taken
as uint32 throughout, spikes and streams alike, and the bytes of `spikes` have a place of their own
in the scratch, so this holds whatever LLVM inlines.
"""

# mypy: disable-error-code="valid-type, no-untyped-def"
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bestdeploy.program import Op, Program, Step

__all__ = ["TIR_OPS", "Shape", "conv_affine", "conv_neuron", "shape_of"]

TIR_OPS = (Op.CONV_NEURON, Op.CONV_AFFINE)
"""Ops with a kernel here; all others are calls of the C kernels."""

_GATHER = {"uint32": 0x10204080, "uint64": 0x0102040810204080}
"""Times the bytes 0/1 of a word: their bits, in the topmost ones."""


@dataclass(frozen=True)
class Shape:
    """A convolution with its schedule: everything its code depends on.

    Attributes:
        groups: tiles over time: 1 where a tile holds all steps, else T.
        steps: time steps in a tile.
        pixels: pixels in a tile, they divide the output's.
        lanes: output channels in a block, a power of two up to 64.
        word: type of as many spikes as are packed at once.
    """

    op: Op
    groups: int
    steps: int
    pixels: int
    lanes: int
    word: str
    height: int
    width: int
    n_in: int
    kh: int
    kw: int
    stride: int
    pad: int
    n_out: int

    @property
    def out_height(self) -> int:
        """Rows of the output."""
        return (self.height + 2 * self.pad - self.kh) // self.stride + 1

    @property
    def out_width(self) -> int:
        """Columns of the output."""
        return (self.width + 2 * self.pad - self.kw) // self.stride + 1

    @property
    def rows(self) -> int:
        """Windows of a tile."""
        return self.pixels * self.steps

    @property
    def taps(self) -> int:
        """Places of the window."""
        return self.kh * self.kw

    @property
    def words(self) -> int:
        """Words of a window."""
        return self.taps * -(-self.n_in // 32)

    @property
    def blocks(self) -> int:
        """Blocks of output channels."""
        return -(-self.n_out // self.lanes)

    @property
    def padded(self) -> int:
        """Output channels in whole blocks."""
        return self.blocks * self.lanes

    @property
    def spike_bytes(self) -> int:
        """Bytes of a row of unpacked output spikes; `lanes` divides 64, so blocks fit."""
        return -(-self.n_out // 64) * 64


def shape_of(program: Program, step: Step, lanes: int, rows: int, word: str) -> Shape:
    """Return the shape of a convolution in blocks of `lanes` channels and tiles of about `rows`."""
    number = step.constant(0)
    assert number is not None, "validated"
    n_out, kh, kw, n_in = program.constants[number].dims
    source, out = program.buffers[step.inputs[0]], program.buffers[step.outputs[0]]
    groups, steps = (1, source.t) if step.op == Op.CONV_NEURON else (source.t, 1)
    n_pixels = out.h * out.w
    most = max(1, rows // steps)
    pixels = next(p for p in range(min(most, n_pixels), 0, -1) if n_pixels % p == 0)
    stride, pad = step.param(0), step.param(1)
    return Shape(
        *(step.op, groups, steps, pixels, lanes, word),
        *(source.h, source.w, n_in, kh, kw, stride, pad, n_out),
    )


def conv_neuron(s: Shape) -> Any:  # noqa: C901 (a nest of loops)
    """Return the PrimFunc (x, w, theta, windows, spikes, out), all of them addresses."""
    from tvm.script import tirx as T  # noqa: N812

    inside, packed, counted = _inside(s), _packed(s.word), _counted
    steps, pixels, rows, lanes, blocks = s.steps, s.pixels, s.rows, s.lanes, s.blocks
    kh, kw, channels, words = s.kh, s.kw, s.words // s.taps, s.words
    height, width, n_pixels = s.height, s.width, s.out_height * s.out_width
    n_theta, padded, spike_bytes = steps * (steps + 1) // 2, s.padded, s.spike_bytes
    in_words, out_words = -(-s.n_in // 64) * 2, -(-s.n_out // 64) * 2

    @T.prim_func(private=True, s_tir=True)
    def kernel(  # noqa: C901
        x_at: T.handle("uint32"),
        w_at: T.handle("uint32"),
        theta_at: T.handle("int32"),
        windows_at: T.handle("uint32"),
        spikes_at: T.handle("uint8"),
        out_at: T.handle("uint32"),
    ):
        x = T.decl_buffer((steps, height, width, in_words), "uint32", data=x_at)
        w = T.decl_buffer((blocks, words, lanes), "uint32", data=w_at)
        theta = T.decl_buffer((n_theta, padded), "int32", data=theta_at)
        window = T.decl_buffer((rows, words), "uint32", data=windows_at)
        spikes = T.decl_buffer((rows, spike_bytes), "uint8", data=spikes_at)
        out = T.decl_buffer((steps, n_pixels, out_words), "uint32", data=out_at)
        count = T.alloc_buffer((rows, lanes), "int32")
        total = T.alloc_buffer((rows,), "int32")
        potential = T.alloc_buffer((lanes,), "int32")
        last = T.alloc_buffer((lanes,), "int32")
        bound = T.alloc_buffer((lanes,), "int32")
        for tile in T.serial(n_pixels // pixels):
            for i, t in T.grid(pixels, steps):
                for ky, kx, c in T.grid(kh, kw, channels):
                    window[i * steps + t, (ky * kw + kx) * channels + c] = inside(
                        x, t, tile * pixels + i, ky, kx, c
                    )
                total[i * steps + t] = 0
                for j in T.serial(words):
                    total[i * steps + t] += counted(window[i * steps + t, j])
                for j in T.serial(spike_bytes - padded):
                    spikes[i * steps + t, padded + j] = T.uint8(0)
            for b in T.serial(blocks):
                for r in T.unroll(rows):
                    for n in T.vectorized(lanes):
                        count[r, n] = 0
                for j in T.serial(words):
                    for r in T.unroll(rows):
                        for n in T.vectorized(lanes):
                            count[r, n] += counted(window[r, j] & w[b, j, n])
                for i in T.unroll(pixels):
                    for n in T.vectorized(lanes):
                        potential[n] = 0
                        last[n] = 0
                    for t in T.unroll(steps):
                        for n in T.vectorized(lanes):
                            bound[n] = theta[t * (t + 1) // 2, b * lanes + n]
                        for s in T.unroll(steps - 1):  # those before t, the rest folds away
                            for n in T.vectorized(lanes):
                                bound[n] = T.Select(
                                    T.And(s < t, last[n] == s + 1),
                                    theta[t * (t + 1) // 2 + s + 1, b * lanes + n],
                                    bound[n],
                                )
                        for n in T.vectorized(lanes):
                            potential[n] = T.Select(last[n] == t, 0, potential[n]) + (
                                2 * count[i * steps + t, n] - total[i * steps + t]
                            ) * T.shift_left(1, t)
                        for n in T.vectorized(lanes):
                            spikes[i * steps + t, b * lanes + n] = T.Cast(
                                "uint8", potential[n] >= bound[n]
                            )
                        for n in T.vectorized(lanes):
                            last[n] = T.Select(potential[n] >= bound[n], t + 1, last[n])
            for i, t, j in T.grid(pixels, steps, out_words):
                out[t, tile * pixels + i, j] = packed(spikes, i * steps + t, 32 * j)

    return kernel


def conv_affine(s: Shape) -> Any:  # noqa: C901 (a nest of loops)
    """Return the PrimFunc (x, w, table, windows, out), all of them addresses."""
    from tvm.script import tirx as T  # noqa: N812

    inside, counted, scaled = _inside(s), _counted, _scaled
    groups, pixels, lanes, blocks = s.groups, s.pixels, s.lanes, s.blocks
    kh, kw, channels, words = s.kh, s.kw, s.words // s.taps, s.words
    height, width, n_pixels = s.height, s.width, s.out_height * s.out_width
    in_words, n_out, padded = -(-s.n_in // 64) * 2, s.n_out, s.padded

    @T.prim_func(private=True, s_tir=True)
    def kernel(  # noqa: C901
        x_at: T.handle("uint32"),
        w_at: T.handle("uint32"),
        table_at: T.handle("int32"),
        windows_at: T.handle("uint32"),
        out_at: T.handle("uint32"),
    ):
        x = T.decl_buffer((groups, height, width, in_words), "uint32", data=x_at)
        w = T.decl_buffer((blocks, words, lanes), "uint32", data=w_at)
        table = T.decl_buffer((3, padded), "int32", data=table_at)
        window = T.decl_buffer((pixels, words), "uint32", data=windows_at)
        out = T.decl_buffer((groups, n_pixels, n_out), "uint32", data=out_at)
        count = T.alloc_buffer((pixels, lanes), "int32")
        total = T.alloc_buffer((pixels,), "int32")
        line = T.alloc_buffer((lanes,), "uint32")
        for t, tile in T.grid(groups, n_pixels // pixels):
            for i in T.serial(pixels):
                for ky, kx, c in T.grid(kh, kw, channels):
                    window[i, (ky * kw + kx) * channels + c] = inside(
                        x, t, tile * pixels + i, ky, kx, c
                    )
                total[i] = 0
                for j in T.serial(words):
                    total[i] += counted(window[i, j])
            for b in T.serial(blocks):
                for r in T.unroll(pixels):
                    for n in T.vectorized(lanes):
                        count[r, n] = 0
                for j in T.serial(words):
                    for r in T.unroll(pixels):
                        for n in T.vectorized(lanes):
                            count[r, n] += counted(window[r, j] & w[b, j, n])
                for i in T.unroll(pixels):
                    for n in T.vectorized(lanes):
                        line[n] = scaled(2 * count[i, n] - total[i], table, b * lanes + n)
                    if n_out % lanes == 0:
                        for n in T.vectorized(lanes):
                            out[t, tile * pixels + i, b * lanes + n] = line[n]
                    else:
                        for n in T.serial(T.min(lanes, n_out - b * lanes)):
                            out[t, tile * pixels + i, b * lanes + n] = line[n]

    return kernel


def _inside(s: Shape) -> Any:
    """Return an expression: word c of tap (ky, kx) of output pixel p, 0 outside of the image."""
    from tvm import tirx

    def word(x: Any, t: Any, p: Any, ky: Any, kx: Any, c: Any) -> Any:
        row = p // s.out_width * s.stride - s.pad + ky
        column = p % s.out_width * s.stride - s.pad + kx
        if s.taps == 1 and s.pad == 0:
            return x[t, row, column, c]
        within = tirx.all(row >= 0, row < s.height, column >= 0, column < s.width)
        return tirx.if_then_else(within, x[t, row, column, c], tirx.const(0, "uint32"))

    return word


def _counted(word: Any) -> Any:
    from tvm import tirx

    return tirx.Cast("int32", tirx.popcount(word))


def _packed(word: str) -> Any:
    """Return an expression: 32 bytes 0/1 from `at` on as the bits of a uint32."""
    from tvm import tirx

    n = {"uint8": 1, "uint32": 4, "uint64": 8}[word]

    def bits(spikes: Any, row: Any, at: Any) -> Any:
        if n == 1:
            return spikes[row, at]
        octets = tirx.reinterpret(word, spikes[row, tirx.Ramp(at, 1, n)])
        return (octets * tirx.const(_GATHER[word], word)) >> tirx.const(7 * n, word)

    def packed(spikes: Any, row: Any, at: Any) -> Any:
        found = tirx.const(0, "uint32")
        for first in range(0, 32, n):
            part = tirx.Cast("uint32", bits(spikes, row, at + first))
            found = found | (part << tirx.const(first, "uint32"))
        return found

    return packed


def _scaled(n: Any, table: Any, channel: Any) -> Any:
    """n*Ai + ((n*Af + 2^14) >> 15) + B, wrapping."""
    from tvm import tirx

    part = (n * table[1, channel] + 16384) >> 15
    whole = tirx.Cast("uint32", n) * tirx.Cast("uint32", table[0, channel])
    return whole + tirx.Cast("uint32", part) + tirx.Cast("uint32", table[2, channel])
