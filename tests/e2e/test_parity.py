"""One network, many forms, identical integers: the product's promise on random networks.

The fast tier takes a few networks; the slow one 1,000 inputs over 25 networks with odd widths,
T in {1, 2, 4}, negative and zero gamma, negative, zero and varying lambda, other tau, and the
matrix of `forms.matrix`.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from e2e import forms
from random_nets import Spec, images_of, save

from bestdeploy import _export, images, ir, onnxruntime, runtime, stages
from bestdeploy._bundle import lowered_bytes

FAST = [
    Spec(seed=100, dim=48, heads=4, depth=2, n_steps=4, size=12, channels=3),
    Spec(seed=101, dim=130, heads=10, depth=1, n_steps=2, size=8, channels=1, classes=2),
    Spec(seed=102, dim=17, heads=1, depth=1, n_steps=1, size=16, channels=3, stem=(3, 5, 9)),
    Spec(seed=103, dim=66, heads=11, depth=3, n_steps=4, size=4, channels=2, classes=1),
    Spec(seed=104, dim=21, heads=7, depth=1, n_steps=3, size=8, tau=1.5, stem=(2, 7, 13)),
    Spec(seed=105, dim=24, heads=2, depth=1, n_steps=10, size=8, decay_input=False),
    Spec(seed=106, dim=16, heads=2, depth=1, n_steps=16, size=8, attention="kv"),
    *(forms.matrix()[i] for i in (7, 21, 28, 33)),
]


def many() -> list[Spec]:
    """25 networks for the slow tier."""
    rng = np.random.default_rng(2026)
    found = []
    for i in range(25):
        heads = int(rng.integers(1, 9))
        dim = heads * int(rng.integers(2, max(3, 130 // heads + 1)))
        found.append(
            Spec(
                seed=1000 + i,
                dim=min(dim, heads * (130 // heads)),
                heads=heads,
                depth=int(rng.integers(1, 4)),
                n_steps=(1, 2, 4)[i % 3],
                size=int(rng.choice([4, 8, 12, 16])),
                channels=int(rng.integers(1, 4)),
                classes=int(rng.integers(1, 12)),
                tau=1.5 if i % 8 == 7 else 2.0,
                decay_input=i % 6 != 5,
                lambda_scale=float(rng.uniform(1, 16)),
                stem=tuple(int(v) for v in rng.integers(1, 40, 3)),
            )
        )
    return found


def check(spec: Spec, n_images: int, folder: Path) -> int:
    """Export a network and compare every form on frames of its own and structured ones.

    Forms of emulated targets are compared where they can be run: see `forms.missing`.

    Returns:
        How many forms were compared with the reference.
    """
    checkpoint = save(folder / "net.pt", spec)
    _export.export(checkpoint, folder / "model.onnx")
    (folder / "model.bstm").write_bytes(lowered_bytes(folder / "model.onnx"))
    structured = images.builtin_images(spec.frame_shape, min(8, n_images))
    frames = np.concatenate([structured, images_of(spec, n_images - len(structured))])
    found = forms.raw_of_every_form(folder, frames)
    _, expected = next(found)
    assert expected.shape == (n_images, spec.classes)
    n_forms = 0
    for form, raw in found:
        np.testing.assert_array_equal(raw, expected, err_msg=f"{form}, {spec}")
        n_forms += 1
    return n_forms


def skip_without_emulators() -> None:
    """Say which forms are missing, after all others were compared."""
    skip_for(forms.missing())


def skip_for(*reasons: str | None) -> None:
    """Skip by the name of everything that is not None."""
    if found := "; ".join(filter(None, reasons)):
        pytest.skip(f"all other forms are equal; {found}")


def for_haswell() -> list[int]:
    """Return which networks of the matrix an emulated Haswell gets: loading 16 steps takes minutes.

    Every third of T <= 4, and for T 10 and 16 the smallest of both attentions.
    """
    specs = forms.matrix()
    chosen = [i for i, s in enumerate(specs) if s.n_steps <= 4][::3]
    for attention, n_steps in itertools.product(("qk", "kv"), (10, 16)):
        alike = [i for i, s in enumerate(specs) if (s.attention, s.n_steps) == (attention, n_steps)]
        chosen.append(min(alike, key=lambda i: specs[i].depth * specs[i].dim * specs[i].size ** 2))
    return chosen


def test_the_networks_for_haswell():
    specs = [forms.matrix()[i] for i in for_haswell()]
    assert len(specs) == 12
    for attention in ("qk", "kv"):
        steps = {s.n_steps for s in specs if s.attention == attention}
        assert steps == {1, 2, 4, 10, 16}


@pytest.mark.parametrize(
    "spec", FAST, ids=lambda s: f"{s.attention}-{s.variant}-D{s.dim}T{s.n_steps}"
)
def test_every_form_gives_identical_integers(spec, tmp_path):
    check(spec, 10, tmp_path)
    skip_without_emulators()


@pytest.mark.slow
def test_a_thousand_inputs(tmp_path):
    for i, spec in enumerate(many()):
        folder = tmp_path / str(i)
        folder.mkdir()
        n_forms = check(spec, 40, folder)
    total = 40 * len(many())
    print(f"0 differing raw logits on {total} inputs of {len(many())} networks, {n_forms} forms")
    assert total == 1000
    skip_without_emulators()


@pytest.mark.slow
def test_the_whole_matrix(tmp_path):
    """Both attentions, T 1 to 16, tau 2 and 1.5, both variants, in every form there is.

    The files then run on an emulated CPU without VNNI, where a saturating int8 kernel would show,
    and in the oldest onnxruntime.
    """
    folders = []
    for i, spec in enumerate(forms.matrix()):
        folder = tmp_path / str(i)
        folder.mkdir()
        n_forms = check(spec, 6, folder)
        forms.hold(folder, images_of(spec, 3, seed=5))
        folders.append(folder)
    print(f"\n0 differing raw logits: {len(folders)} networks, {n_forms} forms and the reference")
    emulated = for_haswell()
    steps = sorted({forms.matrix()[i].n_steps for i in emulated})
    print(f"on emulators: {len(emulated)} networks with T in {steps}")
    chosen = [folders[i] for i in emulated]
    for where, found in forms.elsewhere(folders, tmp_path / "venv", chosen):
        print(f"0 differing raw logits {where}: {found}")
    assert len(folders) == 40
    skip_for(forms.missing(), forms.missing_elsewhere())


HEAD_NEURONS = ("q_lif", "k_lif", "v_lif", "attn_lif0")


@pytest.mark.parametrize("attention", ["qk", "kv"])
def test_golden_vectors_of_the_published_layouts(
    golden_checkpoint, golden_vectors, golden_kv, tmp_path, attention
):
    checkpoint, settings, held = golden_kv
    if attention == "qk":
        checkpoint, held = golden_checkpoint, golden_vectors
    _export.export(
        checkpoint, tmp_path / "model.onnx", settings={**settings, "attention": attention}
    )
    (tmp_path / "model.bstm").write_bytes(lowered_bytes(tmp_path / "model.onnx"))
    frames, raw = held["images"], held["raw"]
    graph = ir.load(tmp_path / "model.onnx")
    names = [str(v.name) for v in stages.neuron_values(graph)]
    out = stages.Executor(graph, watch=names).run(frames)
    read = stages.spike_reader(graph)
    pruned = json.loads(graph.metadata_props.get("pruned", "{}"))
    # Stem neurons are named by their layer in the vectors, q, k and v without `_lif`.
    for name in names:
        key = f"spikes/{name}"
        key = key if key in held else key.removesuffix("_lif")
        spikes = read(name, out[name])
        counts = spikes.sum(axis=tuple(range(1, spikes.ndim)), dtype=np.int64)
        if name in pruned and name.endswith(HEAD_NEURONS):  # dead heads fired, and were not heard
            assert (counts <= held[key]).all(), name
        else:
            np.testing.assert_array_equal(counts, held[key], err_msg=name)
    np.testing.assert_array_equal(out["logits"], held["logits"])
    for form, found in forms.raw_of_every_form(tmp_path, frames):
        np.testing.assert_array_equal(found, raw, err_msg=form)
    loaded = runtime.load(tmp_path / "model.bstm")
    np.testing.assert_array_equal(loaded.run(frames), held["logits"])
    _, logits = onnxruntime.load(tmp_path / "model.onnx").infer(frames)
    np.testing.assert_array_equal(logits, held["logits"])
