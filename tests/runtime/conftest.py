"""The runtime under test: the public library, one with every kernel exported, aligned memory."""

from __future__ import annotations

import ctypes
import platform

import numpy as np
import pytest

from bestdeploy import toolchain

ON_ARM = platform.machine().lower().startswith(("arm", "aarch"))
ISAS = ("neon", "scalar") if ON_ARM else ("avx512", "avx2", "scalar")
STATUS = {0: "OK", 1: "BAD_ARGUMENT", 2: "BAD_FILE", 3: "UNSUPPORTED", 4: "NO_MEMORY", 5: "IO",
          6: "NO_THREAD"}  # fmt: skip


def aligned(n_bytes: int, to: int = 64) -> np.ndarray:
    """Zeroed uint8 memory whose address is a multiple of `to`."""
    raw = np.zeros(n_bytes + to, np.uint8)
    start = -raw.ctypes.data % to
    return raw[start : start + n_bytes]


def copy_aligned(content: bytes, to: int = 64) -> np.ndarray:
    memory = aligned(len(content), to)
    memory[:] = np.frombuffer(content, np.uint8)
    return memory


def _build(*flags: str) -> ctypes.CDLL:
    return ctypes.CDLL(str(toolchain.build_library(extra_flags=flags)))


@pytest.fixture(scope="session")
def library() -> ctypes.CDLL:
    """libbst.so as users get it."""
    lib = _build()
    for name in ("last_error", "version", "status_name", "isa_name", "model_isa"):
        getattr(lib, f"bst_{name}").restype = ctypes.c_char_p
    lib.bst_logit.restype = ctypes.c_float
    return lib


def usable_isas(library: ctypes.CDLL) -> list[str]:
    """What bst_isa_name lists: best first."""
    found = []
    while (name := library.bst_isa_name(ctypes.c_uint32(len(found)))) is not None:
        found.append(name.decode())
    return found


@pytest.fixture(params=ISAS)
def isa(request, library) -> str:
    """Every instruction set that this machine can use."""
    if request.param not in usable_isas(library):
        pytest.skip(f"this machine has no {request.param}")
    return request.param


@pytest.fixture(scope="session")
def kernels() -> ctypes.CDLL:
    """The same sources with every `bst_<kernel>__<isa>` exported."""
    return _build("-fvisibility=default")
