"""One network, many forms, identical integers: the product's promise on random networks.

The fast tier takes a few networks; the slow one 1,000 inputs over 25 networks with odd widths,
T in {1, 2, 4}, negative and zero gamma, negative, zero and varying lambda, other tau.
"""

from __future__ import annotations

import functools
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from random_nets import Spec, images_of, save

from bestdeploy import _export, images, ir, onnxruntime, runtime, stages, toolchain
from bestdeploy._bundle import lowered_bytes
from bestdeploy.errors import MissingToolError

FAST = [
    Spec(seed=100, dim=48, heads=4, depth=2, n_steps=4, size=12, channels=3),
    Spec(seed=101, dim=130, heads=10, depth=1, n_steps=2, size=8, channels=1, classes=2),
    Spec(seed=102, dim=17, heads=1, depth=1, n_steps=1, size=16, channels=3, stem=(3, 5, 9)),
    Spec(seed=103, dim=66, heads=11, depth=3, n_steps=4, size=4, channels=2, classes=1),
    Spec(seed=104, dim=21, heads=7, depth=1, n_steps=3, size=8, tau=1.5, stem=(2, 7, 13)),
    Spec(seed=105, dim=24, heads=2, depth=1, n_steps=10, size=8, decay_input=False),
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


@functools.cache
def no_arm() -> str | None:
    """Return why nothing can be run for arm64 here, None where it can."""
    if toolchain.find_emulator("arm") is None:
        return "no arm64 emulator (apt install qemu-user-static)"
    try:
        toolchain.compiler_for("arm")
    except MissingToolError as error:
        return str(error)
    return None


def on_arm(model: Path, frames: np.ndarray, folder: Path) -> np.ndarray:
    """Raw logits of the arm64 build under emulation."""
    emulator = toolchain.find_emulator("arm")
    assert emulator is not None
    program = toolchain.build_program("bst_run", "arm")
    (folder / "frames.raw").write_bytes(frames.tobytes())
    done = subprocess.run(
        [*emulator, program, model, folder / "frames.raw", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return np.array([json.loads(line)["raw"] for line in done.stdout.splitlines()], np.int64)


def check(spec: Spec, n_images: int, folder: Path) -> int:
    """Export a network and compare every form on images of its own and structured ones.

    Raw logits of the arm64 build are compared where it can be run: see `no_arm`.
    """
    checkpoint = save(folder / "net.pt", spec)
    _export.export(checkpoint, folder / "model.onnx")
    (folder / "model.bstm").write_bytes(lowered_bytes(folder / "model.onnx"))
    shape = (spec.size, spec.size, spec.channels)
    structured = images.builtin_images(shape, 8)
    frames = np.concatenate([images_of(spec, n_images - len(structured)), structured])
    graph = ir.load(folder / "model.onnx")
    expected = stages.run(graph, frames)["raw"]
    found = {
        "onnx.reference without OpRun": stages.run(graph, frames, bodies=True)["raw"],
        "onnxruntime, bodies": onnxruntime.load(folder / "model.onnx").infer(frames)[0],
        "onnxruntime, std": onnxruntime.load(folder / "model.std.onnx").infer(frames)[0],
        "C scalar": runtime.load(folder / "model.bstm").run_raw(frames),
    }
    if no_arm() is None:
        found["C scalar, arm64"] = on_arm(folder / "model.bstm", frames, folder)
    assert expected.shape == (n_images, spec.classes)
    for form, raw in found.items():
        np.testing.assert_array_equal(raw, expected, err_msg=f"{form}, {spec}")
    return len(frames)


def skip_without_arm() -> None:
    """Say that one form is missing, after all others were compared."""
    if no_arm() is not None:
        pytest.skip(f"all forms but arm64 are equal; {no_arm()}")


@pytest.mark.parametrize("spec", FAST, ids=lambda s: f"D{s.dim}T{s.n_steps}")
def test_every_form_gives_identical_integers(spec, tmp_path):
    check(spec, 12, tmp_path)
    skip_without_arm()


@pytest.mark.slow
def test_a_thousand_inputs(tmp_path):
    total = 0
    for i, spec in enumerate(many()):
        folder = tmp_path / str(i)
        folder.mkdir()
        total += check(spec, 40, folder)
    n_forms = 6 if no_arm() is None else 5
    print(f"0 differing raw logits on {total} inputs of {len(many())} networks, {n_forms} forms")
    assert total == 1000
    skip_without_arm()


def test_golden_vectors_of_the_published_layout(golden_checkpoint, golden_vectors, tmp_path):
    settings = {"attention": "qk", "tau": 2.0, "decay_input": True, "variant": "official"}
    _export.export(golden_checkpoint, tmp_path / "model.onnx", settings=settings)
    (tmp_path / "model.bstm").write_bytes(lowered_bytes(tmp_path / "model.onnx"))
    frames, raw = golden_vectors["images"], golden_vectors["raw"]
    graph = ir.load(tmp_path / "model.onnx")
    names = [str(v.name) for v in stages.neuron_values(graph)]
    out = stages.Executor(graph, watch=names).run(frames)
    read = stages.spike_reader(graph)
    # Stem neurons are named by their layer in the vectors, q, k and v without `_lif`.
    for name in names:
        key = f"spikes/{name}"
        key = key if key in golden_vectors else key.removesuffix("_lif")
        spikes = read(name, out[name])
        counts = spikes.sum(axis=tuple(range(1, spikes.ndim)), dtype=np.int64)
        np.testing.assert_array_equal(counts, golden_vectors[key], err_msg=name)
    np.testing.assert_array_equal(out["raw"], raw)
    np.testing.assert_array_equal(out["logits"], golden_vectors["logits"])
    loaded = runtime.load(tmp_path / "model.bstm")
    np.testing.assert_array_equal(loaded.run_raw(frames), raw)
    np.testing.assert_array_equal(loaded.run(frames), golden_vectors["logits"])
    found, logits = onnxruntime.load(tmp_path / "model.onnx").infer(frames)
    np.testing.assert_array_equal(found, raw)
    np.testing.assert_array_equal(logits, golden_vectors["logits"])
