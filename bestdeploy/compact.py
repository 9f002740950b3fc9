"""Compact forms of the tables of a packed graph, as the `.bstm` stores them.

A threshold table [T (T+1)/2, C] becomes two int32 per channel, a table of scale and lambda
[T, heads, M] a gain and an exponent per step and head: but only where the compact form gives the
very same spikes and integers, which is checked here for every entry.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from bestdeploy import ir
from bestdeploy.ops.threshold_neuron import n_rows, row
from bestdeploy.program import scale_half_even

__all__ = ["gain_form", "threshold_forms"]

THETA_BITS = 18
_NUDGES = tuple(sorted(range(-4, 5), key=abs))


def _formula(u: np.ndarray, w: np.ndarray, n_steps: int) -> np.ndarray:
    """Theta = ceil((u 2^t + w 2^s) / 2^18), int64 [T (T+1)/2, C]."""
    out = np.empty((n_rows(n_steps), len(u)), np.int64)
    for t in range(1, n_steps + 1):
        for s in range(t):
            out[row(t, s)] = -((-(u * 2**t + w * 2**s)) >> THETA_BITS)
    return out


def threshold_forms(
    theta: np.ndarray, low: np.ndarray, high: np.ndarray, n_steps: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find (u, w) per channel whose formula fires exactly as a table does.

    With Theta(t, s) = (2^t theta - b (2^t - 2^s)) / a before rounding up, u = (theta - b)/a and
    w = b/a in units of 2^-18 give the table. Any other pair that the table allows is as good, so
    the table alone decides; rounding to the grid of 2^-18 is nudged where it leaves the polygon.

    Args:
        theta: thresholds int32 [T (T+1)/2, C].
        low: least count per channel, int64 [C].
        high: greatest count per channel, int64 [C].
        n_steps: T.

    Returns:
        u int32 [C], w int32 [C], and the channels that need their explicit table, int64 [E].
    """
    reach = np.array([2**t - 2**s for t in range(1, n_steps + 1) for s in range(t)])[:, None]
    first, last = reach * low, reach * high
    wanted = np.clip(theta, first, last + 1)
    u, w = _estimate(theta.astype(np.float64), first, last, n_steps)
    open_channels = np.arange(theta.shape[1])
    best_u, best_w = np.zeros_like(u), np.zeros_like(w)
    limit = 2**31 - 1
    fits = (np.abs(u) <= limit - 8) & (np.abs(w) <= limit - 8)
    open_channels = open_channels[fits]
    for du in _NUDGES:
        for dw in _NUDGES:
            c = open_channels
            found = _formula(u[c] + du, w[c] + dw, n_steps)
            same = (np.clip(found, first[:, c], last[:, c] + 1) == wanted[:, c]).all(axis=0)
            best_u[c[same]], best_w[c[same]] = u[c[same]] + du, w[c[same]] + dw
            open_channels = c[~same]
    explicit = np.sort(np.concatenate([np.flatnonzero(~fits), open_channels]))
    return best_u.astype(np.int32), best_w.astype(np.int32), explicit


def _estimate(
    theta: np.ndarray, first: np.ndarray, last: np.ndarray, n_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return a point (u, w) per channel well inside what a table allows, in units of 2^-18.

    Each row of the table bounds z = u 2^t + w 2^s: Theta - 1 < z <= Theta, and on one side only
    where it was clamped. These half-planes and a box make a convex polygon; the mean of its corners
    is inside it. Channels without a polygon get some point, which the caller's check refuses.
    """
    steps = [(t, s) for t in range(1, n_steps + 1) for s in range(t)]
    basis = np.array([(2.0**t, 2.0**s) for t, s in steps])
    normals = np.concatenate([basis, -basis, np.eye(2), -np.eye(2)])  # normal . (u, w) <= bound
    upper = np.where(theta > last, np.inf, np.where(theta <= first, first, theta))
    lower = np.where(theta <= first, -np.inf, np.where(theta > last, last, theta - 1))
    box = np.full((4, theta.shape[1]), 2.0**13 - 1)
    bounds = np.concatenate([upper, -lower, box])  # [planes, C]
    i, j = np.triu_indices(len(normals), k=1)
    determinant = normals[i, 0] * normals[j, 1] - normals[i, 1] * normals[j, 0]
    crossing = determinant != 0
    i, j, determinant = i[crossing], j[crossing], determinant[crossing]
    points = np.zeros((2, theta.shape[1]))
    for c in range(theta.shape[1]):
        with np.errstate(invalid="ignore"):
            x = (bounds[i, c] * normals[j, 1] - bounds[j, c] * normals[i, 1]) / determinant
            y = (bounds[j, c] * normals[i, 0] - bounds[i, c] * normals[j, 0]) / determinant
            corners = np.stack([x, y])[:, np.isfinite(x) & np.isfinite(y)]
            inside = (normals @ corners <= bounds[:, c : c + 1] + 1e-6).all(axis=0)
        if inside.any():
            points[:, c] = corners[:, inside].mean(axis=1)
    u, w = np.rint(points * 2.0**THETA_BITS).astype(np.int64)
    return u, w


def gain_form(node: ir.Node, table: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Return gain int64 and exponent int32 [T, heads] that give the table exactly, or None.

    The exact gains stand in the node's metadata; the table is checked against them here.
    """
    text = node.metadata_props.get("gain")
    if text is None:
        return None
    try:
        values = [Fraction(float.fromhex(g)) for g in text.split(",")]
    except (ValueError, OverflowError):  # not written by us: the table says it all
        return None
    if len(values) != table.shape[0] * table.shape[1]:
        return None
    gain, exponent = np.zeros(len(values), np.int64), np.zeros(len(values), np.int32)
    for i, value in enumerate(values):
        mantissa, power = value.numerator, -(value.denominator.bit_length() - 1)
        while mantissa and mantissa % 2 == 0:
            mantissa, power = mantissa // 2, power + 1
        gain[i], exponent[i] = mantissa, (power + bits if mantissa else 0)
        row_values = table.reshape(len(values), -1)[i]
        if abs(mantissa) >= 2**52 or any(
            scale_half_even(mantissa, m, int(exponent[i])) != int(v)
            for m, v in enumerate(row_values)
        ):
            return None
    return gain.reshape(table.shape[:2]), exponent.reshape(table.shape[:2])
