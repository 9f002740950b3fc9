"""The ONNX files of an export: one that carries function bodies, one with them inlined.

`model.onnx` keeps our ops and a model-local function for each, so ONNX Runtime runs it with or
without our custom-op library. `model.std.onnx` has only standard ops, for runtimes that do not
expand functions. Both are deterministic: the same model gives the same bytes.
"""

from __future__ import annotations

from bestdeploy import ir, stages

FOLD_LIMIT_BYTES = 4096
"""Constants up to this size are folded: the weights of a layer that is worth a file are larger."""


def function_model(model: ir.Model) -> bytes:
    """Serialise a graph of any stage with the function bodies of its ops."""
    stages.infer_types(model)
    stages.attach_functions(model)
    return ir.to_bytes(model)


def standard_model(model: ir.Model) -> bytes:
    """Serialise a graph with every function inlined and no import of our domain.

    What the bodies compute from constants alone (attributes, small tables, shapes) is folded, and
    equal subexpressions are merged; binary weights stay packed.
    """
    import onnx.inliner

    stages.infer_types(model)
    stages.attach_functions(model)
    inlined = onnx.inliner.inline_local_functions(ir.to_proto(model))
    kept = [o for o in inlined.opset_import if o.domain != ir.DOMAIN]
    del inlined.opset_import[:]
    inlined.opset_import.extend(kept)
    return ir.folded(inlined, FOLD_LIMIT_BYTES).SerializeToString(deterministic=True)
