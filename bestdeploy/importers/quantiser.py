"""Scales that turn real weights into integers of b bits, one per output channel.

    1 bit          alpha = mean |w|,                              q = +1 where w >= 0, else -1
    2 to 4 bits    alpha = max |w| k / (25 M), k in 5..25: the least sum of (w - alpha q)^2
    8, 16 bits     alpha = max |w| / M
    with M = 2^(b-1) - 1 and q = rint(w / alpha) cut to -M .. M

The first candidate wins a tie. A channel of zeros has alpha = 1. Everything is float64.
`training/layers.py` has the same rule, so a network that was trained with b-bit weights is deployed
with the integers that it was trained with.
"""

from __future__ import annotations

import numpy as np

BITS = (1, 2, 3, 4, 8, 16)
"""Of a deployed weight."""
SEARCH = range(25, 4, -1)
N_CANDIDATES = 25
MAX_SEARCH_BITS = 4


def _rows(w: np.ndarray) -> np.ndarray:
    return w.reshape(w.shape[0], -1).astype(np.float64)


def _levels(rows: np.ndarray, alpha: np.ndarray, top: int) -> np.ndarray:
    return np.asarray(np.clip(np.rint(rows / alpha[:, None]), -top, top))


def scales(w: np.ndarray, bits: int) -> np.ndarray:
    """Return alpha float64 [O] of real weights [O, ...]."""
    rows = np.abs(_rows(w))
    if bits == 1:
        alpha = rows.mean(axis=1)
        return np.where(alpha == 0, 1.0, alpha)
    top = 2 ** (bits - 1) - 1
    largest = rows.max(axis=1)
    largest = np.where(largest == 0, 1.0, largest)
    if bits > MAX_SEARCH_BITS:
        return np.asarray(largest / top)
    best, least = largest / top, np.full(len(rows), np.inf)
    for k in SEARCH:
        alpha = largest * k / (N_CANDIDATES * top)
        error = ((rows - alpha[:, None] * _levels(rows, alpha, top)) ** 2).sum(axis=1)
        better = error < least
        best, least = np.where(better, alpha, best), np.where(better, error, least)
    return best


def quantised(w: np.ndarray, scale: np.ndarray, bits: int) -> np.ndarray:
    """Return alpha q float64 [O, ...], the weights of a network that was trained with b bits."""
    rows, top = _rows(w), 2 ** (bits - 1) - 1
    q = np.where(rows >= 0, 1.0, -1.0) if bits == 1 else _levels(rows, scale, top)
    return (q * scale[:, None]).reshape(w.shape)
