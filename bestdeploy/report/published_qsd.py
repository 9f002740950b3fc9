"""What [qsd] claims about size and energy, and what the words mean: printed numbers recomputed.

The number of 4-bit weights follows from the widths of the published models (every convolution and
the head; Meta-SpikeFormer, `importers/sdt_v2.py`). The "Param (M)" that the paper prints is

    weights x 4 / 32 / 10^6        4-bit weights expressed as so many float32 numbers

so the printed "8.1 times smaller" compares parameters of Spike-driven Transformer v2 in float32
with these, and is no ratio of megabytes of two files. Energies are those that both papers print.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bestdeploy.report.totals import MIB

__all__ = ["published_qsd", "qsd_weights"]

BITS, FLOAT_BITS = 4, 32
SEP_RATIO, CONV_RATIO, MLP_RATIO, CLASSES = 2, 4, 4, 1000
V2_PARAMETERS_M, V2_ENERGY_MJ = 55.4, 52.4  # Spike-driven Transformer v2, as [qsd] quotes it
QSD_ENERGY_MJ = 8.7
PRINTED_SIZE_RATIO, PRINTED_ENERGY_RATIO = "8.1", "6.0"


@dataclass(frozen=True)
class PublishedQSD:
    """A published model; `printed_m` is the "Param (M)" of the paper."""

    name: str
    widths: tuple[int, int, int, int]
    depth: int
    printed_m: str


MODELS = (
    PublishedQSD("8_15M", (64, 128, 256, 360), 8, "1.8"),
    PublishedQSD("8_384", (96, 192, 384, 480), 8, "3.9"),
    PublishedQSD("8_512", (128, 256, 512, 640), 8, "6.8"),
)


def _conv_block(width: int) -> int:
    wide = SEP_RATIO * width
    separable = width * wide + 49 * wide + wide * width
    return separable + 2 * 9 * width * CONV_RATIO * width


def _block(width: int) -> int:
    rep = 2 * width * width + 9 * width
    return 4 * rep + 2 * MLP_RATIO * width * width


def qsd_weights(model: PublishedQSD) -> int:
    """Return the number of quantised weights, the head's included."""
    c0, c1, c2, c3 = model.widths
    half = c0 // 2
    down = 49 * 3 * half + 9 * (half * c0 + c0 * c1 + c1 * c2 + c2 * c3)
    stages = _conv_block(half) + _conv_block(c0) + 2 * _conv_block(c1)
    late = 3 * model.depth // 4
    blocks = late * _block(c2) + (model.depth - late) * _block(c3)
    return down + stages + blocks + c3 * CLASSES


def _row(model: PublishedQSD) -> dict[str, Any]:
    weights = qsd_weights(model)
    as_floats = weights * BITS / FLOAT_BITS / 1e6
    return {
        "model": model.name,
        "weights": weights,
        "float_equivalents_m": as_floats,
        "printed_m": model.printed_m,
        # the paper cuts digits: 1.877 is printed as 1.8
        "agrees": f"{int(as_floats * 10) / 10:.1f}" == model.printed_m
        or f"{as_floats:.1f}" == model.printed_m,
        "packed_mib": weights * BITS / 8 / float(MIB),
        "float32_mib": weights * FLOAT_BITS / 8 / float(MIB),
    }


def published_qsd() -> dict[str, Any]:
    """Return sizes of the published models and the two claimed ratios as plain data."""
    rows = [_row(model) for model in MODELS]
    largest = rows[-1]
    return {
        "models": rows,
        "size_ratio": V2_PARAMETERS_M / float(largest["printed_m"]),
        "printed_size_ratio": PRINTED_SIZE_RATIO,
        "file_ratio": largest["float32_mib"] / largest["packed_mib"],
        "energy_ratio": V2_ENERGY_MJ / QSD_ENERGY_MJ,
        "printed_energy_ratio": PRINTED_ENERGY_RATIO,
    }
