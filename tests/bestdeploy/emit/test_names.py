"""Names in the ONNX files: a viewer shows which layer a node is of; nothing is named twice."""

from __future__ import annotations

import re

import onnx
import pytest
from random_nets import Spec, save

from bestdeploy import importers, ir, passes
from bestdeploy.emit import floating
from bestdeploy.emit import onnx as emit_onnx

NETS = (
    Spec(seed=51, dim=16, heads=2, depth=2, n_steps=4, size=8, channels=3, classes=5),
    Spec(seed=52, dim=12, heads=3, depth=1, n_steps=10, size=16, channels=2, classes=3, tau=1.5,
         attention="kv", layout="imagenet", residual="plain", events=True),
    Spec(seed=53, dim=10, heads=1, depth=1, n_steps=1, size=8, channels=1, classes=2),
)  # fmt: skip
LAYER = re.compile(r"(image|patch_embed\.\w+|block\.\d+\.\w+(\.\w+)?|head2?|readout|logits)\b")


@pytest.fixture(params=NETS, ids=lambda spec: f"{spec.attention}-T{spec.n_steps}")
def files(request, tmp_path):
    """model.std.onnx and model.float.onnx of a network, each written twice."""
    spiking = importers.import_checkpoint(save(tmp_path / "net.pt", request.param))
    packed = ir.clone(spiking)
    passes.run(packed)
    return {
        "std": [emit_onnx.standard_model(ir.clone(packed)) for _ in range(2)],
        "float": [floating.float_model(spiking) for _ in range(2)],
    }


@pytest.mark.parametrize("kind", ["std", "float"])
def test_nodes_are_named_by_their_layers(files, kind):
    first, second = files[kind]
    assert first == second, "bytes must be deterministic"
    graph = onnx.load_from_string(first).graph
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    n_layered = sum(bool(LAYER.match(name)) for name in names)
    assert n_layered >= 0.95 * len(names), [n for n in names if not LAYER.match(n)]
    assert any(re.fullmatch(r"patch_embed\.\w+/Mul_\d+", name) for name in names)


@pytest.mark.parametrize("kind", ["std", "float"])
def test_values_have_names_of_their_own(files, kind):
    model = onnx.load_from_string(files[kind][0])
    onnx.checker.check_model(model)
    graph = model.graph
    values = [value.name for value in (*graph.input, *graph.initializer)]
    values += [output for node in graph.node for output in node.output if output]
    assert len(set(values)) == len(values)
    inner = [name for name in values if re.search(r"inner_\d|^f_\d", name)]
    assert len(inner) <= 0.05 * len(values), inner
