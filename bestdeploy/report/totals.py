"""Sums over the layers of a network, in the units of the literature.

    MACs       dense work; the first layer once per still image, once per step for events
    SOPs       synaptic operations, see `activity`
    S-ACE      sum of MACs T b_w b_s over the layers whose input is strictly {0, 1}
    NS-ACE     sum of SOPs b_w b_s over the same layers
    energy     e_mac x MACs of every other layer + e_ac x SOPs, 45 nm
    paper size (1-bit weights)/8 + 2 bytes x (conv0 + batch-norm gamma, beta + classifiers), in MiB;
               lambda and running statistics are not counted

The literature counts the first layer T times even for still images; `Work` has both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from bestdeploy.errors import UsageError
from bestdeploy.report.activity import Counted
from bestdeploy.report.layers import Layer

__all__ = ["Energy", "Parameters", "Work", "paper_bytes", "parameters_of", "rate_sops", "work_of"]

MIB = 1 << 20


@dataclass(frozen=True)
class Energy:
    """Picojoule per operation; the defaults are the usual ones for 45 nm."""

    mac_pj: float = 4.6
    ac_pj: float = 0.9

    @classmethod
    def parse(cls, text: str) -> Energy:
        """Read `mac=4.6,ac=0.9`; what is left out keeps its default.

        Raises:
            UsageError: another key, or no number >= 0.
        """
        values: dict[str, float] = {}
        for part in filter(None, (p.strip() for p in text.split(","))):
            key, _, number = part.partition("=")
            try:
                value = float(number)
            except ValueError:
                value = -1.0
            if key.strip() not in ("mac", "ac") or not 0 <= value < 1e12:
                raise UsageError(
                    f"--energy {text} is not of the form mac=PICOJOULE,ac=PICOJOULE",
                    hint="--energy mac=4.6,ac=0.9",
                )
            values[f"{key.strip()}_pj"] = value
        return cls(**values)

    def microjoules(self, macs: float, additions: float) -> float:
        """Return the energy of one frame in microjoule."""
        return (self.mac_pj * macs + self.ac_pj * additions) * 1e-6


@dataclass(frozen=True)
class Parameters:
    """Trained numbers by kind.

    Attributes:
        binary: weights of 1 bit.
        conv0: weights of the first, real convolution.
        norm: gamma and beta of every batch norm.
        heads: weights and biases of the classifiers.
        scales: lambda of the attention.
        other: anything else that is trained.
    """

    binary: int = 0
    conv0: int = 0
    norm: int = 0
    heads: int = 0
    scales: int = 0
    other: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.binary + self.conv0 + self.norm + self.heads + self.scales + self.other


def parameters_of(layers: Iterable[Layer], n_scales: int = 0) -> Parameters:
    """Add up the parameters that a table of layers stands for."""
    rows = list(layers)
    real = [x for x in rows if x.weight_bits != 1]
    return Parameters(
        binary=sum(x.n_weights for x in rows if x.weight_bits == 1),
        conv0=sum(x.n_weights for x in real if x.kind == "real conv"),
        norm=sum(x.n_norm for x in rows),
        heads=sum(x.n_weights + x.n_bias for x in real if x.kind == "linear"),
        scales=n_scales,
        other=sum(x.n_weights + x.n_bias for x in real if x.kind not in ("real conv", "linear")),
    )


def paper_bytes(parameters: Parameters) -> Fraction:
    """Return the size by the formula that the published sizes follow, in bytes."""
    p = parameters
    return Fraction(p.binary, 8) + 2 * (p.conv0 + p.norm + p.heads)


def rate_sops(layer: Layer, counted: Counted) -> Fraction:
    """Return firing rate x dense MACs of a layer for one frame, as the literature does."""
    rate = counted.rate_in
    return Fraction(0) if rate is None else rate * layer.total_macs


@dataclass(frozen=True)
class Work:
    """What one frame costs.

    `counted` and `rate` in a name tell the two kinds of SOPs apart; `literature` is with the first
    layer counted T times. SOPs and what follows from them are None where nothing was recorded.
    """

    n_steps: int
    macs_per_step: int
    spike_macs: int
    real_macs: int
    real_macs_literature: int
    s_ace: int
    n_frames: int = 0
    sops_counted: Fraction | None = None
    sops_rate: Fraction | None = None
    pairs: Fraction | None = None
    macs_avoided: Fraction | None = None
    ns_ace_counted: Fraction | None = None
    ns_ace_rate: Fraction | None = None
    energy_uj_counted: float | None = None
    energy_uj_literature: float | None = None


def work_of(
    layers: Sequence[Layer],
    n_steps: int,
    energy: Energy,
    counted: Sequence[Counted] | None = None,
    n_frames: int = 0,
) -> Work:
    """Add up the layers.

    Args:
        layers: the table.
        n_steps: T.
        energy: price of the operations.
        counted: the activity of each layer over `n_frames` frames, where it was recorded.
        n_frames: frames that were recorded.
    """
    spiking = [x for x in layers if x.spike_fed]
    real = [x for x in layers if not x.spike_fed]
    dense = Work(
        n_steps=n_steps,
        macs_per_step=sum(x.macs for x in spiking),
        spike_macs=sum(x.total_macs for x in spiking),
        real_macs=sum(x.total_macs for x in real),
        real_macs_literature=sum(
            x.macs * (n_steps if x.kind == "real conv" else x.n_steps) for x in real
        ),
        s_ace=sum(x.total_macs * x.bits for x in spiking),
    )
    if counted is None or not n_frames:
        return dense
    rows = [(x, c) for x, c in zip(layers, counted, strict=True) if x.spike_fed]
    exact = Fraction(sum(c.sops for _, c in rows), n_frames)
    by_rate = sum((rate_sops(x, c) for x, c in rows), Fraction(0))
    return replace(
        dense,
        n_frames=n_frames,
        sops_counted=exact,
        sops_rate=by_rate,
        pairs=Fraction(sum(c.pairs or 0 for _, c in rows), n_frames),
        macs_avoided=dense.spike_macs - exact,
        ns_ace_counted=Fraction(sum(c.sops * x.bits for x, c in rows), n_frames),
        ns_ace_rate=sum((rate_sops(x, c) * x.bits for x, c in rows), Fraction(0)),
        energy_uj_counted=energy.microjoules(dense.real_macs, float(exact)),
        energy_uj_literature=energy.microjoules(dense.real_macs_literature, float(by_rate)),
    )
