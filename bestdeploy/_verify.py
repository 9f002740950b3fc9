"""`verify`: two forms of one model on the same frames, spike by spike.

Frames stream through both forms in batches, so memory does not grow with their number. Spikes are
compared wherever both forms show them: `_forms` says what a form is, `_comparison` what is counted.
With golden vectors each form is held against the raw logits that the export stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bestdeploy import images
from bestdeploy._comparison import Comparison, GoldenReport, LayerReport, VerifyReport
from bestdeploy._forms import (
    CHECKPOINTS,
    Form,
    Golden,
    Outcome,
    Pruned,
    is_checkpoint,
    open_form,
)
from bestdeploy.errors import BudgetError, InputError, UsageError

__all__ = ["BUDGETS", "GoldenReport", "LayerReport", "VerifyReport", "verify"]

N_BUILTIN = 16

Data = str | Path | Sequence[str | Path] | None
Progress = Callable[[int, int | None], None]
Stored = tuple[Form, np.ndarray, np.ndarray]  # a form, its golden frames, their raw logits

# ----------------------------------------------------------------------------- budget

BUDGETS = ("flips_per_million", "logit_difference", "top1_agreement", "raw_different")
_UNMEASURED = {
    "flips_per_million": "no layer shows its spikes in both forms",
    "raw_different": "raw logits exist in integer forms only",
}


def _check_limits(budget: Mapping[str, float]) -> None:
    """Refuse unknown names and limits that nothing or everything would keep."""
    for name, limit in budget.items():
        if name not in BUDGETS:
            raise UsageError(f"--budget {name}: unknown", hint=f"known: {', '.join(BUDGETS)}")
        highest = 1.0 if name == "top1_agreement" else math.inf
        if not (math.isfinite(limit) and 0 <= limit <= highest):
            expected = "in 0..1" if highest == 1 else "finite and not negative"
            raise UsageError(
                f"--budget {name}={limit}: expected a limit {expected}",
                hint=f"--budget {name}={0.99 if highest == 1 else 0}",
            )


def _check_budget(report: VerifyReport, budget: Mapping[str, float]) -> None:
    """Compare what was measured with the limits; what was not measured keeps none."""
    steps = sum(r.n_neuron_steps for r in report.layers)
    flips = sum(r.n_flips for r in report.layers)
    found: dict[str, float | None] = {
        "flips_per_million": 1e6 * flips / steps if steps else None,
        "logit_difference": report.max_logit_difference,
        "top1_agreement": report.top1_agreement,
        "raw_different": report.n_raw_different,
    }
    broken = []
    for name, limit in budget.items():
        value, below = found[name], name == "top1_agreement"
        if value is None:
            measured = [n for n in BUDGETS if found[n] is not None]
            raise UsageError(
                f"--budget {name}: {_UNMEASURED[name]} ({' and '.join(report.forms)})",
                hint=f"measured here: {', '.join(measured)}",
            )
        if not (value >= limit if below else value <= limit):
            word = "at least" if below else "at most"
            broken.append(f"{name} is {value:.6g}, the budget is {word} {limit:.6g}")
    if broken:
        raise BudgetError("; ".join(broken), report=report, hint="the report is printed above")


# ----------------------------------------------------------------------------- golden vectors


class _StoredForm:
    """The golden vectors themselves: a form that knows the raw logits of their frames only."""

    golden: Golden | None = None

    def __init__(self, of: Form, frames: np.ndarray, raw: np.ndarray) -> None:
        self.name = f"golden vectors of {of.name}"
        self.shape, self.preprocessing, self.batch_size = of.shape, of.preprocessing, of.batch_size
        self.logit_shift = of.logit_shift
        self.pruned: dict[str, Pruned] = {}
        self._raw = {frame.tobytes(): row for frame, row in zip(frames, raw, strict=True)}

    def run(self, frames: np.ndarray) -> Outcome:
        """Look up frames that are golden ones."""
        raw = np.stack([self._raw[frame.tobytes()] for frame in frames])
        logits = np.ldexp(raw.astype(np.float64), -(self.logit_shift or 0))
        return Outcome(raw, logits.astype(np.float32), {})


def _golden_of(forms: Sequence[Form]) -> Stored:
    """Return the first form that carries golden vectors, with their frames and raw logits."""
    for form in forms:
        if form.golden is not None:
            return form, *form.golden
    raise InputError(
        f"{' and '.join(form.name for form in forms)}: no golden vectors in there",
        hint="a model.onnx of `bestdeploy export` and what is compiled from it hold some",
    )


def _check_golden(
    forms: Sequence[Form], source: Form, frames: np.ndarray, raw: np.ndarray
) -> GoldenReport:
    """Run every integer form on the golden frames and count those it reproduces exactly."""
    n_equal = {}
    for form in forms:
        equal = 0
        for start in range(0, len(frames), form.batch_size):
            part = slice(start, start + form.batch_size)
            found = form.run(frames[part]).raw
            if found is None:
                break
            equal += int((found == raw[part]).all(axis=1).sum())
        else:
            n_equal[form.name] = equal
    return GoldenReport(source.name, len(frames), n_equal)


# ----------------------------------------------------------------------------- all of it


def verify(
    a: str | Path,
    against: str | Path | None = None,
    *,
    data: Data = None,
    model: str | None = None,
    budget: Mapping[str, float] | None = None,
    limit: int | None = None,
    golden: bool = False,
    strict_events: bool = False,
    config: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> VerifyReport:
    """Compare two forms, or one with its golden vectors; see `bestdeploy.deploy.verify`.

    Raises:
        BudgetError: a limit of `budget` is exceeded; it holds the report.
        UsageError: a limit is no limit, or on what these two forms do not show; nothing to compare;
            an option that neither form has a use for.
        InputError: the forms are of different models, or no form holds golden vectors.
    """
    _check_limits(budget or {})
    sources = _sources(a, against, data, golden, model)
    if (config or settings) and not any(map(is_checkpoint, sources)):
        raise UsageError(
            "--set and --config: settings are for checkpoints, which none of "
            f"{', '.join(f'`{s}`' for s in sources)} is",
            hint="leave them away, or export the checkpoint again with them",
        )
    forms = [open_form(source, model, config, settings or {}) for source in sources]
    if forms[0].shape != forms[-1].shape:
        raise InputError(
            f"`{a}` takes frames {list(forms[0].shape)}, `{against}` takes {list(forms[-1].shape)}",
            hint="are both of the same model?",
        )
    stored = _golden_of(forms) if golden else None
    golden_report = None if stored is None else _check_golden(forms, *stored)
    if stored is not None and against is None:
        forms.append(_StoredForm(*stored))
    batches, total = _batches(forms, data, stored, limit, strict_events)
    comparison = Comparison(*forms)
    for batch in batches:
        comparison.add(batch)
        if progress is not None:
            progress(comparison.n_frames, total)
    report = comparison.report(golden_report)
    _check_budget(report, budget or {})
    return report


def _sources(
    a: str | Path, against: str | Path | None, data: Data, golden: bool, model: str | None
) -> list[str | Path]:
    """Return what is opened, refusing combinations that compare nothing."""
    if against is None and not golden:
        raise UsageError(
            f"`{a}` alone: nothing to compare with",
            hint="--against OTHER, or --golden for the vectors stored in it",
        )
    if against is None and data is not None:
        raise UsageError(
            "--data is for a comparison of two forms, golden vectors have frames of their own",
            hint="add --against OTHER, or leave --data away",
        )
    sources = [a] if against is None else [a, against]
    if model is not None and not any(map(is_checkpoint, sources)):
        raise UsageError(
            f"--model {model} evaluates a checkpoint, which none of "
            f"{', '.join(f'`{s}`' for s in sources)} is",
            hint=f"give a checkpoint ({', '.join(CHECKPOINTS)}), or leave --model away",
        )
    return sources


def _batches(
    forms: Sequence[Form], data: Data, stored: Stored | None, limit: int | None, strict: bool
) -> tuple[Iterator[images.Batch], int | None]:
    """Return the frames to compare on, and how many they are where that is known."""
    images.check_strict(strict, forms[0].shape)
    first, size = forms[0], min(form.batch_size for form in forms)
    if data is not None:
        total = images.count_frames(data, first.shape)
        batches = images.read_batches(
            data,
            first.shape,
            first.preprocessing,
            batch_size=size,
            limit=limit,
            strict_events=strict,
        )
        return batches, total if limit is None or total is None else min(limit, total)
    if stored is not None:
        frames, name = stored[1], "golden"
    else:
        frames, name = images.builtin_images(first.shape, N_BUILTIN), "built-in"
    frames = frames[:limit]
    return images.batches_of(frames, name, batch_size=size), len(frames)
