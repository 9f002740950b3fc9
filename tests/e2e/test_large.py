"""BESTformer-4-384 and 8-512 with calibrated random weights: size, equality, figures to report.

    make large     (or: pytest -m slow -s tests/e2e/test_large.py)

Times are printed, never asserted.
"""

from __future__ import annotations

import ctypes
import statistics
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from e2e import forms
from random_nets import Spec, images_of, save

from bestdeploy import _export, _verify, deploy, runtime

SPEC_384 = Spec(seed=7, dim=384, heads=8, depth=4, n_steps=4, size=32, channels=3, classes=10)
MAX_BYTES = int(1.28 * 2**20)
GOLDEN_KIND = 7


def bytes_without_golden(content: bytes) -> int:
    """Size of a .bstm less its section of golden vectors."""
    (n_sections,) = struct.unpack_from("<I", content, 12)
    table = [struct.unpack_from("<IIQQQ", content, 64 + 32 * i) for i in range(n_sections)]
    golden = sum(-(-size // 64) * 64 for kind, _, _, size, _ in table if kind == GOLDEN_KIND)
    return len(content) - golden


SPEC_512 = Spec(
    seed=8, dim=512, heads=8, depth=8, n_steps=4, size=224, channels=3, classes=1000,
    attention="kv", layout="imagenet",
)  # fmt: skip


def exported(spec: Spec, folder: Path, n_frames: int) -> np.ndarray:
    """Export and compile a network into a folder, printing what users see; return its frames."""
    checkpoint = save(folder / "net.pt", spec)
    frames = images_of(spec, n_frames)
    np.savez(folder / "frames.npz", images=frames)
    start = time.perf_counter()
    report = _export.export(checkpoint, folder / "model.onnx", data=[folder / "frames.npz"])
    print(f"\nexport {time.perf_counter() - start:.1f} s")
    for key, value in report.parity.items():
        print(f"  {key}: {value}")
    deploy.compile(folder / "model.onnx", output=folder / "bundle")
    (folder / "model.bstm").write_bytes((folder / "bundle" / "model.bstm").read_bytes())
    return frames


def check_every_form(folder: Path, frames: np.ndarray) -> None:
    """Compare every form there is on the frames; tolerance 0."""
    found = forms.raw_of_every_form(folder, frames, numpy_bodies=False, modules=True)
    _, expected = next(found)
    names = []
    for form, raw in found:
        np.testing.assert_array_equal(raw, expected, err_msg=form)
        names.append(form)
    print(f"0 differing raw logits on {len(frames)} frames: reference, {', '.join(names)}")
    forms.hold(folder, frames[:1])
    for where, text in forms.elsewhere([folder], folder / "venv"):
        print(f"0 differing raw logits {where}: {text}")
    if (reason := forms.missing_elsewhere()) is not None:
        print(reason)


def model_init_ms(content: bytes, isa: str) -> float:
    """Return the median of 10 calls of bst_model_init alone, what a device does at start."""
    library = ctypes.CDLL(str(runtime.library_path()))
    file = runtime._aligned(len(content))
    file[:] = np.frombuffer(content, np.uint8)
    given = (ctypes.c_void_p(file.ctypes.data), ctypes.c_size_t(file.nbytes), isa.encode())
    size, model, times = ctypes.c_size_t(), ctypes.c_void_p(), []
    assert library.bst_model_bytes(*given, ctypes.byref(size)) == 0
    buffer = runtime._aligned(size.value)
    for _ in range(10):
        start = time.perf_counter()
        status = library.bst_model_init(
            *given, ctypes.c_void_p(buffer.ctypes.data), size, ctypes.byref(model)
        )
        times.append(1e3 * (time.perf_counter() - start))
        assert status == 0
    return statistics.median(times)


def print_figures(folder: Path, frame: np.ndarray) -> None:
    """Print size, load time, latency beside ONNX Runtime, and where the time goes."""
    content = (folder / "model.bstm").read_bytes()
    runtime.load(content)  # builds the library
    for isa in runtime.isa_names():
        start = time.perf_counter()
        model = runtime.load(content, isa=isa)
        python_ms = 1e3 * (time.perf_counter() - start)
        assert model.isa == isa
        print(
            f"load, {isa}: bst_model_init {model_init_ms(content, isa):.1f} ms (median of 10), "
            f"in Python with the file check {python_ms:.1f} ms (once)"
        )
    engines = ("ort", "onnxruntime")
    bench = deploy.bench(folder / "bundle", folder / "model.float.onnx", engines, seconds=20)
    for row in bench.rows:
        milliseconds = f"median {row.median_us / 1e3:.1f} ms, p90 {row.p90_us / 1e3:.1f} ms"
        print(f"{row.name}: {milliseconds}, times ours {row.ratio:.2f}")
    model = runtime.load(content)
    steps = model.profile(frame, 10)
    total = sum(s.us for s in steps)
    for s in sorted(steps, key=lambda s: -s.us)[:12]:
        share = f"{100 * s.us / total:5.1f} %, {s.sops_per_second:.3g} SOPs/s"
        print(f"  {s.step.name:28s} {s.step.op:16s} {s.us:9.0f} us {share}")


@pytest.mark.slow
def test_4_384(tmp_path):
    frames = exported(SPEC_384, tmp_path, 4)
    size = bytes_without_golden((tmp_path / "model.bstm").read_bytes())
    print(f".bstm without golden vectors: {size} bytes = {size / 2**20:.4f} MiB")
    assert size <= MAX_BYTES
    verified = _verify.verify(
        tmp_path / "model.onnx", tmp_path / "bundle", data=[tmp_path / "frames.npz"]
    )
    assert verified.exact
    check_every_form(tmp_path, frames)
    print_figures(tmp_path, frames[0])


@pytest.mark.slow
def test_8_512(tmp_path):
    frames = exported(SPEC_512, tmp_path, 1)
    check_every_form(tmp_path, frames)
    print_figures(tmp_path, frames[0])
