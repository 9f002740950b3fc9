"""Event frames through the Python view of the runtime: shapes, golden vectors, exact logits."""

from __future__ import annotations

import numpy as np
import programs
import pytest
import reference

from bestdeploy import runtime
from bestdeploy.emit.bstm import write_bstm
from bestdeploy.errors import InputError


def load(**arguments):
    program = programs.with_golden(programs.network(**arguments), 2)
    return program, runtime.load(write_bstm(program))


@pytest.mark.parametrize("n_t", (4, 10))
def test_event_models_take_one_frame_per_step(n_t):
    program, model = load(events=True, n_t=n_t, residual="plain")
    assert model.input_shape == (n_t, 8, 8, 3)
    frames = np.stack([programs.random_frame(program, seed) for seed in range(3)])
    expected = [reference.run(program, frame)[0] for frame in frames]
    np.testing.assert_array_equal(model.run_raw(frames), expected)
    swapped = frames[:, ::-1]
    assert (model.run_raw(swapped) != expected).any(), "the order of the frames plays no part"
    with pytest.raises(InputError, match=rf"\[B, {n_t}, 8, 8, 3\]"):
        model.run_raw(frames[:, 0])
    with pytest.raises(InputError):
        model.run_raw(frames[:, 1:])


def test_golden_vectors_are_shaped_like_the_input():
    program, model = load(events=True)
    assert model.verify_golden() == 2
    for (frame, raw), golden in zip(model.golden(), program.golden, strict=True):
        np.testing.assert_array_equal(frame, golden.frame)
        np.testing.assert_array_equal(raw, golden.raw)


def test_probed_run_takes_one_group_of_frames():
    program, model = load(events=True)
    frame = programs.random_frame(program)
    raw, taps = model.run_probed(frame)
    expected, values = reference.run(program, frame)
    np.testing.assert_array_equal(raw, expected)
    np.testing.assert_array_equal(taps["stem"][0].values(), values[1])


def test_one_step_may_be_given_with_or_without_its_axis():
    program, model = load(events=True, n_t=1)
    assert model.input_shape == (8, 8, 3)
    frames = programs.random_frame(program)[None]
    np.testing.assert_array_equal(model.run_raw(frames), model.run_raw(frames[:, None]))
    _, still = load()
    with pytest.raises(InputError):
        still.run_raw(frames[:, None])


def test_a_still_image_is_the_same_frame_at_every_step():
    """The same weights on T equal event frames give what the still image gives."""
    still, model = load()
    events, event_model = load(events=True)
    frame = programs.random_frame(still)
    repeated = np.broadcast_to(frame, (events.n_steps, *frame.shape))
    np.testing.assert_array_equal(
        model.run_raw(frame[None]), event_model.run_raw(repeated[None].copy())
    )
