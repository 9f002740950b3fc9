"""Adding up what two forms of a model give on the same frames, for `verify`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bestdeploy import images
from bestdeploy._forms import Form, Pruned, Spikes, margin_of
from bestdeploy.errors import InputError

__all__ = ["Comparison", "GoldenReport", "LayerReport", "VerifyReport"]


@dataclass(frozen=True)
class LayerReport:
    """One neuron layer.

    Attributes:
        name: published name of the neuron.
        n_neuron_steps: neurons times steps times frames.
        n_flips: spikes that differ.
        flips_per_million: of the neuron-steps.
        min_margin: smallest |H - threshold| of the float64 model at the flips of the frames in
            which this layer is the first to differ; None without flips or without a float form.
        max_margin: the largest one. Rounding explains small margins only.
        n_pruned: channels that one of the forms has not, since they cannot fire or nothing reads
            them; they are not compared.
    """

    name: str
    n_neuron_steps: int
    n_flips: int
    flips_per_million: float
    min_margin: float | None
    max_margin: float | None
    n_pruned: int = 0


@dataclass(frozen=True)
class GoldenReport:
    """Golden vectors: whose they are, how many, and how many each form reproduces exactly."""

    source: str
    n: int
    n_equal: dict[str, int]


@dataclass(frozen=True)
class VerifyReport:
    """What the comparison found; see `deploy.verify`.

    Attributes:
        forms: names of both; the second is the golden vectors where only one form was given.
        n_frames: frames compared.
        n_raw_different: raw logits that differ; None where a form has none.
        max_logit_difference: largest absolute difference of logits.
        top1_agreement: share of frames with the same most likely class.
        top1: accuracy by form, where the data has labels.
        layers: every layer whose spikes both forms show, in order.
        first_divergence: first differing layer, step (from 1), neuron [y, x, channel], frame and
            both spikes; where no spikes differ, the class and both raw logits.
        exact: no raw logit and no spike differs, in integer forms.
        golden: against the stored golden vectors, where asked for.
        events: how event recordings were binned, how many counts saturated; None for images.
    """

    forms: tuple[str, str]
    n_frames: int
    n_raw_different: int | None
    max_logit_difference: float
    top1_agreement: float
    top1: dict[str, float] | None
    layers: list[LayerReport]
    first_divergence: dict[str, Any] | None
    exact: bool
    golden: GoldenReport | None = None
    events: dict[str, Any] | None = None

    @property
    def failure(self) -> str | None:
        """What breaks the promise of identical integers, None where nothing does.

        Equality of bits is defined between integer forms; a checkpoint is judged by the budget.
        """
        for name, n_equal in ({} if self.golden is None else self.golden.n_equal).items():
            if self.golden is not None and n_equal != self.golden.n:
                n_wrong = self.golden.n - n_equal
                return f"{name} fails {n_wrong} of {self.golden.n} golden vectors"
        if self.n_raw_different is not None and not self.exact:
            return f"{' and '.join(self.forms)} differ, they must give identical integers"
        return None


@dataclass(frozen=True)
class _Common:
    """The channels of a layer that both forms have, where the export pruned some.

    Attributes:
        axis: of the channels in [T, B, H, W, C].
        numbers: of the common channels in the trained model.
        kept: the channels of each form, by the same numbers.
        n_missing: channels that one of the forms has not.
    """

    axis: int
    numbers: np.ndarray
    kept: tuple[np.ndarray, np.ndarray]
    n_missing: int

    def select(self, spikes: np.ndarray, side: int) -> np.ndarray:
        """Return the common channels of form 0 or 1; a layer of another model as it is."""
        there = self.kept[side]
        if spikes.shape[self.axis] != len(there):
            return spikes
        return spikes.take(np.searchsorted(there, self.numbers), axis=self.axis)


def _common(a: Pruned | None, b: Pruned | None) -> _Common | None:
    """Return what two forms of a layer share, None where nothing is pruned."""
    note = a or b
    if note is None:
        return None
    whole = np.arange(note.of)
    kept = (whole if a is None else a.kept, whole if b is None else b.kept)
    numbers = np.intersect1d(*kept)
    return _Common(note.axis, numbers, kept, note.of - len(numbers))


class Comparison:
    """Adds up batches."""

    def __init__(self, a: Form, b: Form) -> None:
        self.a, self.b = a, b
        self.n_frames = self.n_raw = self.n_agree = 0
        self.has_raw = True
        self.worst = 0.0
        self.right = {a.name: 0, b.name: 0}
        self.n_labels = 0
        self.steps: dict[str, int] = {}
        self.flips: dict[str, int] = {}
        self.n_pruned: dict[str, int] = {}
        self.margins: dict[str, tuple[float, float]] = {}
        self.first: dict[str, Any] | None = None
        self.first_raw: dict[str, Any] | None = None
        self.tally = images.Tally()

    def add(self, batch: images.Batch) -> None:
        """Run both forms on a batch and compare everything they show."""
        x, y = self.a.run(batch.frames), self.b.run(batch.frames)
        if x.logits.shape != y.logits.shape:
            raise InputError(
                f"the forms give {x.logits.shape[1]} and {y.logits.shape[1]} classes",
                where=f"{self.a.name} and {self.b.name}",
                hint="are both of the same model?",
            )
        self._spikes(x.spikes, y.spikes, batch.frames)
        if x.raw is None or y.raw is None:
            self.has_raw = False
        else:
            self._raws(x.raw, y.raw)
        difference = np.abs(x.logits.astype(np.float64) - y.logits.astype(np.float64))
        self.worst = max(self.worst, float(difference.max()))
        tops = x.logits.argmax(1), y.logits.argmax(1)
        self.n_agree += int((tops[0] == tops[1]).sum())
        if batch.labels is not None:
            self.n_labels += len(batch.labels)
            for form, top in zip((self.a, self.b), tops, strict=True):
                self.right[form.name] += int((top == batch.labels).sum())
        self.tally.add(batch.is_recording, batch.n_saturated)
        self.n_frames += len(batch.frames)

    def _raws(self, x: np.ndarray, y: np.ndarray) -> None:
        different = x != y
        self.n_raw += int(different.sum())
        if self.first_raw is None and different.any():
            frame, k = (int(i) for i in np.argwhere(different)[0])
            self.first_raw = {
                "raw logit": k,
                "frame": self.n_frames + frame,
                "values": [int(x[frame, k]), int(y[frame, k])],
            }

    def _spikes(self, x: Spikes, y: Spikes, frames: np.ndarray) -> None:
        """Count flips; a frame's first differing layer gives margins and the first divergence."""
        clean = np.ones(len(frames), bool)
        for name in (n for n in x if n in y):
            common = _common(self.a.pruned.get(name), self.b.pruned.get(name))
            ours, theirs = x[name], y[name]
            if common is not None:
                ours, theirs = common.select(ours, 0), common.select(theirs, 1)
            if ours.shape != theirs.shape:
                raise InputError(
                    f"the spikes of `{name}` [T, B, ...] are {x[name].shape} in {self.a.name} and "
                    f"{y[name].shape} in {self.b.name}",
                    where=name,
                    hint="are both of the same model?",
                )
            different = ours != theirs
            self.steps[name] = self.steps.get(name, 0) + different.size
            self.n_pruned[name] = 0 if common is None else common.n_missing
            n_flips = int(different.sum())
            self.flips[name] = self.flips.get(name, 0) + n_flips
            if not n_flips:
                continue
            per_frame = different.any(axis=tuple(i for i in range(different.ndim) if i != 1))
            fresh = np.flatnonzero(per_frame & clean)
            clean &= ~per_frame
            if len(fresh):
                self._margin(name, different[:, fresh], frames[fresh], common)
                self._note_first(name, ours, theirs, different, int(fresh[0]), common)

    def _margin(
        self, name: str, different: np.ndarray, frames: np.ndarray, common: _Common | None
    ) -> None:
        for side, form in enumerate((self.a, self.b)):
            margin = margin_of(form, name, frames)
            if margin is not None:
                margin = margin if common is None else common.select(margin, side)
                found = np.abs(margin.reshape(different.shape)[different])
                least, most = self.margins.get(name, (np.inf, 0.0))
                self.margins[name] = min(least, float(found.min())), max(most, float(found.max()))
                return

    def _note_first(
        self,
        name: str,
        x: np.ndarray,
        y: np.ndarray,
        different: np.ndarray,
        frame: int,
        common: _Common | None,
    ) -> None:
        order = list(self.steps)
        if self.first is not None and order.index(self.first["layer"]) <= order.index(name):
            return
        step, *index = (int(i) for i in np.argwhere(different[:, frame])[0])
        spikes = [int(z[(step, frame, *index)]) for z in (x, y)]
        if common is not None:
            index[common.axis] = int(common.numbers[index[common.axis]])
        self.first = {
            "layer": name,
            "step": step + 1,
            "neuron": index,
            "frame": self.n_frames + frame,
            "spikes": spikes,
        }

    def report(self, golden: GoldenReport | None) -> VerifyReport:
        """Return everything found so far."""
        n = max(1, self.n_frames)
        top1 = {k: v / self.n_labels for k, v in self.right.items()} if self.n_labels else None
        return VerifyReport(
            forms=(self.a.name, self.b.name),
            n_frames=self.n_frames,
            n_raw_different=self.n_raw if self.has_raw else None,
            max_logit_difference=self.worst,
            top1_agreement=self.n_agree / n,
            top1=top1,
            layers=[self._layer(name) for name in self.steps],
            first_divergence=self.first or self.first_raw,
            exact=self.has_raw and self.n_raw == 0 and not any(self.flips.values()),
            golden=golden,
            events=self.tally.facts(self.a.shape),
        )

    def _layer(self, name: str) -> LayerReport:
        steps, flips = self.steps[name], self.flips[name]
        least, most = self.margins.get(name, (None, None))
        per_million = 1e6 * flips / max(1, steps)
        return LayerReport(name, steps, flips, per_million, least, most, self.n_pruned[name])
