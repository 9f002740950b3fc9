"""The C runtime seen from Python: load a `.bstm`, run frames, look at every step. Needs only numpy.

    from bestdeploy import runtime

    model = runtime.load("model.bstm")
    logits = model.run(frames)           # uint8 [B, H, W, C] -> float32 [B, K]

Event models take [B, T, H, W, C], one frame per time step.

The binding is ctypes on `bst.h`, the same C interface that a device gets. The library is the one
inside the package when it was built from these sources, else it is compiled once and cached.
The kernels are those of the best instruction set that this machine has, or of the one named by
`isa`, else by the environment variable BESTDEPLOY_ISA. Every choice gives the same integers.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import struct
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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

__all__ = ["Model", "OutputInfo", "StepInfo", "Tap", "isa_names", "library_path", "load"]

ALIGNMENT = 64
ISA_VARIABLE = "BESTDEPLOY_ISA"
MAX_THREADS = 256
SPIKES, STREAM, RAW = 2, 3, 4
KIND_NAMES = {1: "image", SPIKES: "spikes", STREAM: "stream", RAW: "raw"}
_META_KIND = 6
_HINTS = {
    "BAD_FILE": "compile the model again: bestdeploy compile model.onnx",
    "UNSUPPORTED": "the file is newer than this runtime: pip install -U bestdeploy",
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
    "bst_model_isa": (ctypes.c_char_p, (ctypes.c_void_p,)),
    "bst_last_error": (ctypes.c_char_p, ()),
    "bst_status_name": (ctypes.c_char_p, (ctypes.c_int,)),
    "bst_model_bytes": (ctypes.c_int, (_P, _SIZE, ctypes.c_char_p, _P)),
    "bst_model_init": (ctypes.c_int, (_P, _SIZE, ctypes.c_char_p, _P, _SIZE, _P)),
    "bst_model_describe": (ctypes.c_int, (_P, _P)),
    "bst_model_step": (ctypes.c_int, (_P, _U32, _P)),
    "bst_arena_bytes": (ctypes.c_int, (_P, _P)),
    "bst_session_init": (ctypes.c_int, (_P, _P, _SIZE, _P)),
    "bst_session_run": (ctypes.c_int, (_P, _P, _SIZE, _P, _SIZE)),
    "bst_session_probe": (ctypes.c_int, (_P, _PROBE, _P)),
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
                hint=_HINTS.get(status_name),
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


class _Session:
    """One arena: runs one frame at a time. Sessions share their model."""

    def __init__(self, library: _Library, model: ctypes.c_void_p, n_classes: int) -> None:
        self.library = library
        size = ctypes.c_size_t()
        library.call("bst_arena_bytes", model, ctypes.byref(size))
        self.arena = _aligned(size.value)
        self.handle = ctypes.c_void_p()
        library.call(
            "bst_session_init",
            model,
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


class Model:
    """A loaded `.bstm`; made by `load`.

    Attributes:
        input_shape: (H, W, C) of a frame, (T, H, W, C) of event frames.
        classes: number of classes K.
        n_steps: time steps T.
        logit_shift: logit = raw * 2^-logit_shift.
        model_bytes: size of the buffer with prepared weights and tables.
        arena_bytes: size of the buffer of one session.
        isa: instruction set of the kernels.
        meta: the metadata that the export wrote (family, preprocessing, ...).
    """

    def __init__(self, content: bytes, *, isa: str | None, threads: int, library: Path) -> None:
        if not 1 <= threads <= MAX_THREADS:
            raise InputError(f"threads is {threads}, expected 1..{MAX_THREADS}")
        self._library = _Library(library)
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
        self._sessions = [self._new_session() for _ in range(threads)]
        self.arena_bytes = self._sessions[0].arena.nbytes
        self._lock = threading.Lock()

    def _new_session(self) -> _Session:
        return _Session(self._library, self._model, self.classes)

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
            if len(self._sessions) == 1 or len(frames) < 2:
                self._sessions[0].run(frames, raw)
                return raw
            parts = np.linspace(0, len(frames), len(self._sessions) + 1).astype(int)
            with ThreadPoolExecutor(len(self._sessions)) as pool:
                jobs = [
                    pool.submit(session.run, frames[start:end], raw[start:end])
                    for session, start, end in zip(
                        self._sessions, parts[:-1], parts[1:], strict=True
                    )
                ]
                for job in jobs:
                    job.result()
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

    def profile(
        self, frame: npt.NDArray[np.uint8] | None = None, repeats: int = 20
    ) -> list[tuple[StepInfo, float]]:
        """Return the median time of every step in microseconds, for one frame `[H, W, C]`.

        Without a frame the first golden one is taken, else noise: the time depends on the spikes.
        The clock is read in a probe, which adds about a microsecond to every step.
        """
        if frame is None:
            noise = np.random.default_rng(0).integers(0, 256, self.input_shape)
            frame = self.golden()[0][0] if self.n_golden else noise.astype(np.uint8)
        steps = self.steps()
        times = np.zeros((repeats, len(steps)))
        clock = [0.0]
        row = [0]

        def probe(_user: Any, index: int, output: int, _data: int, _n_bytes: int) -> None:
            if output == 0:
                times[row[0], index] = time.perf_counter() - clock[0]
            clock[0] = time.perf_counter()

        for repeat in range(repeats):
            row[0] = repeat
            clock[0] = time.perf_counter()
            self._run_with_probe(frame, probe)
        median = np.median(times, axis=0) * 1e6
        return [(step, float(value)) for step, value in zip(steps, median, strict=True)]

    def _run_with_probe(self, frame: npt.NDArray[np.uint8], probe: Any) -> npt.NDArray[np.int64]:
        if isinstance(frame, np.ndarray) and frame.shape == self.input_shape:
            frame = frame[None]
        frames = self._checked(frame)
        if len(frames) != 1:
            raise InputError(f"got {len(frames)} frames, a probed run takes one")
        raw = np.zeros((1, self.classes), np.int64)
        callback = _PROBE(probe)
        session = self._sessions[0]
        with self._lock:
            self._library.call("bst_session_probe", session.handle, callback, None)
            try:
                session.run(frames, raw)
            finally:
                self._library.call("bst_session_probe", session.handle, _PROBE(), None)
        return raw[0]


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
        threads: frames of a batch that are computed at the same time.
        library: another build of libbst.so.

    Raises:
        ArtifactError: the file cannot be read.
        NativeError: the file is not a valid `.bstm`.
        UnsupportedModelError: the instruction set cannot be used on this machine.
        MissingToolError: the library has to be compiled and there is no compiler.
    """
    if isinstance(path, bytes):
        content = path
    else:
        file = Path(path)
        file = file / "model.bstm" if file.is_dir() else file
        try:
            content = file.read_bytes()
        except OSError as error:
            raise ArtifactError(
                f"cannot read `{file}`: {error.strerror}",
                hint="give a .bstm file or a bundle of `bestdeploy compile`",
            ) from error
    return Model(content, isa=isa, threads=threads, library=library or library_path())


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
