"""What is known of a tensor while a module is traced."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from bestdeploy import ir
from bestdeploy.importers.traced.axes import Axes

if TYPE_CHECKING:
    from bestdeploy.importers.traced.attention import Product
    from bestdeploy.importers.traced.layers import Layer
    from bestdeploy.importers.traced.windows import Window


@dataclasses.dataclass(frozen=True)
class Known:
    """What is known of a tensor.

    Attributes:
        value: its value in the graph [T, B, H, W, C]; that of the input where its layer or its mean
            is to come.
        kind: image, real, spikes, levels (sums of spikes), averages (over windows, to come), conv
            and linear (layers whose batch norm is to come), not (1 - spikes), features (means),
            half (of the sum of two streams),
            and those of attention.py.
        axes: what its own axes run over.
        steps: the value has a time axis.
        width: channels of the value.
        size: rows and columns of the value, or of its averages.
        layer: of the kinds conv and linear.
        source: of features, and of a linear layer that reads them: the kind of the value.
        averaged: of a linear layer: means were taken behind it.
        norm: name of the batch norm, kind real, of what is made of a still image alone.
        levels: the largest number of spikes (1) or levels, also of those that a layer reads.
        divisor: of levels, also of those that a layer reads: what they are divided by.
        window: of averages, and of a layer or a mean that reads them.
        product: of attention, to come.
        factors: of spikes that are a product of two and of a stream that is a sum of two, these;
            of the kind half, too.
    """

    value: ir.Value
    kind: str
    axes: Axes
    steps: bool
    width: int
    size: tuple[int, int]
    layer: Layer | None = None
    source: str = ""
    averaged: bool = False
    norm: str | None = None
    levels: int = 1
    divisor: int = 1
    window: Window | None = None
    product: Product | None = None
    factors: tuple[ir.Value, ...] = ()

    @property
    def words(self) -> str:
        """What it is, for messages."""
        if self.kind == "levels":
            over = f" divided by {self.divisor}" if self.divisor > 1 else ""
            return f"levels 0..{self.levels}{over}"
        usual = {
            "real": "a stream",
            "not": "1 - spikes",
            "half": "half a sum",
            "scores": "q k^T",
            "pairs": "k^T v",
            "sums": "sums of k v",
            "map": "bits of q k^T",
            "channel map": "bits of k^T v",
            "mixed": "q k^T v",
            "conv": "a convolution",
            "linear": "logits" if self.averaged or self.source else "a linear layer",
        }
        return usual.get(self.kind, self.kind)

    def be(self, **changed: object) -> Known:
        """Return it with changes; what is another thing has no factors but given ones."""
        if {"value", "kind"} & set(changed):
            changed = {"factors": (), **changed}
        return dataclasses.replace(self, **changed)  # type: ignore[arg-type]
