"""Which counts of attention a neuron reads, and how large they can be; both product orders.

q k^T:  the binariser reads Scores (0..d),    the mixing neuron Values (0..N)
k^T v:  the binariser reads KeyValues (0..N), the mixing neuron QueryValues (0..d)
both:   without a binariser, the mixing neuron reads QueryKeyValues (0..N d L^3, levels up to L)
"""

from __future__ import annotations

from bestdeploy import ir
from bestdeploy.passes.definition import producer


def binarised(value: ir.Value | None) -> tuple[ir.Node, int] | None:
    """Return the first attention product behind a value and its largest count, else None."""
    scores, products = producer(value, "Scores"), producer(value, "KeyValues")
    if scores is not None:
        return scores, ir.size(scores.inputs[0], -1) // ir.attribute(scores, "heads")
    if products is not None:
        spikes = products.inputs[0]
        return products, ir.size(spikes, 2) * ir.size(spikes, 3)
    return None


def mixed(value: ir.Value | None) -> tuple[ir.Node, int] | None:
    """Return the second attention product behind a value and its largest count, else None."""
    values, queries = producer(value, "Values"), producer(value, "QueryValues")
    if values is not None:
        return values, ir.size(values.inputs[0], -1)
    if queries is not None:
        return queries, ir.size(queries.inputs[1], -1)
    return None


def whole(value: ir.Value | None) -> tuple[ir.Node, int] | None:
    """Return the product q k^T v without a binariser behind a value and its largest count."""
    node = producer(value, "QueryKeyValues")
    if node is None:
        return None
    tokens = ir.size(node.inputs[0], 2) * ir.size(node.inputs[0], 3)
    pairs = tokens * ir.size(node.inputs[0], -1) // ir.attribute(node, "heads")
    most = 1
    for spikes in node.inputs:
        neuron = None if spikes is None else spikes.producer()
        most *= 1 if neuron is None else ir.attribute(neuron, "levels", 1)
    return node, pairs * most
