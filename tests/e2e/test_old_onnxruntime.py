"""The oldest onnxruntime that the files promise to run in, in an environment of its own."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from bestdeploy import _export

OLDEST = ("onnxruntime==1.17.3", "numpy<2")
SCRIPT = """
import sys, numpy as np, onnxruntime
assert onnxruntime.__version__ == "1.17.3"
held = np.load(sys.argv[1])
for path in sys.argv[2:]:
    session = onnxruntime.InferenceSession(path)
    raw, logits = session.run(["raw", "logits"], {"image": held["images"]})
    assert np.array_equal(raw, held["raw"]) and np.array_equal(logits, held["logits"]), path
print("equal")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info >= (3, 13), reason="onnxruntime 1.17.3 has no wheel for it")
def test_bodies_run_in_onnxruntime_1_17(tmp_path, golden_checkpoint, golden_vectors):
    settings = {"attention": "qk", "tau": 2.0, "decay_input": True, "variant": "official"}
    report = _export.export(golden_checkpoint, tmp_path / "model.onnx", settings=settings)
    np.savez(tmp_path / "golden.npz", **golden_vectors)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", *OLDEST], check=True)
    files = [report.files["model"], report.files["std"]]
    done = subprocess.run(
        [python, "-c", SCRIPT, tmp_path / "golden.npz", *files],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "equal\n", done.stderr
