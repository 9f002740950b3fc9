"""Every op of the table: reference = function body in onnx.reference = body in ONNX Runtime.

The ops are taken from the graphs that the pipeline makes, so their inputs are real ones; the last
test asserts that no op of the table is left out.
"""

from __future__ import annotations

import family_nets
import numpy as np
import onnxruntime
import pytest
import weighted_nets
from random_nets import Spec, images_of, save
from weighted_nets import Weighted

from bestdeploy import importers, ir, ops, passes, stages

SPECS = {
    "T4": Spec(seed=1, dim=40, heads=5, depth=2, n_steps=4, size=8),
    "T1": Spec(seed=2, dim=72, heads=3, n_steps=1, size=12, channels=1),
    "T2": Spec(seed=3, dim=130, heads=13, n_steps=2, size=8, classes=3),
    "tau": Spec(seed=4, dim=24, heads=2, n_steps=4, size=8, tau=1.5),
    "plain_input": Spec(seed=5, dim=16, heads=2, n_steps=3, size=8, decay_input=False),
    "kv": Spec(seed=6, dim=40, heads=5, n_steps=4, size=32, attention="kv", layout="imagenet"),
    "kv_tau": Spec(seed=7, dim=24, heads=3, n_steps=5, size=8, attention="kv", tau=1.5),
    "paper": Spec(seed=8, dim=32, heads=4, n_steps=2, size=8, variant="paper", decay_input=False),
    "events": Spec(
        seed=9, dim=24, heads=2, n_steps=10, size=16, channels=2, events=True, layout="imagenet"
    ),
}
WEIGHTED = {
    "spikingformer": (Weighted(seed=1, dim=16, heads=2, n_steps=2), 4),
    "spikformer": (Weighted("spikformer", seed=2, dim=16, heads=2, n_steps=2, size=12), 16),
}
FAMILIES = family_nets.FEW
STANDARD_SINCE = {"integer_readout", "pack", "fuse"}  # graphs without float64 convolutions


def imported(name, path):
    """The spiking graph of a network of any table, and two images."""
    if name in SPECS:
        save(path, SPECS[name])
        return importers.import_checkpoint(path), images_of(SPECS[name], 2)
    if name in FAMILIES:
        images = family_nets.save(path, name, n_images=2)
        return importers.import_checkpoint(path), images
    spec, bits = WEIGHTED[name]
    weighted_nets.save(path, spec)
    frames = weighted_nets.frames_of(spec, 2)
    return importers.import_checkpoint(path, overrides={"weight_bits": bits}), frames


@pytest.fixture(scope="module", params=[*SPECS, *WEIGHTED, *FAMILIES])
def graphs(request, tmp_path_factory):
    """All graphs of one network, from the spiking one to the packed one, and images."""
    model, images = imported(request.param, tmp_path_factory.mktemp("net") / "net.pt")
    found = {"spiking": ir.clone(model)}
    passes.run(model, after=lambda i, p, m: found.setdefault(p.name, ir.clone(m)))
    return found, images


def used_ops(models):
    names = set()
    for model in models:
        names |= {row[0].name for node in model.graph if (row := stages.op_of(node))}
    return names


@pytest.mark.parametrize("graph", ["spiking", *(p.name for p in passes.PIPELINE)])
def test_bodies_equal_references(graphs, graph):
    models, images = graphs
    model = models[graph]
    names = [v.name for v in stages.neuron_values(model)]
    ours = stages.Executor(model, watch=names).run(images)
    bodies = stages.Executor(model, watch=names, bodies=True).run(images)
    for name in names:
        np.testing.assert_array_equal(ours[name], bodies[name], err_msg=name)
    if "raw" in ours:
        np.testing.assert_array_equal(ours["raw"], bodies["raw"])
    np.testing.assert_allclose(ours["logits"], bodies["logits"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("graph", sorted(STANDARD_SINCE))
def test_onnxruntime_equals_reference(graphs, graph):
    models, images = graphs
    model = models[graph]
    stages.attach_functions(model)
    session = onnxruntime.InferenceSession(ir.to_bytes(model))
    logits, raw = session.run(["logits", "raw"], {"image": images})
    expected = stages.run(model, images)
    np.testing.assert_array_equal(raw, expected["raw"])
    np.testing.assert_array_equal(logits, expected["logits"])


def test_every_op_is_used_by_some_graph(tmp_path):
    seen = set()
    for name in (*SPECS, *WEIGHTED, *FAMILIES):
        model, _ = imported(name, tmp_path / "net.pt")
        seen |= used_ops([model])
        passes.run(model, after=lambda i, p, m, into=seen: into.update(used_ops([m])))
    assert seen == set(ops.OPS)


@pytest.mark.parametrize("name", sorted(ops.OPS))
def test_rows_are_complete(name):
    op = ops.OPS[name]
    function = ops.function_of(op, 4)
    assert [v.name for v in function.inputs] == list(op.inputs)
    assert [v.name for v in function.outputs] == list(op.outputs)
    assert set(function.attributes) == set(op.attributes)
    assert op.summary.endswith(".")
    assert all(node.domain == "" for node in function)
    assert {node.op_type for node in function}.isdisjoint({"Scan", "Loop", "If", "MatMulInteger"})
