"""BESTformer-4-384 with calibrated random weights: size, equality, and the figures to report.

    make large     (or: pytest -m slow -s tests/e2e/test_large.py)

Times are printed, never asserted.
"""

from __future__ import annotations

import struct
import time

import numpy as np
import pytest
from random_nets import Spec, images_of, save

from bestdeploy import _export, _verify, deploy, runtime

SPEC = Spec(seed=7, dim=384, heads=8, depth=4, n_steps=4, size=32, channels=3, classes=10)
MAX_BYTES = int(1.28 * 2**20)
GOLDEN_KIND = 7


def bytes_without_golden(content: bytes) -> int:
    """Size of a .bstm less its section of golden vectors."""
    (n_sections,) = struct.unpack_from("<I", content, 12)
    table = [struct.unpack_from("<IIQQQ", content, 64 + 32 * i) for i in range(n_sections)]
    golden = sum(-(-size // 64) * 64 for kind, _, _, size, _ in table if kind == GOLDEN_KIND)
    return len(content) - golden


@pytest.mark.slow
def test_4_384(tmp_path):
    checkpoint = save(tmp_path / "r384.pt", SPEC)
    start = time.perf_counter()
    report = _export.export(checkpoint, tmp_path / "model.onnx")
    print(f"\nexport {time.perf_counter() - start:.1f} s")
    for key, value in report.parity.items():
        print(f"  {key}: {value}")
    deploy.compile(tmp_path / "model.onnx", output=tmp_path / "bundle")
    size = bytes_without_golden((tmp_path / "bundle" / "model.bstm").read_bytes())
    print(f".bstm without golden vectors: {size} bytes = {size / 2**20:.4f} MiB")
    assert size <= MAX_BYTES
    model = runtime.load(tmp_path / "bundle")
    frames = images_of(SPEC, 4)
    np.savez(tmp_path / "frames.npz", images=frames)
    verified = _verify.verify(
        tmp_path / "model.onnx", tmp_path / "bundle", data=tmp_path / "frames.npz"
    )
    assert verified.exact
    bench = deploy.bench(tmp_path / "bundle", tmp_path / "model.float.onnx", seconds=20)
    for row in bench.rows:
        milliseconds = f"median {row.median_us / 1e3:.1f} ms, p90 {row.p90_us / 1e3:.1f} ms"
        print(f"{row.name}: {milliseconds}, times ours {row.ratio:.2f}")
    steps = model.profile(frames[0], 10)
    total = sum(t for _, t in steps)
    for step, t in sorted(steps, key=lambda s: -s[1])[:12]:
        print(f"  {step.name:28s} {step.op:16s} {t:9.0f} us {100 * t / total:5.1f} %")
