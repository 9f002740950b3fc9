"""The weights of a layer: in the graph's order, with their scale, as one kernel with averages.

Real weights stay real until the pass `quantise`; signs and trained integers are taken as they are,
also where averages add some of them up (more bits then hold the sums). A grouped convolution is a
dense one with zeros outside of the groups, which one bit does not hold; a depthwise one stays one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bestdeploy import ir
from bestdeploy.errors import UsageError
from bestdeploy.importers import quantiser
from bestdeploy.importers.traced.windows import Joined

if TYPE_CHECKING:
    from bestdeploy.importers.traced.known import Known
    from bestdeploy.importers.traced.layers import Layer
    from bestdeploy.importers.traced.tracer import Tracer

MAX_FAN_IN = 65536  # of the file format


def sums(tracer: Tracer, x: Known) -> ir.Value:
    """Append the sums of a layer, without a bias."""
    e, layer = tracer.e, x.layer
    assert layer is not None
    joined, own = Joined(layer, x.window), taken(tracer, layer)
    n = joined.cells * x.divisor
    if layer.is_binary and x.steps and n == 1:
        return e.binary_sums(layer.name, x.value, own, levels=x.levels, stride=layer.stride,
                             pad=layer.pad)  # fmt: skip
    if not x.steps:
        whole = _kernel(tracer, joined, deployed(tracer, layer, own)) / n
        kernel = e.b.initializer(f"{layer.name}.weight", _last(whole))
        return e.op("RealConv", x.value, kernel, name=layer.name, strides=[joined.stride] * 2,
                    pads=[joined.pad] * 4)  # fmt: skip
    w, scale, bits = _scaled(tracer, joined, own, n)
    window = {"stride": joined.stride, "pad": joined.pad}
    if layer.is_depthwise:
        return e.depthwise_conv(layer.name, x.value, w, scale, bits, **window)
    return e.scaled_conv(layer.name, x.value, w, scale, bits, levels=x.levels, **window)


def _kernel(tracer: Tracer, joined: Joined, own: np.ndarray, depthwise: bool = False
            ) -> np.ndarray:  # fmt: skip
    """Return the whole kernel [O, I, kh, kw], [C, 1, kh, kw] of a depthwise one."""
    w = joined.weights(own if depthwise else _dense(own, joined.layer.groups))
    fan_in = int(np.prod(w.shape[1:]))
    if fan_in > MAX_FAN_IN:
        raise tracer.refuse(f"{fan_in} inputs of every sum", f"at most {MAX_FAN_IN}")
    return w


def _scaled(
    tracer: Tracer, joined: Joined, own: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the kernel divided by n, the scale of its rows, and the bits of its integers."""
    layer, depthwise = joined.layer, joined.layer.is_depthwise
    if layer.is_binary:
        own, scale, bits = deployed(tracer, layer, own), np.ones(len(own)), 1
    elif bits := layer.bits:
        scale = quantiser.scales(own, bits)
        own = deployed(tracer, layer, own)
    else:
        w, bits = _kernel(tracer, joined, own, depthwise), _weight_bits(tracer, layer)
        if bits == 1 and not _kernel(tracer, joined, np.ones_like(own), depthwise).all():
            bits = 2
        w = w if n == 1 else w / n
        return w, quantiser.scales(w, bits), bits
    w = _kernel(tracer, joined, own, depthwise)
    return w / n, scale / n, _enough_bits(w, scale, bits)


def deployed(tracer: Tracer, layer: Layer, own: np.ndarray) -> np.ndarray:
    """Return the weights that a layer computes with: signs, trained integers times their scale."""
    if layer.is_binary:
        return tracer.e.signs(layer.name, own)
    return quantiser.quantised(own, quantiser.scales(own, layer.bits), layer.bits) if (
        layer.bits) else own  # fmt: skip


def _enough_bits(w: np.ndarray, scale: np.ndarray, bits: int) -> int:
    """Return how many bits hold the integers w / scale: sums of some of `bits` bits, or zeros."""
    q = np.abs(np.rint(w / scale.reshape(-1, 1, 1, 1)))
    if bits == 1 and (q == 1).all():
        return 1
    return max(bits, 2, int(q.max()).bit_length() + 1)


def _dense(w: np.ndarray, groups: int) -> np.ndarray:
    """[O, I / groups, kh, kw] -> [O, I, kh, kw], zeros outside of a channel's group."""
    if groups == 1:
        return w
    n_out, width = len(w) // groups, w.shape[1]
    out = np.zeros((len(w), width * groups, *w.shape[2:]), w.dtype)
    for g in range(groups):
        rows = slice(g * n_out, (g + 1) * n_out)
        out[rows, g * width : (g + 1) * width] = w[rows]
    return out


def taken(tracer: Tracer, layer: Layer) -> np.ndarray:
    """Take the weights of a layer, [O, I / groups, kh, kw]."""
    t, key = tracer.e.t, f"{layer.name}.weight"
    w = t.take(key, tracer.checkpoint.tensors[key].shape)
    if layer.flat:  # the axes in the order in which the map was flattened
        w = w.reshape(layer.n_out, *(n for _, n in layer.flat))
        order = [name for name, _ in layer.flat]
        w = w.transpose(0, *(1 + order.index(name) for name in "CHW" if name in order))
    return w.reshape(layer.n_out, layer.n_in // layer.groups, *layer.kernel)


def _weight_bits(tracer: Tracer, layer: Layer) -> int:
    """Return the bits of the integers that real weights become."""
    bits = tracer.settings.get("weight_bits")
    if bits is None:
        raise UsageError(
            f"layer {layer.name} has real weights and nothing says how many bits they get",
            hint='give settings={"weight_bits": 8}',
        )
    if int(bits) not in quantiser.BITS:
        raise UsageError(
            f"weight_bits={bits}: expected one of {', '.join(map(str, quantiser.BITS))}",
            hint='give settings={"weight_bits": 8}',
        )
    return int(bits)


def _last(w: np.ndarray) -> np.ndarray:
    """[O, I, kh, kw] -> [O, kh, kw, I]."""
    return np.ascontiguousarray(w.transpose(0, 2, 3, 1), np.float64)
