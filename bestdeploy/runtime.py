"""The C runtime seen from Python: load a `.bstm`, run frames, look at every step. Needs only numpy.

    from bestdeploy import runtime

    model = runtime.load("model.bstm")
    logits = model.run(frames)           # uint8 [B, H, W, C] -> float32 [B, K]

Event models take [B, T, H, W, C], one frame per time step.

The binding is ctypes on `bst.h`, the same C interface that a device gets. The library is the one
inside the package when it was built from these sources, else it is compiled once and cached.
The kernels are those of the best instruction set that this machine has, or of the one named by
`isa`, else by the environment variable BESTDEPLOY_ISA. `threads` share the work of each frame.
Every choice gives the same integers.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import math
import os
import struct
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bestdeploy import toolchain
from bestdeploy.errors import (
    ArtifactError,
    InputError,
    NativeError,
    UnsupportedModelError,
    VerificationError,
)

__all__ = [
    "Model",
    "Module",
    "OutputInfo",
    "Recording",
    "StepInfo",
    "StepProfile",
    "Tap",
    "additions_per_second",
    "isa_names",
    "library_path",
    "load",
    "load_module",
]

ALIGNMENT = 64
ISA_VARIABLE = "BESTDEPLOY_ISA"
MAX_THREADS = 256
SPIKES, STREAM, RAW = 2, 3, 4
KIND_NAMES = {1: "image", SPIKES: "spikes", STREAM: "stream", RAW: "raw"}
_META_KIND = 6
_ROOFLINE_ROUNDS, _ROOFLINE_SECONDS, _ROOFLINE_REPEATS = 1000, 0.004, 15
_HINTS = {
    "BAD_FILE": "compile the model again: bestdeploy compile model.onnx",
    "UNSUPPORTED": "the file is newer than this runtime: pip install -U bestdeploy",
    "NO_THREAD": "give a smaller number of threads",
    "BAD_MODULE": "compile the model again: bestdeploy compile --backend tvm",
}


# ----------------------------------------------------------------------------- the C interface


class _ModelInfo(ctypes.Structure):
    _fields_ = (
        ("height", ctypes.c_uint32),
        ("width", ctypes.c_uint32),
        ("channels", ctypes.c_uint32),
        ("n_classes", ctypes.c_uint32),
        ("n_steps", ctypes.c_uint32),
        ("logit_shift", ctypes.c_uint32),
        ("n_golden", ctypes.c_uint32),
        ("n_program_steps", ctypes.c_uint32),
        ("arena_bytes", ctypes.c_uint64),
        ("model_bytes", ctypes.c_uint64),
        ("frame_bytes", ctypes.c_uint64),
        ("frac_bits", ctypes.c_uint32),
        ("frame_steps", ctypes.c_uint32),
    )


class _TensorInfo(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_uint32),
        ("t", ctypes.c_uint32),
        ("h", ctypes.c_uint32),
        ("w", ctypes.c_uint32),
        ("c", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("bytes", ctypes.c_uint64),
    )


class _StepInfo(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("op", ctypes.c_uint32),
        ("op_name", ctypes.c_char_p),
        ("n_outputs", ctypes.c_uint32),
        ("outputs", _TensorInfo * 2),
    )


class _StepProfile(ctypes.Structure):
    _fields_ = (
        ("ns", ctypes.c_uint64),
        ("spikes_in", ctypes.c_uint64),
        ("spikes_out", ctypes.c_uint64),
        ("sops", ctypes.c_uint64),
    )


_CLOCK = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p)
_LOOKUP = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
_PROBE = ctypes.CFUNCTYPE(
    None,
    ctypes.c_void_p,
    ctypes.c_uint32,
    ctypes.c_uint32,
    ctypes.c_void_p,
    ctypes.c_size_t,
)

_P, _SIZE, _U32 = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint32
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "bst_version": (ctypes.c_char_p, ()),
    "bst_isa_name": (ctypes.c_char_p, (ctypes.c_uint32,)),
    "bst_isa_additions": (ctypes.c_int, (ctypes.c_char_p, ctypes.c_uint64, _P)),
    "bst_model_isa": (ctypes.c_char_p, (ctypes.c_void_p,)),
    "bst_last_error": (ctypes.c_char_p, ()),
    "bst_status_name": (ctypes.c_char_p, (ctypes.c_int,)),
    "bst_model_bytes": (ctypes.c_int, (_P, _SIZE, ctypes.c_char_p, _P)),
    "bst_model_init": (ctypes.c_int, (_P, _SIZE, ctypes.c_char_p, _P, _SIZE, _P)),
    "bst_model_describe": (ctypes.c_int, (_P, _P)),
    "bst_model_step": (ctypes.c_int, (_P, _U32, _P)),
    "bst_pool_bytes": (ctypes.c_int, (_U32, _P)),
    "bst_pool_init": (ctypes.c_int, (_P, _SIZE, _U32, _P)),
    "bst_pool_stop": (ctypes.c_int, (_P,)),
    "bst_arena_bytes": (ctypes.c_int, (_P, _U32, _P)),
    "bst_session_init": (ctypes.c_int, (_P, _P, _P, _SIZE, _P)),
    "bst_session_run": (ctypes.c_int, (_P, _P, _SIZE, _P, _SIZE)),
    "bst_session_probe": (ctypes.c_int, (_P, _PROBE, _P)),
    "bst_session_profile": (ctypes.c_int, (_P, _CLOCK, _P, _P, _SIZE)),
    "bst_module_bytes": (ctypes.c_int, (_P, _LOOKUP, _P, _P)),
    "bst_model_open_module": (ctypes.c_int, (_P, _LOOKUP, _P, _P, _SIZE, _P)),
    "bst_module_run": (ctypes.c_int, (_P, _P, _SIZE, _P, _SIZE)),
    "bst_model_golden": (ctypes.c_int, (_P, _U32, _P, _P)),
}


def library_path() -> Path:
    """Return the library of this machine: the one in the package, else built and cached."""
    return toolchain.prebuilt_library() or toolchain.build_library("host")


@functools.cache
def _bind(path: str) -> Any:
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise _cannot_load(Path(path), error) from error
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _cannot_load(path: Path, error: OSError) -> ArtifactError:
    machine, here = toolchain.machine_of(path), toolchain.host_machine()
    if machine in ("", here):
        return ArtifactError(f"cannot load `{path}`: {error}", hint="compile the bundle again")
    return ArtifactError(
        f"`{path}` is built for {machine}, this machine is {here}",
        hint="leave the library out: this machine's own runtime runs the same .bstm",
    )


class _Library:
    """A bound library; `call` turns a status that is not OK into NativeError."""

    def __init__(self, path: Path) -> None:
        self.raw = _bind(str(path))
        self.path = path

    def call(self, name: str, *arguments: Any) -> None:
        status = getattr(self.raw, name)(*arguments)
        if status != 0:
            status_name = self.raw.bst_status_name(status).decode()
            text = self.raw.bst_last_error().decode(errors="replace")
            raise NativeError(
                f"{text or name} ({status_name})",
                status=status_name,
                hint="give threads=1" if name == "bst_pool_bytes" else _HINTS.get(status_name),
            )

    def isa_names(self) -> tuple[str, ...]:
        """Return the instruction sets that the library can use here, best first."""
        found: list[str] = []
        while (name := self.raw.bst_isa_name(len(found))) is not None:
            found.append(name.decode())
        return tuple(found)


def isa_names(*, library: Path | None = None) -> tuple[str, ...]:
    """Return the instruction sets that this machine can use, best first, "scalar" last.

    Args:
        library: another build of libbst.so.
    """
    return _Library(library or library_path()).isa_names()


def additions_per_second(isa: str, threads: int = 1, *, library: Path | None = None) -> float:
    """Return the roofline of this machine: lane additions per second, measured once per process.

    A lane addition adds one bit of a weight row to a counter, which is what a synaptic operation
    is. The rate is the best of a few milliseconds in which every thread does nothing else, with
    the carry-save adders of the instruction set and rows that lie in the first-level cache.

    Args:
        isa: one of `isa_names()`.
        threads: number of threads that add at the same time.
        library: another build of libbst.so.
    """
    return _measured_additions(library or library_path(), isa, threads)


@functools.cache
def _measured_additions(path: Path, isa: str, threads: int) -> float:
    library = _Library(path)

    def add(n_rounds: int) -> int:
        done = ctypes.c_uint64()
        library.call("bst_isa_additions", isa.encode(), n_rounds, ctypes.byref(done))
        return done.value

    def timed(n_rounds: int) -> tuple[float, float]:
        start = time.perf_counter()
        done = sum(pool.map(add, [n_rounds] * threads))
        elapsed = time.perf_counter() - start
        return elapsed, done / elapsed

    n_rounds = _ROOFLINE_ROUNDS
    with ThreadPoolExecutor(threads) as pool:
        while timed(n_rounds)[0] < _ROOFLINE_SECONDS:
            n_rounds *= 2
        return max(timed(n_rounds)[1] for _ in range(_ROOFLINE_REPEATS))


def _chosen_isa(isa: str | None, usable: tuple[str, ...]) -> str:
    """Return the instruction set to use: asked for, else in the environment, else the best."""
    asked, where = (isa, None) if isa else (os.environ.get(ISA_VARIABLE), ISA_VARIABLE)
    if not asked:
        return usable[0]
    if asked not in usable:
        raise UnsupportedModelError(
            f"isa `{asked}` cannot be used on this machine, usable: {', '.join(usable)}",
            where=where,
            hint="leave it out: the best one is taken",
        )
    return asked


def _aligned(n_bytes: int) -> npt.NDArray[np.uint8]:
    """Return zeroed bytes whose address is a multiple of 64."""
    block = np.zeros(n_bytes + ALIGNMENT, np.uint8)
    start = -block.ctypes.data % ALIGNMENT
    return block[start : start + n_bytes]


# ----------------------------------------------------------------------------- what a model holds


@dataclass(frozen=True)
class OutputInfo:
    """One output of a step: its kind ("spikes", "stream", "raw"), shape and size.

    Shape is `[T, H, W, C]`; an attention map is `[T, heads, N, N]`; raw logits are `[K]`.
    """

    kind: str
    shape: tuple[int, ...]
    n_bytes: int


@dataclass(frozen=True)
class StepInfo:
    """One step of the program."""

    name: str
    op: str
    outputs: tuple[OutputInfo, ...]


@dataclass(frozen=True, eq=False)
class Tap:
    """An output as the runtime left it.

    `data` is uint64 `[T, H, W, n_words]` for spikes (channel c is bit c % 64 of word c // 64),
    int32 `[T, H, W, C]` for a stream, int64 `[K]` for raw logits.
    """

    info: OutputInfo
    data: npt.NDArray[Any]

    def values(self) -> npt.NDArray[Any]:
        """Return the data with one element per neuron: spikes become uint8 0/1 `[T, H, W, C]`."""
        if self.info.kind != "spikes":
            return self.data
        octets = np.ascontiguousarray(self.data.astype("<u8", copy=False)).view(np.uint8)
        n_channels = self.info.shape[-1]
        return np.unpackbits(octets, axis=-1, count=n_channels, bitorder="little")


@dataclass(frozen=True)
class StepProfile:
    """What one step did with a frame: an average over frames where there were several.

    Attributes:
        us: time in microseconds.
        spikes_in: spikes that drive it, 0 where none do.
        spikes_out: spikes in its outputs.
        sops: synaptic operations, as `bestdeploy inspect --data` counts them.
    """

    step: StepInfo
    us: float
    spikes_in: float
    spikes_out: float
    sops: float

    @property
    def rate_out(self) -> float | None:
        """Firing rate of its neurons per step of time, None where it has no spikes."""
        shapes = [output.shape for output in self.step.outputs if output.kind == "spikes"]
        return self.spikes_out / sum(map(math.prod, shapes)) if shapes else None

    @property
    def sops_per_second(self) -> float:
        """Synaptic operations per second of its own time."""
        return self.sops / self.us * 1e6 if self.us else 0.0


class Recording:
    """What the steps of a model did while it was recorded; made by `Model.recorded`.

    Attributes:
        n_frames: frames so far.
    """

    def __init__(self, steps: tuple[StepInfo, ...]) -> None:
        self._steps = steps
        self.entries = (_StepProfile * len(steps))()
        self.n_frames = 0

    def steps(self) -> tuple[StepProfile, ...]:
        """Return every step with its averages over the frames so far."""
        n = max(self.n_frames, 1)
        return tuple(
            StepProfile(step, e.ns / n / 1e3, e.spikes_in / n, e.spikes_out / n, e.sops / n)
            for step, e in zip(self._steps, self.entries, strict=True)
        )

    def clear(self) -> None:
        """Begin anew."""
        ctypes.memset(self.entries, 0, ctypes.sizeof(self.entries))
        self.n_frames = 0


class _Pool:
    """Threads that share the work of each frame; they end with it, or with the program."""

    def __init__(self, library: _Library, n_threads: int) -> None:
        size = ctypes.c_size_t()
        library.call("bst_pool_bytes", n_threads, ctypes.byref(size))
        buffer = _aligned(size.value)
        self.handle = ctypes.c_void_p()
        library.call(
            "bst_pool_init", buffer.ctypes.data, buffer.nbytes, n_threads, ctypes.byref(self.handle)
        )
        self._end = weakref.finalize(self, _stop_pool, library, self.handle, buffer)

    def forget(self) -> None:
        """Leave the threads alone: they are another process's."""
        self._end.detach()


def _stop_pool(library: _Library, handle: ctypes.c_void_p, _buffer: npt.NDArray[np.uint8]) -> None:
    """End the threads; at exit a run may be going on, whose threads then end with the process."""
    library.raw.bst_pool_stop(handle)


class _Session:
    """One arena, and the threads that run its frames: one frame at a time."""

    def __init__(
        self, library: _Library, model: ctypes.c_void_p, n_classes: int, threads: int
    ) -> None:
        self.library = library
        self.pool = _Pool(library, threads) if threads > 1 else None
        size = ctypes.c_size_t()
        library.call("bst_arena_bytes", model, threads, ctypes.byref(size))
        self.arena = _aligned(size.value)
        self.handle = ctypes.c_void_p()
        library.call(
            "bst_session_init",
            model,
            self.pool.handle if self.pool else None,
            self.arena.ctypes.data,
            self.arena.nbytes,
            ctypes.byref(self.handle),
        )
        self.n_classes = n_classes

    def run(self, frames: npt.NDArray[np.uint8], out: npt.NDArray[np.int64]) -> None:
        """Run `[B, *input_shape]` into `[B, K]`, both C-contiguous."""
        if not len(frames):
            return
        frame_bytes = frames[0].nbytes
        source, target = frames.ctypes.data, out.ctypes.data
        for index in range(len(frames)):
            self.library.call(
                "bst_session_run",
                self.handle,
                source + index * frame_bytes,
                frame_bytes,
                target + index * self.n_classes * 8,
                self.n_classes,
            )

    def profile(self, clock: Any, entries: Any) -> None:
        """Add to `entries` of every step in each run; a NULL clock ends it."""
        n_entries = 0 if entries is None else len(entries)
        self.library.call("bst_session_profile", self.handle, clock, None, entries, n_entries)


class Model:
    """A loaded `.bstm`; made by `load`. It may be called from any thread: one frame at a time.

    After a fork the child starts threads of its own when it first runs a frame.

    Attributes:
        input_shape: (H, W, C) of a frame, (T, H, W, C) of event frames.
        classes: number of classes K.
        n_steps: time steps T.
        logit_shift: logit = raw * 2^-logit_shift.
        model_bytes: size of the buffer with prepared weights and tables.
        arena_bytes: size of the buffer of its session.
        isa: instruction set of the kernels.
        threads: threads that share the work of each frame.
        library_path: the build of the runtime that runs it.
        meta: the metadata that the export wrote (family, preprocessing, ...).
    """

    def __init__(self, content: bytes, *, isa: str | None, threads: int, library: Path) -> None:
        if not 1 <= threads <= MAX_THREADS:
            raise InputError(f"threads is {threads}, expected 1..{MAX_THREADS}")
        self._library = _Library(library)
        self.library_path = library
        chosen = _chosen_isa(isa, self._library.isa_names()).encode()
        self._file = _aligned(len(content))
        self._file[:] = np.frombuffer(content, np.uint8)
        file_arguments = (self._file.ctypes.data, self._file.nbytes)

        size = ctypes.c_size_t()
        self._library.call("bst_model_bytes", *file_arguments, chosen, ctypes.byref(size))
        self.model_bytes = size.value
        self._buffer = _aligned(self.model_bytes)
        self._model = ctypes.c_void_p()
        self._library.call(
            "bst_model_init",
            *file_arguments,
            chosen,
            self._buffer.ctypes.data,
            self._buffer.nbytes,
            ctypes.byref(self._model),
        )
        self.isa: str = self._library.raw.bst_model_isa(self._model).decode()
        info = _ModelInfo()
        self._library.call("bst_model_describe", self._model, ctypes.byref(info))
        still = (info.height, info.width, info.channels)
        self.input_shape: tuple[int, ...] = (
            still if info.frame_steps == 1 else (info.frame_steps, *still)
        )
        self.classes: int = info.n_classes
        self.n_steps: int = info.n_steps
        self.logit_shift: int = info.logit_shift
        self.n_golden: int = info.n_golden
        self._n_program_steps: int = info.n_program_steps
        self.meta: dict[str, Any] = _read_meta(content)
        self.threads = threads
        self._recording: Recording | None = None
        self._lock = threading.RLock()
        self._session: _Session | None = None
        self.arena_bytes: int = self._opened().arena.nbytes
        _MODELS.add(self)

    def _opened(self) -> _Session:
        """Return the session; the caller holds the lock."""
        if self._session is None:
            self._session = _Session(self._library, self._model, self.classes, self.threads)
        return self._session

    def _after_fork(self) -> None:
        """In the child: the threads of the pool, and one that held the lock, do not exist here."""
        self._lock = threading.RLock()
        if self._session is not None and self._session.pool is not None:
            self._session.pool.forget()
            self._session = None

    def run(self, x: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the logits float32 `[B, K]` of frames uint8 `[B, *input_shape]`.

        Raises:
            InputError: wrong dtype or shape.
        """
        return self.infer(x)[1]

    def infer(
        self, x: npt.NDArray[np.uint8]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Return raw logits int64 and logits float32, both `[B, K]`."""
        raw = self.run_raw(x)
        return raw, np.ldexp(raw.astype(np.float64), -self.logit_shift).astype(np.float32)

    def run_raw(self, x: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
        """Return the raw logits int64 `[B, K]` of frames uint8 `[B, *input_shape]`; exact."""
        frames = self._checked(x)
        raw = np.zeros((len(frames), self.classes), np.int64)
        with self._lock:
            self._opened().run(frames, raw)
            if self._recording is not None:
                self._recording.n_frames += len(frames)
        return raw

    def _checked(self, x: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        wanted = ", ".join(map(str, self.input_shape))
        if not isinstance(x, np.ndarray):
            raise InputError(
                f"x is a {type(x).__name__}, expected a numpy array uint8 [B, {wanted}]",
                hint="np.asarray(x)",
            )
        if x.dtype != np.uint8:
            raise InputError(
                f"x has dtype {x.dtype}, expected uint8",
                hint="give pixels 0..255 as they are; the model normalises them itself",
            )
        if self.n_steps == 1 and x.shape[1:] == (1, *self.input_shape):
            x = x[:, 0]  # event frames of one time step
        if x.shape[1:] != self.input_shape:
            raise InputError(
                f"x has shape {list(x.shape)}, expected [B, {wanted}]",
                hint="x[None] makes a batch of one frame" if x.shape == self.input_shape else None,
            )
        return np.ascontiguousarray(x)

    def golden(self) -> list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]]:
        """Return the golden vectors: frames of `input_shape` with exact raw logits `[K]`."""
        frame_bytes = int(np.prod(self.input_shape))
        found = []
        for index in range(self.n_golden):
            frame, raw = ctypes.c_void_p(), ctypes.c_void_p()
            self._library.call(
                "bst_model_golden", self._model, index, ctypes.byref(frame), ctypes.byref(raw)
            )
            pixels = np.frombuffer(_bytes_at(frame, frame_bytes), np.uint8)
            logits = np.frombuffer(_bytes_at(raw, self.classes * 8), "<i8")
            found.append((pixels.reshape(self.input_shape), logits.astype(np.int64)))
        return found

    def verify_golden(self) -> int:
        """Run the golden vectors; return their number.

        Raises:
            VerificationError: a raw logit differs.
        """
        for index, (frame, expected) in enumerate(self.golden()):
            got = self.run_raw(frame[None])[0]
            if not np.array_equal(got, expected):
                k = int(np.flatnonzero(got != expected)[0])
                raise VerificationError(
                    f"golden vector {index}: raw logit {k} is {got[k]}, expected {expected[k]}",
                    where=str(self._library.path),
                    hint="this build of the runtime computes wrong results on this machine",
                )
        return self.n_golden

    def steps(self) -> tuple[StepInfo, ...]:
        """Return the steps of the program in order of execution."""
        found = []
        for index in range(self._n_program_steps):
            info = _StepInfo()
            self._library.call("bst_model_step", self._model, index, ctypes.byref(info))
            outputs = tuple(_output_info(info.outputs[i]) for i in range(info.n_outputs))
            found.append(StepInfo(info.name.decode(), info.op_name.decode(), outputs))
        return tuple(found)

    def run_probed(
        self, frame: npt.NDArray[np.uint8]
    ) -> tuple[npt.NDArray[np.int64], dict[str, list[Tap]]]:
        """Run one frame of `input_shape`; return its raw logits and all outputs by step name."""
        steps = self.steps()
        taps: dict[str, list[Tap]] = {step.name: [] for step in steps}
        failures: list[Exception] = []

        def probe(_user: Any, index: int, output: int, data: int, n_bytes: int) -> None:
            try:
                info = steps[index].outputs[output]
                content = _bytes_at(ctypes.c_void_p(data), n_bytes)
                taps[steps[index].name].append(Tap(info, _array(info, content)))
            except Exception as error:  # an exception must not pass through C
                failures.append(error)

        raw = self._run_with_probe(frame, probe)
        if failures:
            raise failures[0]
        return raw, taps

    @contextlib.contextmanager
    def recorded(self) -> Iterator[Recording]:
        """Record what every step does with the frames that run inside of the `with`.

        The clock is Python's, which adds about a microsecond to every step, and spikes are counted
        between the steps: a frame takes longer than usual, the times of the steps do not.
        """
        recording = Recording(self.steps())
        clock = _CLOCK(lambda _user: time.perf_counter_ns())
        with self._lock:
            session = self._opened()
            session.profile(clock, recording.entries)
            self._recording = recording
        try:
            yield recording
        finally:
            with self._lock:
                session.profile(_CLOCK(), None)
                self._recording = None

    def profile(
        self, frame: npt.NDArray[np.uint8] | None = None, repeats: int = 20
    ) -> tuple[StepProfile, ...]:
        """Return what every step does with one frame of `input_shape`; times are medians.

        Without a frame the first golden one is taken, else noise: the time depends on the spikes.
        See `recorded` for what the clock costs.
        """
        if frame is None:
            noise = np.random.default_rng(0).integers(0, 256, self.input_shape)
            frame = self.golden()[0][0] if self.n_golden else noise.astype(np.uint8)
        frames = self._one_frame(frame)
        with self._lock, self.recorded() as recording:
            runs = []
            for _ in range(repeats):
                recording.clear()
                self.run_raw(frames)
                runs.append(recording.steps())
        median = np.median([[step.us for step in run] for run in runs], axis=0)
        return tuple(replace(step, us=float(us)) for step, us in zip(runs[-1], median, strict=True))

    def _one_frame(self, frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return a frame of `input_shape`, or a batch that holds one, as a batch."""
        if isinstance(frame, np.ndarray) and frame.shape == self.input_shape:
            frame = frame[None]
        frames = self._checked(frame)
        if len(frames) != 1:
            raise InputError(f"got {len(frames)} frames, a probed run takes one")
        return frames

    def _run_with_probe(self, frame: npt.NDArray[np.uint8], probe: Any) -> npt.NDArray[np.int64]:
        frames = self._one_frame(frame)
        raw = np.zeros((1, self.classes), np.int64)
        callback = _PROBE(probe)
        with self._lock:
            session = self._opened()
            self._library.call("bst_session_probe", session.handle, callback, None)
            try:
                session.run(frames, raw)
            finally:
                self._library.call("bst_session_probe", session.handle, _PROBE(), None)
        return raw[0]


class Module(Model):
    """A network that TVM compiled, run by the C runtime; made by `load_module`.

    Raw logits and logits are the module's. Steps, probes and profiles are those of the C runtime,
    which computes the same spikes.

    Attributes:
        module_path: the net.so.
        module_bytes: size of the buffer with its weights and its arena.
    """

    def __init__(self, content: bytes, module: Path, *, library: Path) -> None:
        super().__init__(content, isa=None, threads=1, library=library)
        self.module_path = module
        # its own error hook is to come before that of a libtvm_ffi in this process
        mode = os.RTLD_NOW | getattr(os, "RTLD_DEEPBIND", 0)
        try:
            code = ctypes.CDLL(str(module.resolve()), mode)
        except OSError as error:
            raise _cannot_load(module, error) from error

        def look_up(_user: Any, name: bytes) -> int | None:
            try:
                return ctypes.cast(getattr(code, name.decode()), ctypes.c_void_p).value
            except AttributeError:
                return None

        self._code = code  # loaded as long as it may run
        callback, size = _LOOKUP(look_up), ctypes.c_size_t()
        self._library.call("bst_module_bytes", self._model, callback, None, ctypes.byref(size))
        self.module_bytes = size.value
        self._place = _aligned(self.module_bytes)
        self._module = ctypes.c_void_p()
        self._library.call(
            "bst_model_open_module",
            *(self._model, callback, None),
            *(self._place.ctypes.data, self._place.nbytes, ctypes.byref(self._module)),
        )

    def run_raw(self, x: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
        """Return the raw logits int64 `[B, K]` of frames uint8 `[B, *input_shape]`; exact."""
        frames = self._checked(x)
        raw = np.zeros((len(frames), self.classes), np.int64)
        with self._lock:
            for frame, out in zip(frames, raw, strict=True):
                self._library.call(
                    "bst_module_run",
                    *(self._module, frame.ctypes.data, frame.nbytes, out.ctypes.data, len(out)),
                )
        return raw


_MODELS: weakref.WeakSet[Model] = weakref.WeakSet()


def _after_fork() -> None:
    for model in list(_MODELS):
        model._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def load(
    path: str | Path | bytes,
    isa: str | None = None,
    threads: int = 1,
    *,
    library: Path | None = None,
) -> Model:
    """Load a `.bstm` file (or its bytes).

    Args:
        path: the file, a bundle folder that holds `model.bstm`, or the file's bytes.
        isa: kernels to use, one of `isa_names()`; None = what BESTDEPLOY_ISA says, else the best.
        threads: threads that share the work of each frame, the calling one included.
        library: another build of libbst.so.

    Raises:
        ArtifactError: the file cannot be read.
        NativeError: the file is not a valid `.bstm`.
        UnsupportedModelError: the instruction set cannot be used on this machine.
        MissingToolError: the library has to be compiled and there is no compiler.
    """
    return Model(_content(path), isa=isa, threads=threads, library=library or library_path())


def load_module(path: str | Path | bytes, module: str | Path) -> Module:
    """Load a `.bstm` file (or its bytes) with the net.so that TVM made of it.

    Nothing of TVM is needed.

    Raises:
        ArtifactError: a file cannot be read, or the module is for another machine.
        NativeError: the file is not a valid `.bstm`, or the module is not one of this file.
    """
    return Module(_content(path), Path(module), library=library_path())


def _content(path: str | Path | bytes) -> bytes:
    if isinstance(path, bytes):
        return path
    file = Path(path)
    file = file / "model.bstm" if file.is_dir() else file
    try:
        return file.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"cannot read `{file}`: {error.strerror}",
            hint="give a .bstm file or a bundle of `bestdeploy compile`",
        ) from error


# ----------------------------------------------------------------------------- small parts


def _bytes_at(pointer: ctypes.c_void_p, n_bytes: int) -> bytes:
    return ctypes.string_at(pointer, n_bytes) if pointer.value else b""


def _output_info(info: _TensorInfo) -> OutputInfo:
    shape: Sequence[int] = (info.t, info.h, info.w, info.c)
    return OutputInfo(
        kind=KIND_NAMES.get(info.kind, str(info.kind)),
        shape=(info.c,) if info.kind == RAW else tuple(shape),
        n_bytes=info.bytes,
    )


def _array(info: OutputInfo, content: bytes) -> npt.NDArray[Any]:
    if info.kind == "spikes":
        return np.frombuffer(content, "<u8").reshape(*info.shape[:-1], -1)
    dtype = "<i4" if info.kind == "stream" else "<i8"
    return np.frombuffer(content, dtype).reshape(info.shape)


def _read_meta(content: bytes) -> dict[str, Any]:
    """Return the META section of a file that the C runtime has found valid."""
    (n_sections,) = struct.unpack_from("<I", content, 12)
    for index in range(n_sections):
        kind, _, offset, size, _ = struct.unpack_from("<IIQQQ", content, 64 + 32 * index)
        if kind == _META_KIND:
            try:
                meta = json.loads(content[offset : offset + size] or b"{}")
            except ValueError:
                return {}
            return meta if isinstance(meta, dict) else {}
    return {}
