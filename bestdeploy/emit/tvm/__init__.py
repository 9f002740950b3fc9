"""Machine code from TVM for steps of a Program; the one room that imports tvm.

    build_object(program, range(a, b), target) -> bytes of net.o

The object holds two functions that a plain C program calls, without libtvm or libtvm_ffi, through
the calling convention of TVM's packed functions (`tests/bestdeploy/emit/tvm_host.c` does it):

    __tvm_ffi_prepare(constants, weights)           once: weights and thresholds in kernel layout
    __tvm_ffi_main(in.., weights, arena, out..)     one frame through the steps

    constants  uint8  the DATA section of the `.bstm`, in place
    weights    uint8  written by prepare, read by main
    in, out    the buffers that cross the border of the range, by ascending number: spikes uint64
               [T, H, W, n_words], streams int32 [T, H, W, C]
    arena      uint8  the Program's arena at the Program's offsets, then scratch

Offsets and sizes stand in `plan(program, steps)`. Every tensor is compact and 64-byte aligned; a
wrong shape or type makes the call return non-zero after a call of the host's
`TVMFFIErrorSetRaisedFromCStrParts`. The body calls the C kernels of libbst, so that the object,
libbst.a and the host are all that is linked. Supported are the ops of `OPS`.
"""

from bestdeploy.emit.tvm.build import TARGETS, build_object, canary, check_versions
from bestdeploy.emit.tvm.layout import OPS, Plan, Port, constants_blob, plan

__all__ = [
    "OPS",
    "TARGETS",
    "Plan",
    "Port",
    "build_object",
    "canary",
    "check_versions",
    "constants_blob",
    "plan",
]
