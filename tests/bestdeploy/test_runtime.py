"""The Python view of the C runtime, on a tiny hand-made program."""

from __future__ import annotations

import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tiny_bstm import CIN, D, H, K, T, W, tiny_bytes

from bestdeploy import images, runtime
from bestdeploy.errors import (
    ArtifactError,
    InputError,
    NativeError,
    UnsupportedModelError,
    VerificationError,
)


@pytest.fixture(scope="module")
def content() -> bytes:
    return tiny_bytes()


@pytest.fixture(scope="module")
def model(content) -> runtime.Model:
    return runtime.load(content)


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return images.builtin_images((H, W, CIN), 16)


def test_facts(model):
    assert model.input_shape == (H, W, CIN)
    assert (model.classes, model.n_steps, model.n_golden) == (K, T, 2)
    assert model.model_bytes % 64 == 0 and model.arena_bytes % 64 == 0
    assert model.meta["preprocessing"]["resize"] == "short-side"
    assert model.steps()[0].name == "stem"
    assert model.steps()[0].op == "stem_neuron"
    assert model.steps()[-1].outputs[0] == runtime.OutputInfo("raw", (K,), 8 * K)


def test_logits_are_the_raw_integers_scaled(model, frames):
    raw, logits = model.run_raw(frames), model.run(frames)
    assert raw.dtype == np.int64 and raw.shape == (16, K)
    expected = (raw.astype(np.float64) * 2.0**-model.logit_shift).astype(np.float32)
    np.testing.assert_array_equal(logits, expected)
    assert len(np.unique(raw, axis=0)) > 1


def test_batches_and_threads_change_nothing(content, model, frames):
    one_by_one = np.concatenate([model.run_raw(f[None]) for f in frames])
    np.testing.assert_array_equal(model.run_raw(frames), one_by_one)
    for threads in (2, 3, 20):
        threaded = runtime.load(content, threads=threads)
        np.testing.assert_array_equal(threaded.run_raw(frames), one_by_one)


def test_one_model_may_be_called_from_many_threads(model, frames):
    expected = model.run_raw(frames)
    with ThreadPoolExecutor(4) as pool:
        for raw in pool.map(lambda _: model.run_raw(frames), range(20)):
            np.testing.assert_array_equal(raw, expected)


def test_views_and_empty_batches(model, frames):
    np.testing.assert_array_equal(
        model.run_raw(frames[::-1]), model.run_raw(np.ascontiguousarray(frames[::-1]))
    )
    assert model.run(frames[:0]).shape == (0, K)


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (np.zeros((1, H, W, CIN), np.float32), "x has dtype float32, expected uint8"),
        (np.zeros((1, H, W + 1, CIN), np.uint8), r"x has shape \[1, 4, 5, 1\], expected \[B, 4"),
        (np.zeros((H, W, CIN), np.uint8), r"x has shape \[4, 4, 1\]"),
        ([[1]], "x is a list, expected a numpy array"),
    ],
)
def test_wrong_input_is_named(model, x, says):
    with pytest.raises(InputError, match=says):
        model.run(x)


def test_golden(model):
    assert model.verify_golden() == 2
    frame, raw = model.golden()[0]
    np.testing.assert_array_equal(model.run_raw(frame[None])[0], raw)
    wrong = runtime.load(tiny_bytes(wrong=True))
    with pytest.raises(VerificationError, match="golden vector 0: raw logit 0 is"):
        wrong.verify_golden()


def test_probe_sees_every_output(model, frames):
    raw, taps = model.run_probed(frames[4])
    np.testing.assert_array_equal(raw, model.run_raw(frames[4:5])[0])
    assert [len(t) for t in taps.values()] == [len(s.outputs) for s in model.steps()]
    spikes = taps["stem"][0]
    assert spikes.data.dtype == np.uint64 and spikes.data.shape == (T, H, W, 1)
    values = spikes.values()
    assert values.shape == (T, H, W, D) and set(np.unique(values)) <= {0, 1}
    assert int(spikes.data.max()) < 1 << D  # the padding bits are zero
    assert taps["embed"][0].values().dtype == np.int32
    residual, fired = taps["block.residual"]
    assert residual.info.kind == "stream" and fired.info.kind == "spikes"
    np.testing.assert_array_equal(taps["head"][0].data, raw)
    assert model.run_raw(frames[:1]).shape == (1, K)  # the probe is off again


def test_the_stem_neuron_is_the_normative_one(model, frames):
    """x from the conv, h = (v + x) >> 1, hard reset: recomputed from the residual's spikes."""
    _, taps = model.run_probed(frames[4])
    x2, fired = (t.values() for t in taps["block.residual"])
    v = np.zeros(x2.shape[1:], np.int64)
    for t in range(T):
        h = (v + x2[t]) >> 1
        spike = h >= 1 << 19
        np.testing.assert_array_equal(fired[t], spike)
        v = np.where(spike, 0, h)


def test_profile_covers_every_step(model, frames):
    profile = model.profile(frames[0], repeats=3)
    assert len(model.profile(repeats=1)) == len(profile)
    assert [p.step.name for p in profile] == [s.name for s in model.steps()]
    assert all(p.us >= 0 for p in profile)


def test_isa(content, model):
    assert runtime.load(content, isa=model.isa).isa == model.isa
    with pytest.raises(UnsupportedModelError, match="isa `avx9`"):
        runtime.load(content, isa="avx9")


def test_damaged_files_give_a_status(content, tmp_path):
    flipped = bytearray(content)
    flipped[len(flipped) // 2] ^= 1
    for bad in (b"", b"BSTM", content[:-1], bytes(flipped), b"\0" * 200):
        with pytest.raises(NativeError) as caught:
            runtime.load(bad)
        assert caught.value.status in ("BAD_FILE", "BAD_ARGUMENT", "UNSUPPORTED")
        assert caught.value.exit_code == (4 if caught.value.status == "UNSUPPORTED" else 7)
    newer = bytearray(content)
    struct.pack_into("<H", newer, 4, 9)
    with pytest.raises(NativeError) as caught:
        runtime.load(bytes(newer))
    assert (caught.value.status, caught.value.exit_code) == ("UNSUPPORTED", 4)
    with pytest.raises(ArtifactError, match="cannot read"):
        runtime.load(tmp_path / "none.bstm")


def test_a_file_on_disk_and_a_bundle_folder(content, model, frames, tmp_path):
    (tmp_path / "model.bstm").write_bytes(content)
    for path in (tmp_path / "model.bstm", str(tmp_path)):
        np.testing.assert_array_equal(runtime.load(path).run(frames), model.run(frames))


def test_the_runtime_needs_only_numpy():
    code = (
        "import sys; import bestdeploy.runtime;"
        "print([m for m in ('torch', 'onnx', 'onnx_ir', 'onnxruntime', 'tvm', 'typer', 'rich',"
        " 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
