"""Products of attention: spikes with spikes, recognised by what the contracted axes run over.

    q k^T                   over channels  "scores"  a neuron (Scores), or straight on to v
    k^T v                   over tokens    "pairs"   a neuron (KeyValues), or straight on to q
    (q k^T) v, q (k^T v)                   "mixed"   Values, QueryValues; QueryKeyValues without a
                                                     neuron in between; then a scale and a neuron
    sum over tokens of k v                 "sums"    KeyValueCounts, whose neuron's spikes gate q

Nothing is appended before the neuron: a product of integers may still be scaled, its heads joined,
its axes moved. The scale of what a neuron makes bits of goes into its threshold:
lif(s A) with theta is lif(A) with theta / s.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from bestdeploy import ir
from bestdeploy.importers.network import MAX_HEAD_WIDTH, MAX_TOKENS
from bestdeploy.importers.traced import axes as ax
from bestdeploy.importers.traced.known import Known

if TYPE_CHECKING:
    from bestdeploy.importers.traced.tracer import Tracer

FIRST = ("scores", "pairs", "sums")  # what a neuron makes bits of
MAPS = {"scores": "map", "pairs": "channel map", "sums": "spikes"}
"""First product -> what its bits are."""
REMEDY = "write (q @ k.transpose(-2, -1)) @ v or q @ (k.transpose(-2, -1) @ v), a scale, a neuron"


@dataclasses.dataclass(frozen=True)
class Product:
    """A product of attention whose op is to come.

    Attributes:
        op: the op of the graph.
        values: what it takes.
        heads: of q, k and v.
        gain: its scale, a number or float64 [T, heads].
    """

    op: str
    values: tuple[ir.Value, ...]
    heads: int = 1
    gain: Any = 1.0


@dataclasses.dataclass(frozen=True)
class _Roles:
    """Axes that hold the tokens and the channels of a head in q, k and v; their heads."""

    tokens: ax.Axis
    channels: ax.Axis
    heads: int
    n_tokens: int
    width: int

    @property
    def keys(self) -> ax.Axis:
        """The second axis of scores."""
        return ax.axis(("K", self.n_tokens))

    @property
    def key_channels(self) -> ax.Axis:
        """The first axis of pairs."""
        return ax.axis(("I", self.width))


def _roles(x: Known) -> _Roles:
    heads = ax.size(x.axes[:-2], "h")
    width = x.width // heads
    return _Roles(
        ax.axis(("H", x.size[0]), ("W", x.size[1])),
        ax.axis(("C", width)) if heads == 1 else ax.axis(("d", width)),
        heads, x.size[0] * x.size[1], width,
    )  # fmt: skip


# -- matrix products -----------------------------------------------------------------------------


def matmul(tracer: Tracer, args: Any, kwargs: dict[str, Any], out: Any) -> Known:
    """torch.matmul, torch.bmm, the operator @."""
    known = [getattr(a, "known", None) for a in args[:2]]
    if len(known) < 2 or None in known:
        raise tracer.refuse("a matrix product", "with a tensor that does not come from the image",
                            "use a Linear layer")  # fmt: skip
    return _product(tracer, *known)  # type: ignore[arg-type]


def einsum(tracer: Tracer, args: Any, kwargs: dict[str, Any], out: Any) -> Known:
    """torch.einsum of two tensors that is a matrix product of their last axes, however they lie."""
    equation, *operands = args
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = list(operands[0])
    known = [a.known for a in operands if hasattr(a, "known")]
    terms = str(equation).replace(" ", "").replace("->", ",").split(",")
    one, two, wanted = terms if len(terms) == 3 and "." not in equation else ("", "", "")
    summed = [c for c in one if c in two and c not in wanted]
    batch = [c for c in one if c in two and c in wanted]
    rest = [[c for c in term if c not in summed + batch] for term in (one, two)]
    plain = all(len(set(term)) == len(term) for term in (one, two, wanted))
    if not plain or sorted(wanted) != sorted(batch + rest[0] + rest[1]):
        known = []
    if len(known) != 2 or [len(summed), *map(len, rest)] != [1, 1, 1]:
        raise tracer.refuse(f"einsum {equation!r}", "only of two tensors, over one axis",
                            "use matmul")  # fmt: skip
    a, b = (
        k.be(axes=tuple(k.axes[term.index(c)] for c in order))
        for k, term, order in ((known[0], one, batch + rest[0] + summed),
                               (known[1], two, batch + summed + rest[1]))
    )  # fmt: skip
    made, letters = _product(tracer, a, b), batch + rest[0] + rest[1]
    return made.be(axes=tuple(made.axes[letters.index(c)] for c in wanted))


def _product(tracer: Tracer, a: Known, b: Known) -> Known:
    """Return a b, over the last axis of a and the last but one of b."""
    what = f"a matrix product of {a.words} {ax.words(a.axes)} and {b.words} {ax.words(b.axes)}"
    roles = _roles(a if a.kind == "spikes" else b)
    _check(tracer, what, a, b, roles)
    made = _first(a, b, roles) or _second(a, b, roles)
    if made is None:  # a b is the transposed of b^T a^T, of [.., channels, tokens]
        turned = _second(_turned(b), _turned(a), roles)
        made = None if turned is None else _turned(turned)
    if made is None:
        raise tracer.refuse(what, "neither q k^T nor k^T v nor one of these with the third", REMEDY)
    return made


def _turned(x: Known) -> Known:
    """Return the transposed of the last two axes."""
    return x.be(axes=(*x.axes[:-2], x.axes[-1], x.axes[-2]))


def _check(tracer: Tracer, what: str, a: Known, b: Known, roles: _Roles) -> None:
    """Refuse what no product of attention is made of, and sizes that none has."""
    usual = {"spikes", "scores", "pairs", *MAPS.values()}
    if not {a.kind, b.kind} <= usual or "spikes" not in (a.kind, b.kind):
        raise tracer.refuse(what, "only of spikes with spikes, and of that with spikes", REMEDY)
    lead = ax.names(a.axes[:-2])
    if a.axes[:-2] != b.axes[:-2] or not set(lead) <= {"T", "B", "h"}:
        raise tracer.refuse(what, "expected [.., tokens, channels] with T, B and heads in front",
                            "give each head an axis of its own behind T and B")  # fmt: skip
    if (a.width, a.size) != (b.width, b.size):
        raise tracer.refuse(what, "q, k and v have other channels or tokens")
    if roles.width > MAX_HEAD_WIDTH or roles.n_tokens > MAX_TOKENS:
        raise tracer.refuse(
            what, f"{roles.n_tokens} tokens, heads of {roles.width} channels: at most {MAX_TOKENS} "
            f"and {MAX_HEAD_WIDTH}", "use more heads, or pool in front",
        )  # fmt: skip


def _first(a: Known, b: Known, r: _Roles) -> Known | None:
    """Return q k^T or k^T v, None where the axes are others."""
    if (a.kind, b.kind) != ("spikes", "spikes"):
        return None
    rows, columns = a.axes[-2:], b.axes[-2:]
    if rows == (r.tokens, r.channels) and columns == (r.channels, r.tokens):
        made, kind, ends = "Scores", "scores", (r.tokens, r.keys)
    elif rows == (r.channels, r.tokens) and columns == (r.tokens, r.channels):
        made, kind, ends = "KeyValues", "pairs", (r.key_channels, r.channels)
    else:
        return None
    product = Product(made, (a.value, b.value), r.heads)
    return a.be(kind=kind, axes=(*a.axes[:-2], *ends), product=product)


def _second(a: Known, b: Known, r: _Roles) -> Known | None:
    """Return a product of three [.., tokens, channels], None where the axes are others.

    Without a neuron the first product is symmetric: which of its two the third one meets says which
    of them is k.
    """
    if a.kind in ("scores", "map"):
        first, spikes, ends = a, b, {(r.tokens, r.keys): 1, (r.keys, r.tokens): -1}
    elif b.kind in ("pairs", "channel map"):
        first, spikes = b, a
        ends = {(r.key_channels, r.channels): 1, (r.channels, r.key_channels): -1}
    else:
        return None
    way = ends.get((first.axes[-2], first.axes[-1]), 0)
    fits = spikes.axes[-2:] == (r.tokens, r.channels) and spikes.kind == "spikes"
    if way == 0 or not fits or (first.product is None and way < 0):
        return None
    if first.product is not None:
        values = first.product.values[::way]
        three = (*values, spikes.value) if a is first else (spikes.value, *values)
        product = Product("QueryKeyValues", three, r.heads, first.product.gain)
    elif a is first:
        product = Product("Values", (first.value, spikes.value), r.heads)
    else:
        product = Product("QueryValues", (spikes.value, first.value), r.heads)
    axes = (*a.axes[:-2], r.tokens, r.channels)
    return spikes.be(kind="mixed", axes=axes, product=product)


# -- scales --------------------------------------------------------------------------------------


def multiplied(tracer: Tracer, x: Known, factor: Any) -> Known:
    """Return a product times a number, or times one number per step and head."""
    assert x.product is not None
    return _scaled(x, x.product.gain * _gain(tracer, x, factor))


def divided(tracer: Tracer, args: Any, kwargs: dict[str, Any], out: Any) -> Known:
    """A product of attention divided by a number, such as the root of a head's channels."""
    x = getattr(args[0], "known", None)
    if x is None or x.product is None or len(args) < 2 or hasattr(args[1], "known"):
        raise tracer.refuse(
            "a division", "only of a product of attention by a number, of a sum of two streams by 2"
        )
    return _scaled(x, x.product.gain / _gain(tracer, x, args[1]))


def _scaled(x: Known, gain: Any) -> Known:
    assert x.product is not None
    return x.be(product=dataclasses.replace(x.product, gain=gain))


def _gain(tracer: Tracer, x: Known, factor: Any) -> Any:
    """Return a factor as torch takes it, float32: a number or float64 [T, heads]."""
    if isinstance(factor, int | float):
        return float(np.float32(factor))
    values = tracer.plain(factor).detach().double().numpy()
    if values.size == 1:
        return float(values.reshape(()))
    values = values.reshape((1,) * (len(x.axes) - values.ndim) + values.shape)
    steps, heads = (ax.axis(("T", tracer.e.n_steps)), ax.axis(("h", _heads(x))))
    varied = [axis for axis, n in zip(x.axes, values.shape, strict=True) if n > 1]
    if x.kind != "mixed" or not set(varied) <= {steps, heads}:
        raise tracer.refuse(
            f"a product of {x.words} {ax.words(x.axes)} and a tensor {list(factor.shape)}",
            "only of a number, or behind v of one per step and head",
        )
    gain = np.ones((tracer.e.n_steps, _heads(x)))
    found = values.reshape([n for n in values.shape if n > 1])
    found = found if varied[0] == steps else found.T
    return gain * (found[:, None] if varied == [steps] else found)


def _heads(x: Known) -> int:
    assert x.product is not None
    return x.product.heads


# -- neurons -------------------------------------------------------------------------------------


def sums(tracer: Tracer, args: Any, kwargs: dict[str, Any], out: Any) -> Known:
    """torch.sum over all tokens of a product of spikes with spikes."""
    x: Known = args[0].known
    dims = kwargs.get("dim", args[1] if len(args) > 1 else ())
    dims = {d % len(x.axes) for d in (dims if isinstance(dims, list | tuple) else (dims,))}
    keep = kwargs.get("keepdim", args[2] if len(args) > 2 else False)
    over = sorted(ax.names([x.axes[i] for i in sorted(dims)]))
    if x.kind != "spikes" or len(x.factors) != 2 or over != sorted(ax.names([_roles(x).tokens])):
        raise tracer.refuse(f"a sum over {', '.join(over) or 'nothing'} of {x.words}",
                            "only over all tokens of k.mul(v), spikes", "use a mean")  # fmt: skip
    axes = [() if i in dims else part for i, part in enumerate(x.axes) if keep or i not in dims]
    product = Product("KeyValueCounts", x.factors)
    return x.be(kind="sums", axes=tuple(axes), size=(1, 1), product=product, factors=())


def fired(tracer: Tracer, x: Known, neuron: dict[str, Any]) -> Known:
    """Append a product and the neuron behind it, which has these arguments of `Emitter.neuron`."""
    assert x.product is not None
    e, p, name = tracer.e, x.product, tracer.name()
    heads = {} if p.op == "KeyValueCounts" else {"heads": p.heads}
    value = e.op(p.op, *p.values, name=f"{name}.product", **heads)
    if x.kind in FIRST:
        gain = float(p.gain)
        if not 0 < gain < math.inf:
            raise tracer.refuse(f"{x.words} times {gain:g}", "expected a scale above 0")
        neuron = neuron | {k: neuron[k] / gain for k in ("threshold", "v_reset")}
    else:
        _check_whole(tracer, p)
        gains = e.b.initializer(f"{name}.gain", np.broadcast_to(p.gain, (e.n_steps, p.heads)) * 1.0)
        value = e.op("HeadScale", value, gains, name=f"{name}.scaled")
    value = e.neuron(name, value, **neuron)
    return x.be(value=value, kind=MAPS.get(x.kind, "spikes"), product=None)


def _check_whole(tracer: Tracer, p: Product) -> None:
    """Refuse a scale of q k^T v that is no shift: integers are compared only where it is one."""
    values = np.unique(p.gain)
    if p.op == "QueryKeyValues" and (len(values) > 1 or math.frexp(values[0])[0] != 0.5):
        raise tracer.refuse(
            f"q k^T v times {', '.join(f'{v:g}' for v in values[:4])}",
            "without a neuron on the first product the scale must be a power of two",
            "use 0.125 or another power of two, or a neuron on q k^T",
        )
