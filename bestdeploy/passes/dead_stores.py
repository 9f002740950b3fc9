"""Dead stores: nodes whose results nothing reads are removed.

A network that reads its classification head alone never uses the last MLP: x3 feeds no head. Exact.
"""

from __future__ import annotations

from bestdeploy import ir
from bestdeploy.passes.definition import Pass


def apply(model: ir.Model) -> int:
    """Remove what does not reach an output."""
    before = model.graph.num_nodes()
    ir.drop_unused(model.graph)
    return int(before - model.graph.num_nodes())


PASS = Pass("dead_stores", "exact", apply)
