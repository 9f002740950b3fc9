"""What `bench` makes of its samples: the interval of a ratio, and whether an answer is kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["TOLERANCE", "Answer", "compare", "ratio_interval"]

N_RESAMPLES = 1000
COVERAGE = 0.95
TOLERANCE = 1e-4
"""Largest difference of logits that counts as float32 rounding, for logits of magnitude 1."""

Samples = npt.NDArray[np.float64]


def ratio_interval(peer: Samples, ours: Samples, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of median(peer) / median(ours) over paired rounds.

    Percentile bootstrap over rounds: a resample takes the same rounds of both, in circular blocks
    of n^(1/3) rounds, since neighbouring rounds see the same phase of the machine.

    Args:
        peer: microseconds [n].
        ours: microseconds [n] of the same rounds.
        seed: of the resampling.
    """
    n = len(ours)
    block = max(1, round(n ** (1 / 3)))
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, n, (N_RESAMPLES, -(-n // block), 1))
    rounds = ((starts + np.arange(block)) % n).reshape(N_RESAMPLES, -1)[:, :n]
    ratios = np.median(peer[rounds], axis=1) / np.median(ours[rounds], axis=1)
    low, high = np.quantile(ratios, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Answer:
    """An engine's logits beside those of the float reference.

    `mark` is "exact" (same top-1 everywhere, logits equal up to float32 rounding), "same top-1",
    or "changes the answer (k of n)". `n_moved` counts frames with a logit beyond the tolerance.
    """

    mark: str
    n_frames: int
    n_moved: int
    n_top1_different: int
    max_logit_difference: float


def compare(logits: Samples, reference: Samples) -> Answer:
    """Compare logits [N, K] with the reference's.

    Another class than the reference's is a changed answer, unless the reference itself has the two
    within the tolerance. The tolerance is TOLERANCE times the largest magnitude of the reference's
    logits, at least TOLERANCE.
    """
    tolerance = TOLERANCE * max(1.0, float(np.abs(reference).max()))
    differences = np.abs(logits - reference).max(axis=1)
    n_moved = int((~(differences <= tolerance)).sum())
    rows = np.arange(len(reference))
    lost = reference.max(axis=1) - reference[rows, logits.argmax(axis=1)]
    # not-a-number is an answer to nothing: it must not pass for a small difference
    n_different = int((~(lost <= tolerance) | ~np.isfinite(logits).all(axis=1)).sum())
    if n_different:
        mark = f"changes the answer ({n_different} of {len(rows)})"
    else:
        mark = "same top-1" if n_moved else "exact"
    return Answer(mark, len(rows), n_moved, n_different, float(differences.max()))
