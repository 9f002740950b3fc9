"""Counting spikes: firing rates, and the synaptic operations that they cause, exactly.

Two numbers go by the name SOPs and both are given:

    counted         every spike times the number of weights it meets; a spike at a border meets
                    fewer. An integer, nothing is averaged or rounded.
    rate x MACs     firing rate of the layer's input times its dense MACs, as the literature
                    computes them; padding counts as if it could spike.

They are equal for 1x1 layers and for attention. In a product of two spike tensors the first operand
drives: each of its spikes meets a row of the other, whether that row holds spikes or not. The
pairs in which both do spike are counted beside it. Every bit of a level is an event, so its rate
per neuron and step may be above 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from bestdeploy.report.layers import Layer, Reach

__all__ = ["Counted", "Recorder", "events_of"]

Spikes = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.int64]


def events_of(levels: Spikes) -> Spikes:
    """Return the bits set in each level 0 .. 255: as many rows of weights does it add."""
    table = np.array([bin(i).count("1") for i in range(256)], np.uint8)
    return table[levels]


@dataclass(frozen=True)
class Counted:
    """What one layer did over all recorded frames; sums are over these frames.

    Attributes:
        n_spikes_in: spikes of the tensor that drives it.
        n_places_in: neurons times steps of that tensor.
        n_spikes_out: spikes it gave.
        n_places_out: neurons times steps of these.
        sops: counted synaptic operations.
        pairs: pairs of spikes that met, of a product of spikes; else None.
    """

    n_spikes_in: int = 0
    n_places_in: int = 0
    n_spikes_out: int = 0
    n_places_out: int = 0
    sops: int = 0
    pairs: int | None = None

    @property
    def rate_in(self) -> Fraction | None:
        """Firing rate of the tensor that drives it, per neuron and step."""
        return Fraction(self.n_spikes_in, self.n_places_in) if self.n_places_in else None

    @property
    def rate_out(self) -> Fraction | None:
        """Firing rate of its own neurons."""
        return Fraction(self.n_spikes_out, self.n_places_out) if self.n_places_out else None


class Recorder:
    """Adds up the spikes of a network's layers, batch by batch; holds a map per tensor."""

    def __init__(self, layers: Iterable[Layer]) -> None:
        self.layers = tuple(layers)
        self.names = tuple(
            dict.fromkeys(n for x in self.layers for n in (*x.reads, x.writes) if n is not None)
        )
        self.n_frames = 0
        self._maps: dict[str, Sums] = {}
        self._places: dict[str, int] = dict.fromkeys(self.names, 0)
        self._pairs: dict[str, int] = {x.name: 0 for x in self.layers if x.kind in _PAIRS}

    def add(self, spikes: Mapping[str, Spikes], n_frames: int) -> None:
        """Add the spikes {0, 1} of a batch, [T, B, H, W, C] each, for every name of `names`.

        Of levels, the number of bits set (`events_of`).
        """
        self.n_frames += n_frames
        for name in self.names:
            array = spikes[name]
            places = array.sum(axis=(0, 1, -1), dtype=np.int64)
            held = self._maps.get(name)
            self._maps[name] = places if held is None else held + places
            self._places[name] += array.size
        for layer in self.layers:
            count = _PAIRS.get(layer.kind)
            if count is not None:
                one, two = (spikes[name] for name in layer.reads)
                self._pairs[layer.name] += count(layer.heads, one, two)

    def counted(self, layer: Layer) -> Counted:
        """Return the sums of a layer."""
        driver = layer.reads[0] if layer.reads else None
        there = self._maps.get(driver) if driver is not None else None
        given = self._maps.get(layer.writes) if layer.writes is not None else None
        return Counted(
            n_spikes_in=0 if there is None else int(there.sum()),
            n_places_in=self._places.get(driver, 0) if driver is not None else 0,
            n_spikes_out=0 if given is None else int(given.sum()),
            n_places_out=self._places.get(layer.writes, 0) if layer.writes is not None else 0,
            sops=0 if there is None or layer.reach is None else _reached(there, layer.reach),
            pairs=self._pairs.get(layer.name),
        )


def _reached(spikes: Sums, reach: Reach) -> int:
    """Return the sum over spikes [H, W] of the weights that each meets."""
    if reach.rows is None or reach.columns is None:
        return int(spikes.sum()) * reach.width
    rows, columns = (np.array(x, np.int64) for x in (reach.rows, reach.columns))
    return int(rows @ spikes @ columns) * reach.width


# ----------------------------------------------------------------------------- pairs of spikes


def _by_head(x: Spikes, heads: int) -> Sums:
    """Sum the channels of each head: [T, B, H, W, D] -> int64 [T, B, N, heads]."""
    t, b, h, w, d = x.shape
    return np.asarray(x.reshape(t, b, h * w, heads, d // heads).sum(axis=-1, dtype=np.int64))


def _by_channel(x: Spikes) -> Sums:
    """Sum the tokens: [T, B, H, W, D] -> int64 [T, B, D]."""
    return np.asarray(x.sum(axis=(2, 3), dtype=np.int64))


def _query_key(heads: int, q: Spikes, k: Spikes) -> int:
    return int((_by_channel(q) * _by_channel(k)).sum())


def _attention_value(heads: int, a: Spikes, v: Spikes) -> int:
    by_key = a.sum(axis=3, dtype=np.int64)  # [T, B, heads, N]
    return int((by_key.swapaxes(-1, -2) * _by_head(v, heads)).sum())


def _key_value(heads: int, k: Spikes, v: Spikes) -> int:
    return int((_by_head(k, heads) * _by_head(v, heads)).sum())


def _query_attention(heads: int, q: Spikes, a: Spikes) -> int:
    by_row = a.sum(axis=-1, dtype=np.int64)  # [T, B, heads, d]
    return int((_by_channel(q).reshape(by_row.shape) * by_row).sum())


_PAIRS: dict[str, Callable[[int, Spikes, Spikes], int]] = {
    "q k^T": _query_key,
    "a v": _attention_value,
    "k^T v": _key_value,
    "q a": _query_attention,
}
