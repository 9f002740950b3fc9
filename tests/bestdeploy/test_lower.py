"""Lowering: compact tables fire alike, the arena never overlaps, golden vectors travel."""

from __future__ import annotations

import base64
import json
import zlib
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bestdeploy import compact, importers, ir, lower, passes
from bestdeploy.emit.bstm import read_bstm, write_bstm
from bestdeploy.errors import ArtifactError, GraphError
from bestdeploy.passes import threshold_tables
from bestdeploy.program import Buffer, BufferKind, Op, Step, scale_half_even


@given(
    st.integers(1, 8), st.floats(0.5, 1.0), st.integers(0, 2**32 - 1),
    st.sampled_from([1e-4, 0.01, 0.1, 1.0, 30.0]),
)  # fmt: skip
def test_compact_thresholds_fire_alike(steps, theta, seed, gain_scale):
    rng = np.random.default_rng(seed)
    a = np.abs(rng.normal(0, gain_scale, 12))
    a[0] = 0
    b = rng.normal(0, 1.5, 12)
    low, high = -rng.integers(1, 2000, 12), rng.integers(0, 2000, 12)
    table = threshold_tables.table(a, b, low, high, Fraction(theta), steps)
    u, w, explicit = compact.threshold_forms(table, low, high, steps)
    formula = compact._formula(u.astype(np.int64), w.astype(np.int64), steps)
    for t in range(1, steps + 1):
        for s in range(t):
            reach, k = 2**t - 2**s, t * (t - 1) // 2 + s
            first, last = reach * low, reach * high + 1
            same = np.clip(formula[k], first, last) == np.clip(table[k], first, last)
            assert np.delete(same, explicit).all()
    assert (np.abs(formula) < 2**31).all()
    assert len(explicit) <= 1, "typical channels have a compact form"


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 40)), min_size=1, max_size=14),
       st.integers(0, 2**32 - 1))  # fmt: skip
def test_arena_never_overlaps(shapes, seed):
    rng = np.random.default_rng(seed)
    buffers = [Buffer(BufferKind.STREAM, 1, 1, h, c) for h, c in shapes]
    steps = [
        Step(Op.STREAM_NEURON, f"s{i}", tuple({int(rng.integers(0, i)) for _ in range(2)}), (i,))
        for i in range(1, len(buffers))
    ]
    placed, total = lower.plan_arena(buffers, steps)
    born = {0: -1} | {s.outputs[0]: at for at, s in enumerate(steps)}
    dies = {i: max([born[i], 0] + [at for at, s in enumerate(steps) if i in s.inputs])
            for i in range(len(buffers))}  # fmt: skip
    for i, one in enumerate(placed):
        assert one.offset % 64 == 0
        assert one.offset + one.n_bytes <= total
        for j in range(i):
            two = placed[j]
            if born[i] <= dies[j] and born[j] <= dies[i]:
                assert (
                    one.offset >= two.offset + two.n_bytes or two.offset >= one.offset + one.n_bytes
                )


def packed(path):
    model = importers.import_checkpoint(path)
    passes.run(model)
    return model


def test_gains_are_exact(small_checkpoint):
    program = lower.lower(packed(small_checkpoint))
    model = packed(small_checkpoint)
    tables = [ir.array_of(n.inputs[2]) for n in model.graph if n.op_type.startswith("SpikeValues")]
    steps = [s for s in program.steps if s.op == Op.VALUE_NEURON]
    assert len(steps) == len(tables) == 2
    for step, table in zip(steps, tables, strict=True):
        gain, exponent = (program.constants[i].data for i in step.constants)
        for index in np.ndindex(*table.shape):
            t, h, m = index
            assert scale_half_even(int(gain[t, h]), m, int(exponent[t, h])) == table[index]


def test_a_changed_table_is_kept_explicit(small_checkpoint):
    model = packed(small_checkpoint)
    node = next(n for n in model.graph if n.op_type.startswith("SpikeValues"))
    table = ir.array_of(node.inputs[2]).copy()
    table[0, 0, 1] += 1
    other = ir.add_initializer(model.graph, "changed", table)
    node.replace_input_with(2, other)
    step = next(s for s in lower.lower(model).steps if s.op == Op.VALUE_NEURON)
    assert step.constants[:2] == (None, None)
    assert step.params[1] == 1


def test_files_are_deterministic_and_read_back(small_checkpoint):
    program = lower.lower(packed(small_checkpoint))
    content = write_bstm(program)
    assert content == write_bstm(lower.lower(packed(small_checkpoint)))
    again = read_bstm(content)
    assert write_bstm(again) == content


def test_only_packed_graphs_are_lowered(small_checkpoint):
    with pytest.raises(GraphError, match="packed graph"):
        lower.lower(importers.import_checkpoint(small_checkpoint))


def stored_golden(frames: np.ndarray, raw: object, shape: object = None) -> str:
    text = base64.b64encode(zlib.compress(frames.tobytes())).decode()
    return json.dumps({"frames": text, "shape": shape or list(frames.shape), "raw": raw})


@pytest.mark.parametrize(
    "text",
    [
        '{"frames": "!!"}',
        "[1]",
        "not JSON",
        stored_golden(np.zeros((2, 8, 8, 3), np.uint8), [[0] * 5]),  # a frame without logits
        stored_golden(np.zeros((1, 8, 8, 3), np.uint8), [[0] * 4]),  # another number of classes
        stored_golden(np.zeros((1, 8, 8, 2), np.uint8), [[0] * 5]),  # another frame
        stored_golden(np.zeros((1, 8, 8, 3), np.uint8), [[0] * 5], [2, 8, 8, 3]),
        stored_golden(np.zeros((1, 8, 8, 3), np.uint8), [[2**70] * 5]),
    ],
)
def test_damaged_golden_vectors_are_refused(small_checkpoint, text):
    model = packed(small_checkpoint)
    model.metadata_props["golden"] = text
    with pytest.raises(ArtifactError, match="golden") as e:
        lower.lower(model)
    assert e.value.exit_code == 7


@pytest.mark.parametrize("key", ["frac_bits", "logit_shift", "class_names"])
@pytest.mark.parametrize("value", [None, "", "x", "-1", "1.5", "99999", "1" * 5000])
def test_damaged_metadata_is_refused(small_checkpoint, key, value):
    model = packed(small_checkpoint)
    model.metadata_props.pop(key, None)
    if value is not None:
        model.metadata_props[key] = value
    if key == "class_names" and value not in ("", "x", "1" * 5000):
        lower.lower(model)  # JSON, or nothing
        return
    with pytest.raises(ArtifactError, match="metadata") as e:
        lower.lower(model)
    assert e.value.exit_code == 7


@pytest.mark.parametrize("gain", ["", "x", "nan", "inf,inf"])
def test_a_damaged_gain_leaves_the_table(small_checkpoint, gain):
    model = packed(small_checkpoint)
    node = next(n for n in model.graph if n.op_type.startswith("SpikeValues"))
    node.metadata_props["gain"] = gain
    step = next(s for s in lower.lower(model).steps if s.op == Op.VALUE_NEURON)
    assert step.params[1] == 1


def test_x2_takes_the_place_of_y_where_nothing_else_reads_it():
    streams = [Buffer(BufferKind.STREAM, 1, 1, 4, 32) for _ in range(7)]

    def residual(y, x0, x1, x2):
        return Step(Op.RESIDUAL_NEURON, f"r{x2}", (y, x0, x1), (x2, 6))

    steps = [Step(Op.CONV_AFFINE, f"c{i}", (0,), (i,)) for i in (1, 2, 3)]
    free = [*steps, residual(3, 1, 2, 4), Step(Op.STREAM_NEURON, "n", (4,), (5,))]
    placed, _ = lower.plan_arena(streams, free)
    assert placed[4].offset == placed[3].offset
    later = [*steps, residual(3, 1, 2, 4), Step(Op.STREAM_NEURON, "n", (3,), (5,))]
    placed, _ = lower.plan_arena(streams, later)
    assert placed[4].offset != placed[3].offset
    twice = [*steps, residual(3, 3, 2, 4), Step(Op.STREAM_NEURON, "n", (4,), (5,))]
    placed, _ = lower.plan_arena(streams, twice)
    assert placed[4].offset != placed[3].offset
