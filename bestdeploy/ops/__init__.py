"""The op table: every op of the domain `bestdeploy`, in the order of a network.

To add an op, write `ops/<op>.py` and list it here; the ONNX function, the reference evaluator and
the tests follow from the row.
"""

from bestdeploy.ops import (
    attention_counts,
    attention_neurons,
    batch_norm,
    binary_conv,
    channel_affine,
    count_affine,
    count_neuron,
    count_table,
    encoder,
    from_fixed,
    head_scale,
    level_conv,
    levels,
    lif,
    membrane_neuron,
    or_pool,
    packing,
    products,
    read_out,
    real_conv,
    residual,
    shift_counts,
    sign_conv,
    spike_conv,
    spike_or_pool,
    spike_read_out,
    stem_conv,
    stem_neuron,
    stream_affine,
    stream_neuron,
    threshold_neuron,
    weight_conv,
)
from bestdeploy.ops.definition import MAX_STEPS, Op, function_of, parse_op_type

SPIKING_OPS = (
    real_conv.OP,
    binary_conv.OP,
    weight_conv.OP,
    batch_norm.OP,
    lif.OP,
    lif.CONSTANT_OP,
    or_pool.OP,
    attention_counts.SCORES,
    attention_counts.VALUES,
    attention_counts.KEY_VALUES,
    attention_counts.QUERY_VALUES,
    products.OP,
    head_scale.OP,
    residual.MIX,
    levels.ADD,
)
BETWEEN_OPS = (
    sign_conv.OP,
    channel_affine.OP,
    count_affine.OP,
    from_fixed.OP,
    membrane_neuron.CONSTANT_OP,
)
FOLDED_OPS = (
    sign_conv.OP,
    weight_conv.INTEGER,
    or_pool.OP,
    attention_counts.SCORES,
    attention_counts.VALUES,
    attention_counts.KEY_VALUES,
    attention_counts.QUERY_VALUES,
    products.OP,
    stem_conv.OP,
    encoder.OP,
    threshold_neuron.OP,
    stream_affine.OP,
    residual.ADD,
    levels.ADD,
    membrane_neuron.OP,
    count_neuron.OP,
    shift_counts.OP,
    count_table.OP,
    read_out.OP,
    read_out.MEAN,
    levels.READ,
)
BIT_OPS = (
    packing.PACK,
    packing.UNPACK,
    packing.SIGNS,
    levels.PACK,
    levels.UNPACK,
    levels.WEIGHTS,
)
PACKED_OPS = (
    stem_neuron.OP,
    stem_neuron.FRAMES,
    spike_or_pool.OP,
    spike_conv.NEURON,
    spike_conv.AFFINE,
    level_conv.NEURON,
    level_conv.AFFINE,
    stream_neuron.STREAM,
    stream_neuron.RESIDUAL,
    attention_neurons.SCORES,
    attention_neurons.STREAM_SCORES,
    attention_neurons.VALUES,
    attention_neurons.KEY_VALUES,
    attention_neurons.STREAM_KEY_VALUES,
    attention_neurons.QUERY_VALUES,
    products.PACKED,
    levels.PACKED_ADD,
    spike_read_out.OP,
    read_out.RESIDUAL,
    levels.PACKED_READ,
)

OPS: dict[str, Op] = {
    op.name: op for op in (*SPIKING_OPS, *BETWEEN_OPS, *FOLDED_OPS, *BIT_OPS, *PACKED_OPS)
}

__all__ = [
    "BETWEEN_OPS",
    "BIT_OPS",
    "FOLDED_OPS",
    "MAX_STEPS",
    "OPS",
    "PACKED_OPS",
    "SPIKING_OPS",
    "Op",
    "function_of",
    "parse_op_type",
]
