"""Profiles: exact counts of spikes and synaptic operations, clocks, the roofline."""

from __future__ import annotations

import ctypes

import numpy as np
import programs
import pytest
from conftest import STATUS, usable_isas
from test_model_file import NETWORKS, Loaded

from bestdeploy import runtime
from bestdeploy.emit.bstm import write_bstm
from bestdeploy.program import Op
from bestdeploy.report import activity, of_program

CLOCK = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p)


def strided(k, stride, pad):
    """A network whose second and third layers are windows of every kind."""
    b = programs.Builder(21, 25, 3, 4, 3)
    x = b.stem(20)
    x = b.conv_neuron("conv0", x, 24, k=k, stride=stride, pad=pad)
    x = b.pool(x)
    y = b.conv_affine("conv1", x, 70, k=k, stride=stride, pad=pad)
    x2, s = b.residual("residual", y, y, y, programs.neuron_params())
    h = b.conv_neuron("fc", s, 65)
    b.readout(x2, x2, h)
    return b


def events(bits, channels):
    """Bits set per channel of levels of so many channels; spikes as they are."""
    if channels is None or bits.shape[-1] == channels:
        return bits
    planes = bits.reshape(*bits.shape[:-1], -1, 64 * -(-channels // 64))
    return planes[..., :channels].sum(axis=-2, dtype=np.uint8)


def check_counts(program, threads=1):
    """Spikes and SOPs of every step equal those of the report, counted from the outputs."""
    model = runtime.load(write_bstm(program), threads=threads)
    frames = np.stack([programs.random_frame(program, seed) for seed in range(3)])
    recorder = activity.Recorder(of_program.layers_of_program(program))
    levels = {s.name: program.buffers[s.inputs[0]].c for s in program.steps
              if s.op == Op.STREAM_LEVELS}  # fmt: skip
    for frame in frames:
        _, taps = model.run_probed(frame)
        spikes = {}
        for name, outputs in taps.items():
            for tap in outputs:
                if tap.info.kind == "spikes":
                    spikes[name] = events(tap.values(), levels.get(name))[:, None]
        recorder.add(spikes, 1)
    with model.recorded() as recording:
        model.run_raw(frames)
    assert recording.n_frames == len(frames)
    entries = {s.name: e for s, e in zip(program.steps, recording.entries, strict=True)}
    n_sops, halves = 0, {}
    for layer in recorder.layers:
        counted, entry = (
            recorder.counted(layer),
            entries.pop(layer.name.removesuffix(".hidden"), None),
        )
        if entry is None and layer.kind == "k^T v":  # the first half of a step that gives q (k^T v)
            halves[layer.name.removesuffix(".map")] = counted.sops
            continue
        if entry is None:
            assert layer.kind == "linear"
            continue
        assert entry.sops == counted.sops + halves.pop(layer.name, 0), layer.name
        assert entry.spikes_in == counted.n_spikes_in, layer.name
        assert entry.spikes_out == counted.n_spikes_out, layer.name
        n_sops += entry.sops
    for name, entry in entries.items():  # a read-out without a hidden layer
        assert (entry.spikes_in, entry.sops) == (0, 0), name
    assert n_sops > 0 and not halves
    return model, recording


@pytest.mark.parametrize("name", NETWORKS)
def test_counts_are_those_of_the_report(name):
    check_counts(programs.network(**NETWORKS[name]).program())


@pytest.mark.parametrize("k, stride, pad", [(3, 2, 1), (2, 1, 1), (4, 3, 2), (5, 1, 0), (1, 2, 0)])
def test_counts_of_windows(k, stride, pad):
    check_counts(strided(k, stride, pad).program(), threads=3)


def test_averages_and_medians():
    program = programs.with_golden(programs.network(), 2)
    model, recording = check_counts(program)
    for step, entry in zip(recording.steps(), recording.entries, strict=True):
        assert step.us == pytest.approx(entry.ns / 3e3)
        assert step.sops == entry.sops / 3
        places = sum(np.prod(o.shape) for o in step.step.outputs if o.kind == "spikes")
        assert step.rate_out == (step.spikes_out / places if places else None)
        assert step.sops_per_second == pytest.approx(step.sops / step.us * 1e6)
    frame = programs.random_frame(program, 1)
    with model.recorded() as one:
        model.run_raw(frame[None])
    found = model.profile(frame, 5)
    assert [s.sops for s in found] == [s.sops for s in one.steps()]
    assert [s.spikes_out for s in found] == [s.spikes_out for s in one.steps()]
    model.run_raw(frame[None])
    assert one.n_frames == 1, "nothing is recorded any more"


class Clock:
    """Moves on by 1, 2, 3, ... at every reading."""

    def __init__(self):
        self.readings, self.at = 0, 0
        self.function = CLOCK(self.read)

    def read(self, _user):
        self.readings += 1
        self.at += self.readings
        return self.at


def test_the_time_of_a_step_is_between_two_readings(library, isa):
    program = programs.network().program()
    loaded, clock = Loaded(library, write_bstm(program), isa), Clock()
    n = len(program.steps)
    entries = (runtime._StepProfile * n)()
    profile = library.bst_session_profile
    frame = programs.random_frame(program)
    assert profile(loaded.session, clock.function, None, entries, ctypes.c_size_t(n)) == 0
    loaded.run(frame, program.n_classes)
    assert clock.readings == 2 * n
    assert [e.ns for e in entries] == [2 * (i + 1) for i in range(n)]
    once = [(e.spikes_in, e.spikes_out, e.sops) for e in entries]
    loaded.run(frame, program.n_classes)
    assert [(e.spikes_in, e.spikes_out, e.sops) for e in entries] == [
        tuple(2 * value for value in row) for row in once
    ]
    loaded.check(profile(loaded.session, CLOCK(), None, None, ctypes.c_size_t(0)))
    loaded.run(frame, program.n_classes)
    assert clock.readings == 4 * n


def test_wrong_profiles_are_refused(library):
    program = programs.minimal()
    loaded, clock = Loaded(library, write_bstm(program)), Clock()
    entries = (runtime._StepProfile * 4)()
    profile, n = library.bst_session_profile, ctypes.c_size_t
    assert STATUS[profile(None, clock.function, None, entries, n(3))] == "BAD_ARGUMENT"
    assert STATUS[profile(loaded.session, clock.function, None, None, n(3))] == "BAD_ARGUMENT"
    for number in (0, 2, 4):
        status = profile(loaded.session, clock.function, None, entries, n(number))
        assert STATUS[status] == "BAD_ARGUMENT"
        assert f"n_entries = {number}".encode() in library.bst_last_error()
    loaded.run(programs.random_frame(program), 1)
    assert clock.readings == 0


def test_additions(library, isa):
    """Their number is exact and proportional; how fast they are is for people to read."""
    done = ctypes.c_uint64()
    counts = []
    for n_rounds in (0, 1, 1000):
        status = library.bst_isa_additions(
            isa.encode(), ctypes.c_uint64(n_rounds), ctypes.byref(done)
        )
        assert status == 0
        counts.append(done.value)
    assert counts[0] == 0 and counts[1] > 0 and counts[2] == 1000 * counts[1]
    assert runtime.additions_per_second(isa) > 0
    assert runtime.additions_per_second(isa) == runtime.additions_per_second(isa), "measured once"


def test_wrong_additions_are_refused(library):
    done = ctypes.c_uint64(7)
    assert library.bst_isa_additions(b"vax", ctypes.c_uint64(1), ctypes.byref(done)) == 3
    assert b"usable: " in library.bst_last_error()
    assert library.bst_isa_additions(None, ctypes.c_uint64(1), None) == 1
    assert done.value == 7
    assert library.bst_isa_additions(None, ctypes.c_uint64(1), ctypes.byref(done)) == 0
    best = done.value
    isa = usable_isas(library)[0].encode()
    assert library.bst_isa_additions(isa, ctypes.c_uint64(1), ctypes.byref(done)) == 0
    assert done.value == best
