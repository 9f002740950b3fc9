"""One network of every family in every engine of `bestdeploy run`: identical integers."""

from __future__ import annotations

import importlib.util

import family_nets
import numpy as np
import pytest
import weighted_nets
from one_op import imported_net, with_broken_bodies

from bestdeploy import deploy, ir, onnxruntime, passes, stages
from bestdeploy._run import ENGINES, open_engine
from bestdeploy.emit import onnx as emit_onnx
from bestdeploy.emit.bstm import write_bstm
from bestdeploy.errors import MissingToolError
from bestdeploy.importers import traced
from bestdeploy.lower import lower
from bestdeploy.program import Golden

WEIGHTED = {
    "spikformer": (weighted_nets.Weighted("spikformer", seed=31, size=16, depth=2), 4),
    "spikformer_T10": (
        weighted_nets.Weighted("spikformer", seed=32, n_steps=10, dim=72, heads=6), 1,
    ),
    "spikingformer": (weighted_nets.Weighted(seed=33, dim=40, heads=5), 8),
}  # fmt: skip
FAMILIES = ("sdt_v1", "sdt_v1_events", "a2os2a", "a2os2a_learned", "a2os2a_real")
TRACED = ("vgg_real", "iand", "and", "add", "add_stride", "add_real")
SLOW = ("spikformer_T10", "sdt_v1_events", "a2os2a_real", "and", "add_real")
NETS = [
    pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
    for name in (*WEIGHTED, *FAMILIES, *TRACED)
]


def traced_net(name: str) -> tuple[ir.Model, np.ndarray]:
    """Return the packed graph of a user module, and frames."""
    torch = pytest.importorskip("torch")
    from user_nets import network

    settings = {"weight_bits": 4} if name.endswith("real") else {}
    model = traced.trace(network(name), torch.randn(2, 3, 8, 8), settings)
    passes.run(model)
    return model, np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)


def net(name: str, folder) -> tuple[ir.Model, np.ndarray]:
    """Return the packed graph of a network, and frames."""
    if name in TRACED:
        return traced_net(name)
    path = folder / "net.pt"
    if name in WEIGHTED:
        spec, bits = WEIGHTED[name]
        model = imported_net(weighted_nets.save(path, spec), {"weight_bits": bits})
        return model, weighted_nets.frames_of(spec, 3)
    frames = family_nets.save(path, name, n_images=3)
    return imported_net(path), frames


@pytest.mark.parametrize("name", NETS)
def test_every_engine_gives_identical_integers(name, tmp_path):
    """Bodies of model.onnx are wrong: with engine ort kernels ran, and no body."""
    model, frames = net(name, tmp_path)
    expected = stages.run(model, frames)["raw"]
    assert len(np.unique(expected, axis=0)) > 1
    (tmp_path / "model.std.onnx").write_bytes(emit_onnx.standard_model(model))
    (tmp_path / "model.onnx").write_bytes(with_broken_bodies(model))
    for engine in ENGINES:
        if engine == "tvm" and importlib.util.find_spec("tvm") is None:
            continue
        try:
            found = open_engine(tmp_path / "model.onnx", engine)
        except MissingToolError as error:
            pytest.skip(str(error))
        np.testing.assert_array_equal(found.model.infer(frames)[0], expected, err_msg=engine)
    bodies = onnxruntime.load(tmp_path / "model.onnx")
    assert (bodies.infer(frames)[0] != expected).any()


@pytest.mark.parametrize(
    ("name", "kernels"), (("spikformer", "extern"), ("sdt_v1", "tir"), ("a2os2a", "extern"))
)
def test_modules_run_on_arm64(name, kernels, tmp_path):
    """Golden vectors of the numpy reference, by bst_run and the module that TVM made."""
    pytest.importorskip("tvm")
    model, frames = net(name, tmp_path)
    raw = stages.run(model, frames)["raw"]
    golden = [Golden(f, r) for f, r in zip(frames, raw, strict=True)]
    write_bstm(lower(model, golden), tmp_path / "model.bstm")
    try:
        report = deploy.compile(
            tmp_path / "model.bstm", "arm", "tvm", tmp_path / "out", kernels=kernels
        )
    except MissingToolError as error:
        pytest.skip(str(error))
    if report.golden.startswith("not run"):
        pytest.skip(report.golden)
    assert (report.golden, report.n_golden) == ("passed", 3)
