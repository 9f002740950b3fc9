"""The ONNX files of an export: one that carries function bodies, one with them inlined.

`model.onnx` keeps our ops and a model-local function for each, so ONNX Runtime runs it with or
without our custom-op library. `model.std.onnx` has only standard ops, for runtimes that do not
expand functions. Both are deterministic: the same model gives the same bytes.
"""

from __future__ import annotations

from bestdeploy import ir, stages


def function_model(model: ir.Model) -> bytes:
    """Serialise a graph of any stage with the function bodies of its ops."""
    stages.infer_types(model)
    stages.attach_functions(model)
    return ir.to_bytes(model)


def standard_model(model: ir.Model) -> bytes:
    """Serialise a graph with every function inlined and no import of our domain."""
    import onnx.inliner

    stages.infer_types(model)
    stages.attach_functions(model)
    inlined = onnx.inliner.inline_local_functions(ir.to_proto(model))
    kept = [o for o in inlined.opset_import if o.domain != ir.DOMAIN]
    del inlined.opset_import[:]
    inlined.opset_import.extend(kept)
    return inlined.SerializeToString(deterministic=True)
