"""Instruction sets: which are offered, what is refused, and what other processors choose."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess

import numpy as np
import programs
import pytest
from conftest import ISAS, copy_aligned, usable_isas

from bestdeploy import runtime, toolchain
from bestdeploy.emit.bstm import write_bstm
from bestdeploy.errors import MissingToolError, UnsupportedModelError

CONTENT = write_bstm(programs.with_golden(programs.network(), 2))


def size_of(library, isa):
    """Status and size that bst_model_bytes gives."""
    file, size = copy_aligned(CONTENT, 8), ctypes.c_size_t(7)
    where = (ctypes.c_void_p(file.ctypes.data), ctypes.c_size_t(len(CONTENT)))
    return library.bst_model_bytes(*where, isa, ctypes.byref(size)), size.value


def test_names_end_with_scalar(library):
    names = usable_isas(library)
    assert names[-1] == "scalar"
    assert set(names) <= set(ISAS)
    assert library.bst_isa_name(ctypes.c_uint32(len(names))) is None
    assert library.bst_isa_name(ctypes.c_uint32(2**32 - 1)) is None


def test_null_is_the_best(library):
    best = usable_isas(library)[0].encode()
    assert size_of(library, None) == size_of(library, best)
    assert library.bst_model_isa(None) == b""


@pytest.mark.parametrize("name", (b"avx9", b"", b"SCALAR", b"scala", b"scalar ", b"x" * 9999))
def test_unusable_names_are_refused(library, name):
    assert size_of(library, name) == (3, 7)
    text = library.bst_last_error().decode()
    assert text.startswith(f"isa `{name.decode()[:200]}")
    if len(name) < 100:
        assert text.endswith(
            "cannot be used on this machine, usable: " + ", ".join(usable_isas(library))
        )


def test_python_names(library, isa, monkeypatch):
    assert list(runtime.isa_names()) == usable_isas(library)
    assert runtime.load(CONTENT, isa=isa).isa == isa
    monkeypatch.setenv("BESTDEPLOY_ISA", isa)
    assert runtime.load(CONTENT).isa == isa
    assert runtime.load(CONTENT, isa="scalar").isa == "scalar"
    monkeypatch.setenv("BESTDEPLOY_ISA", "")
    assert runtime.load(CONTENT).isa == runtime.isa_names()[0]


def test_python_refuses_unusable_names(monkeypatch):
    with pytest.raises(UnsupportedModelError, match=r"usable: .*scalar"):
        runtime.load(CONTENT, isa="avx9")
    monkeypatch.setenv("BESTDEPLOY_ISA", "avx9")
    with pytest.raises(UnsupportedModelError, match="`avx9`") as caught:
        runtime.load(CONTENT)
    assert caught.value.where == "BESTDEPLOY_ISA"


def test_every_isa_gives_the_same_values_at_every_step(isa):
    """And the probe, on which profiles are built, sees every output with every kernel."""
    model, plain = runtime.load(CONTENT, isa=isa), runtime.load(CONTENT, isa="scalar")
    frame = np.random.default_rng(5).integers(0, 256, model.input_shape).astype(np.uint8)
    raw, taps = model.run_probed(frame)
    expected, expected_taps = plain.run_probed(frame)
    np.testing.assert_array_equal(raw, expected)
    assert taps.keys() == expected_taps.keys()
    for name, outputs in expected_taps.items():
        assert len(taps[name]) == len(outputs)
        for got, wanted in zip(taps[name], outputs, strict=True):
            np.testing.assert_array_equal(got.data, wanted.data)
    profile = model.profile(frame, 3)
    assert [p.step.name for p in profile] == [step.name for step in model.steps()]
    assert all(p.us > 0 for p in profile)


# ---- other processors, emulated -----------------------------------------------------------------

# target, model and features of the emulator's CPU, instruction sets it can use
PROCESSORS = (
    ("arm", "cortex-a53", ("neon", "scalar")),
    ("arm", "cortex-a72", ("neon", "scalar")),
    ("arm", "cortex-a76", ("neon", "scalar")),
    ("arm", "max", ("neon", "scalar")),
    ("armv7", "cortex-a7", ("neon", "scalar")),
    ("armv7", "max", ("neon", "scalar")),
    ("armv7", "cortex-a9,neon=off", ("scalar",)),
    ("armv7", "max,neon=off", ("scalar",)),
    ("x86-64", "max", ("avx2", "scalar")),
    ("x86-64", "Haswell", ("avx2", "scalar")),
    ("x86-64", "Haswell,-avx2", ("scalar",)),
    ("x86-64", "Haswell,-xsave", ("scalar",)),  # an operating system that does not save AVX
    ("x86-64", "Nehalem", ("scalar",)),
)


def emulator_of(target):
    """The emulator even where the machine runs the target itself."""
    for name in toolchain.find_target(target).emulators:
        path = shutil.which(name)
        if path:
            return path
    pytest.skip(f"no emulator for {target}")


@pytest.mark.parametrize("target, cpu, usable", PROCESSORS)
def test_processors(tmp_path, target, cpu, usable):
    """The best instruction set is found; what the processor lacks is refused, never executed."""
    emulator = emulator_of(target)
    try:
        if "neon=off" in cpu and toolchain.compiler_for(target).kind == "zig":
            pytest.skip("the C library that ziglang links is compiled for NEON")
        bst_run = toolchain.build_program("bst_run", target)
    except MissingToolError as error:
        pytest.skip(f"no compiler for {target}: {error}")
    path = tmp_path / "net.bstm"
    path.write_bytes(CONTENT)
    outcomes = []
    for isa in (None, "avx2", "neon", "scalar"):
        command = [emulator, "-cpu", cpu, bst_run, path, "--golden"]
        command += [] if isa is None else ["--isa", isa]
        environment = {k: v for k, v in os.environ.items() if k != "QEMU_CPU"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if isa is None or isa in usable:
            assert done.returncode == 0, (isa, done.stderr)
            assert json.loads(done.stdout) == {"golden": 2, "equal": 2}
            outcomes.append(f"{isa or 'best'} equal")
        else:
            assert done.returncode == 4, (isa, done.stderr)
            assert f"usable: {', '.join(usable)}\n" in done.stderr
            outcomes.append(f"{isa} refused")
    print(f"\n{target} -cpu {cpu}: {', '.join(outcomes)}")
