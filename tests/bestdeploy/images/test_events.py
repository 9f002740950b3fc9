"""From events to frames: the binning by its definition, saturation, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bestdeploy.errors import InputError
from bestdeploy.images.builtin import builtin_images
from bestdeploy.images.events import Events, bin_by_number, saturate

SHAPE = (4, 5, 7, 2)


@st.composite
def recordings(draw, timed=None):
    """A recording of up to 60 events on a frame of its own, T in 1..9."""
    n_steps, height, width = draw(st.tuples(*[st.integers(1, 9)] * 3))
    n = draw(st.integers(1, 60))
    column = [draw(st.lists(st.integers(0, top), min_size=n, max_size=n))
              for top in (width - 1, height - 1, 1)]  # fmt: skip
    times = draw(st.lists(st.integers(0, 30), min_size=n, max_size=n))
    has_times = draw(st.booleans()) if timed is None else timed
    arrays = [np.array(c, np.int64) for c in column]
    t = np.array(times, np.int64) if has_times else None
    return Events(*arrays, t), (n_steps, height, width, 2)


def by_definition(events: Events, shape) -> np.ndarray:
    """One event at a time, with Python's own stable sort."""
    order = list(range(len(events.x)))
    if events.t is not None:
        order.sort(key=lambda k: events.t[k])
    size = len(order) // shape[0]
    counts = np.zeros(shape, np.int64)
    for step in range(shape[0]):
        last = step == shape[0] - 1
        for k in order[step * size : None if last else (step + 1) * size]:
            counts[step, events.y[k], events.x[k], events.p[k]] += 1
    return counts


@given(recordings())
@settings(deadline=None)
def test_binning_is_the_definition(case):
    events, shape = case
    counts = bin_by_number(events, shape, "r")
    assert counts.shape == shape and counts.dtype == np.int64
    np.testing.assert_array_equal(counts, by_definition(events, shape))


@given(recordings())
@settings(deadline=None)
def test_every_event_is_counted_once_and_slices_are_equal(case):
    events, shape = case
    counts = bin_by_number(events, shape, "r")
    per_step = counts.sum(axis=(1, 2, 3))
    size = len(events.x) // shape[0]
    assert (per_step[:-1] == size).all()
    assert per_step[-1] == len(events.x) - (shape[0] - 1) * size
    for polarity in (0, 1):
        assert counts[..., polarity].sum() == (events.p == polarity).sum()


@given(recordings(timed=True), st.randoms())
@settings(deadline=None)
def test_the_order_in_the_file_does_not_matter_where_times_differ(case, random):
    events, shape = case
    t = np.arange(len(events.x))
    order = list(t)
    random.shuffle(order)
    sorted_ = bin_by_number(Events(events.x, events.y, events.p, t), shape, "r")
    shuffled = Events(events.x[order], events.y[order], events.p[order], t[order])
    np.testing.assert_array_equal(bin_by_number(shuffled, shape, "r"), sorted_)


@given(recordings(), st.integers(0, 59), st.sampled_from(["x", "y"]), st.sampled_from([-1, 1]))
@settings(deadline=None)
def test_one_event_outside_is_named(case, index, axis, side):
    events, shape = case
    index %= len(events.x)
    columns = {"x": events.x.copy(), "y": events.y.copy()}
    limit = shape[2] if axis == "x" else shape[1]
    columns[axis][index] = -1 if side < 0 else limit
    with pytest.raises(InputError) as caught:
        bin_by_number(Events(columns["x"], columns["y"], events.p, events.t), shape, "rec.npz")
    text = str(caught.value)
    assert text.startswith(f"events outside the frame: event {index} of `rec.npz` is at ")
    assert f"x {columns['x'][index]}, y {columns['y'][index]}," in text
    assert text.endswith(f"{shape[2]}x{shape[1]}")
    assert caught.value.hint


def test_small_types_do_not_overflow():
    """Coordinates of 8 bits on a frame of more than 256 places, polarity as bool."""
    x = np.array([200, 255, 255], np.uint8)
    events = Events(x, x, np.array([True, False, True]))
    counts = bin_by_number(events, (1, 256, 256, 2), "r")
    assert counts.sum() == 3 and counts[0, 200, 200, 1] == 1
    assert counts[0, 255, 255].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("n_events", "shape", "says"), [(0, SHAPE, "no events"), (3, (4, 5, 7, 3), "3 channels")]
)
def test_what_cannot_be_binned(n_events, shape, says):
    zeros = np.zeros(n_events, np.int64)
    with pytest.raises(InputError, match=says):
        bin_by_number(Events(zeros, zeros, zeros), shape, "r")


@given(st.lists(st.integers(0, 1000), min_size=8, max_size=8))
def test_saturation_counts_what_it_changes(values):
    counts = np.array(values, np.int64).reshape(1, 2, 2, 2)
    frame, n_saturated = saturate(counts, "r")
    assert frame.dtype == np.uint8
    assert n_saturated == (frame != counts).sum() == sum(v > 255 for v in values)
    np.testing.assert_array_equal(frame, [[[[min(v, 255) for v in values[4 * i + 2 * j :][:2]]
                                            for j in range(2)] for i in range(2)]])  # fmt: skip


def test_strict_names_the_first_count_above():
    counts = np.zeros(SHAPE, np.int64)
    counts[2, 3, 1, 0] = 256
    counts[3] = 300
    with pytest.raises(InputError) as caught:
        saturate(counts, "r", strict=True)
    assert str(caught.value) == (
        "`r` counts 256 events at step 3, x 1, y 3, channel 0; a frame holds at most 255"
    )
    assert "--strict-events" in str(caught.value.hint)
    assert saturate(np.full(SHAPE, 255), "r", strict=True)[1] == 0


@pytest.mark.parametrize("shape", [(4, 34, 34, 2), (1, 8, 8, 2), (10, 16, 12, 2)])
def test_builtin_event_frames_are_fixed_and_move(shape):
    frames = builtin_images(shape)
    assert frames.shape == (16, *shape) and frames.dtype == np.uint8
    np.testing.assert_array_equal(frames, builtin_images(shape))
    np.testing.assert_array_equal(frames[:5], builtin_images(shape, 5))
    assert (frames[0] == 0).all() and (frames[1] == 255).all()
    assert len({frame.tobytes() for frame in frames}) >= 14
    if shape[0] > 1:
        moving = [k for k in range(16) if (frames[k, 0] != frames[k, -1]).any()]
        assert set(range(2, 8)) <= set(moving)
