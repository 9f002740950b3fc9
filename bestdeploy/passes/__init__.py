"""The pipeline from the trained model to packed integers: a visible tuple of passes.

To add a pass, write `passes/<pass>.py` with the equations in its head and list it here. Passes up
to the stage "folded" may be equal in the reals only; from there on every bit stays.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from bestdeploy import ir, stages
from bestdeploy.passes import (
    binarise,
    count_readout,
    dead_stores,
    encoder_table,
    fold_batchnorm,
    fuse,
    gates,
    integer_addition,
    integer_attention,
    integer_products,
    integer_readout,
    integer_stem,
    integer_stream,
    lambda_tables,
    level_thresholds,
    merge_heads,
    pack,
    prune,
    quantise,
    threshold_tables,
)
from bestdeploy.passes.definition import Pass
from bestdeploy.passes.fixed_point import log_pass

PIPELINE: tuple[Pass, ...] = (
    dead_stores.PASS,
    binarise.PASS,
    fold_batchnorm.PASS,
    quantise.PASS,
    merge_heads.PASS,
    count_readout.PASS,
    gates.PASS,
    integer_stem.PASS,
    threshold_tables.PASS,
    level_thresholds.PASS,
    integer_attention.PASS,
    lambda_tables.PASS,
    integer_products.PASS,
    integer_stream.PASS,
    integer_addition.PASS,
    encoder_table.PASS,
    integer_readout.PASS,
    prune.PASS,
    pack.PASS,
    fuse.PASS,
)


@dataclass(frozen=True)
class PassRecord:
    """What one pass did; bytes are those of all constants of the graph."""

    name: str
    kind: str
    nodes_before: int
    nodes_after: int
    bytes_before: int
    bytes_after: int
    changes: int
    seconds: float


def run(
    model: ir.Model,
    *,
    after: Callable[[int, Pass, ir.Model], None] | None = None,
    pipeline: tuple[Pass, ...] = PIPELINE,
) -> list[PassRecord]:
    """Run the pipeline in place.

    Args:
        model: a spiking graph.
        after: called with (number, pass, model) after each pass, e.g. to save the graph.
        pipeline: passes to run, in order.

    Raises:
        PassError, GraphError: a pass cannot transform the graph.
    """
    records = []
    for number, step in enumerate(pipeline, start=1):
        before, start = model.graph.num_nodes(), time.perf_counter()
        bytes_before = _constant_bytes(model)
        stage = model.metadata_props.get("stage")
        changes = step.apply(model)
        stages.infer_types(model)
        if model.metadata_props.get("stage") != stage:
            stages.verify(model)
        record = PassRecord(
            step.name,
            step.kind,
            before,
            model.graph.num_nodes(),
            bytes_before,
            _constant_bytes(model),
            changes,
            time.perf_counter() - start,
        )
        records.append(record)
        log_pass(model, {"name": step.name, "kind": step.kind, "changes": changes})
        if after is not None:
            after(number, step, model)
    return records


def _constant_bytes(model: ir.Model) -> int:
    """Return the bytes of every constant that some node uses."""
    found = {v for node in model.graph for v in node.inputs if v is not None and v.const_value}
    return sum(int(value.const_value.nbytes) for value in found if value.const_value is not None)
