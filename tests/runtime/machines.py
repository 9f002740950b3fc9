"""Kernels on this machine through ctypes, and on emulated ones through a program that serves calls.

`Version(machine, isa)` is what a test calls: the same cases run on every instruction set.
"""

from __future__ import annotations

import ctypes
import struct
import subprocess
from pathlib import Path

import numpy as np
from conftest import aligned

from bestdeploy import toolchain

SERVER = Path(__file__).with_name("kernel_server.c")
MEMBERS = {
    "bst_spike_conv": (
        *("rows_bytes", "prepare_rows", "theta_bytes", "prepare_theta", "scratch_bytes"),
        *("neuron", "affine", "level_neuron"),
    ),
    "bst_stem_neuron": ("constant_bytes", "prepare", "scratch_bytes", "run"),
}
"""Kernels whose versions are structs of pointers to functions."""
GUARD = 0xA5
GUARD_BYTES = 64


class Guarded:
    """Output memory between two guards; `take` checks them and returns the values."""

    def __init__(self, shape, dtype):
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.n_bytes = int(np.prod(shape)) * self.dtype.itemsize
        self.memory = aligned(self.n_bytes + 2 * GUARD_BYTES)
        self.memory[:] = GUARD

    @property
    def _as_parameter_(self):
        return ctypes.c_void_p(self.memory.ctypes.data + GUARD_BYTES)

    def take(self):
        inner = slice(GUARD_BYTES, GUARD_BYTES + self.n_bytes)
        outside = np.delete(self.memory, np.arange(inner.start, inner.stop))
        assert (outside == GUARD).all(), "wrote outside its output"
        return self.memory[inner].copy().view(self.dtype).reshape(self.shape)


class Table:
    """A struct of pointers by its name, to hand to a kernel."""

    def __init__(self, name):
        self.name = name


class Native:
    """The kernels of a library that exports them."""

    def __init__(self, library: ctypes.CDLL):
        self.library = library

    def _function(self, name):
        table, _, member = name.partition(".")
        if not member:
            return getattr(self.library, name)
        members = MEMBERS[table.partition("__")[0]]
        pointers = (ctypes.c_void_p * len(members)).in_dll(self.library, table)
        prototype = ctypes.CFUNCTYPE(ctypes.c_size_t)
        return prototype(pointers[members.index(member)])

    def call(self, name, *arguments):
        """Call with ints as int32, other arguments as pointers; return the size returned."""
        function = self._function(name)
        function.restype = ctypes.c_size_t
        return function(*(self._convert(a) for a in arguments))

    def _convert(self, argument):
        if isinstance(argument, Table):
            return ctypes.byref(ctypes.c_void_p.in_dll(self.library, argument.name))
        return _pointer(argument) if isinstance(argument, np.ndarray) else argument


def _pointer(array):
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


class Emulated:
    """The kernels of another target under its emulator."""

    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def call(self, name, *arguments):
        """As Native.call; inputs must come back unharmed."""
        encoded = name.encode()
        request = [struct.pack("<I", len(encoded)), encoded, struct.pack("<I", len(arguments))]
        request += [self._encode(a) for a in arguments]
        self.process.stdin.write(b"".join(request))
        self.process.stdin.flush()
        (value,) = struct.unpack("<Q", self._read(8))
        for argument in arguments:
            if isinstance(argument, Guarded):
                argument.memory[:] = np.frombuffer(self._read(argument.memory.nbytes), np.uint8)
            elif isinstance(argument, np.ndarray):
                assert self._read(argument.nbytes) == argument.tobytes(), "an input was changed"
        return value

    def _encode(self, argument):
        if isinstance(argument, Guarded):
            head = struct.pack("<BQQ", 1, argument.memory.nbytes, GUARD_BYTES)
            return head + argument.memory.tobytes()
        if isinstance(argument, np.ndarray):
            return struct.pack("<BQQ", 1, argument.nbytes, 0) + argument.tobytes()
        if isinstance(argument, Table):
            name = argument.name.encode()
            return struct.pack("<BI", 2, len(name)) + name
        if argument is None:
            return struct.pack("<Bq", 0, 0)
        return struct.pack("<Bq", 0, getattr(argument, "value", argument))

    def _read(self, n_bytes):
        found = self.process.stdout.read(n_bytes)
        assert len(found) == n_bytes, f"the server ended: {self.process.poll()}"
        return found

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(timeout=60) == 0
        self.process.stdout.close()


class Version:
    """The kernels of one instruction set on one machine.

    A kernel's name is "stream_neuron" (a function `bst_stream_neuron__<isa>`), "spike_conv.neuron"
    (a member of `bst_spike_conv__<isa>`) or a whole name that begins with "bst_".
    """

    def __init__(self, machine, isa, n_parts=1):
        self.machine, self.isa, self.n_parts = machine, isa, n_parts

    def call(self, name, *arguments):
        """Call a function of this instruction set; return what it returns, as a size."""
        return self.machine.call(self._full_name(name), *arguments)

    def run(self, name, *arguments):
        """Run a kernel, its work shared by `n_parts` calls in descending order."""
        for part in reversed(range(self.n_parts)):
            self.call(name, part, self.n_parts, *arguments)

    def memory(self, name, *arguments):
        """Guarded memory of the size that a function tells."""
        return Guarded((int(self.call(name, *arguments)),), np.uint8)

    def table(self, kernel):
        """Return the struct of pointers of this instruction set."""
        return Table(self._full_name(kernel))

    def _full_name(self, name):
        if name.startswith("bst_"):
            return name
        kernel, dot, member = name.partition(".")
        return f"bst_{kernel}__{self.isa}{dot}{member}"


def emulated(target, *emulator_args):
    """Start the server of a target, or return the reason why not."""
    emulator = toolchain.find_emulator(target)
    if emulator is None:
        return f"no emulator for {target}"
    return Emulated([*emulator, *emulator_args, toolchain.build_program(SERVER, target)])
