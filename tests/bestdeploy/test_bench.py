"""bench: intervals, answers, every engine that is installed, pictures."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import os
import re

import numpy as np
import pytest
from random_nets import Spec, images_of, save

from bestdeploy import _bench, _printing, cli, deploy, errors, plots, runtime
from bestdeploy._bench import engine, peers
from bestdeploy._bench.statistics import TOLERANCE, compare, ratio_interval

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

SPEC = Spec(seed=31, dim=16, heads=2, depth=1, n_steps=2, size=8, channels=1, classes=5)
FORMS = (
    SPEC,
    dataclasses.replace(SPEC, attention="kv", layout="imagenet", size=16, channels=3, biased=True),
    dataclasses.replace(SPEC, events=True, channels=2, n_steps=3, decay_input=False, tau=2.5),
    dataclasses.replace(SPEC, n_steps=1, residual="plain", variant="paper", binariser="hard"),
)
CHOSEN = {"torch": "torch:eager", "onnxruntime-int8": "onnxruntime-int8:dynamic-u8s8"}


def installed() -> list[str]:
    """Every engine that is here, in a variant that needs no long preparation."""
    rows = [peers.peer(name)[0] for name in _bench.COMPETITORS]
    here = [r.name for r in rows if all(importlib.util.find_spec(p) for p in r.packages)]
    return [CHOSEN.get(name, name) for name in here]


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """Folder with model.onnx, model.float.onnx and frames.npz."""
    folder = tmp_path_factory.mktemp("net")
    np.savez(folder / "frames.npz", images=images_of(SPEC, 6))
    np.save(folder / "frames.npy", images_of(SPEC, 6))
    deploy.export(save(folder / "ckpt.pt", SPEC), folder / "model.onnx")
    return folder


@pytest.fixture(scope="module")
def report(net):
    return deploy.bench(
        net / "model.onnx", against=installed(), data=net / "frames.npz", limit=5, seconds=0.1
    )


# ------------------------------------------------------------------- numbers


def test_interval_of_a_ratio():
    rng = np.random.default_rng(3)
    ours = rng.lognormal(0, 0.3, 400)
    peer = 3 * rng.lognormal(0, 0.3, 400)
    low, high = ratio_interval(peer, ours)
    assert low < np.median(peer) / np.median(ours) < high
    assert low < 3 < high and high - low < 0.6
    assert ratio_interval(peer, ours) == (low, high)
    few = ratio_interval(peer[:40], ours[:40])
    assert few[1] - few[0] > high - low
    assert ratio_interval(ours, ours) == (1, 1)
    assert ratio_interval(np.array([4.0]), np.array([2.0])) == (2, 2)


def test_slow_phases_that_hit_both_do_not_widen_it():
    phases = np.repeat([1.0, 5.0, 1.0, 2.0], 50)
    low, high = ratio_interval(2 * phases, phases)
    assert low == high == 2


@pytest.mark.parametrize(
    "change, mark, n_moved",
    [
        (np.zeros(2), "exact", 0),
        (np.array([0, 0.9 * TOLERANCE]), "exact", 0),
        (np.array([0.2, 0]), "same top-1", 2),
        (np.array([-1, 1]), "changes the answer (2 of 3)", 2),
        (np.array([np.nan, 0]), "changes the answer (2 of 3)", 2),
    ],
)
def test_marks(change, mark, n_moved):
    reference = np.array([[0.5, 0.0], [0.9, 0.1], [0.0, 1.0]])
    logits = reference.copy()
    logits[:2] += change
    answer = compare(logits, reference)
    assert (answer.mark, answer.n_moved) == (mark, n_moved)
    assert answer.n_frames == 3
    largest = answer.max_logit_difference
    assert math.isnan(largest) or abs(largest - np.abs(change).max()) < 1e-12


def test_a_tie_of_the_reference_is_no_answer_to_change():
    reference = np.array([[1.0, 1.0 - TOLERANCE / 2, 0.0]])
    assert compare(reference[:, [1, 0, 2]], reference).mark == "exact"
    assert compare(reference[:, [2, 1, 0]], reference).mark.startswith("changes the answer (1")


def test_the_tolerance_is_relative_above_1():
    reference = np.array([[100.0, 0.0]])
    assert compare(reference + 50 * TOLERANCE, reference).mark == "exact"
    assert compare(reference + 200 * TOLERANCE, reference).mark == "same top-1"


# ------------------------------------------------------------------- engines


def test_every_installed_engine(report, net):
    assert ["c", *installed()] == [
        f"{row.name}:{row.variant}" if row.variant else row.name for row in report.rows
    ]
    for row in report.rows:
        assert 0 < row.min_us <= row.p10_us <= row.median_us <= row.p90_us <= row.p99_us
        assert len(row.samples_us) == report.n_rounds >= engine.MIN_ROUNDS
        assert row.ratio_low <= row.ratio <= row.ratio_high
        assert row.cpu_us > 0 and row.cpu_ratio > 0
        assert row.load_ms > 0 and row.threads == 1 and row.settings
        assert row.model_bytes > 0
        assert row.peak_bytes is None or row.peak_bytes > row.memory_bytes >= 0
        assert row.answer.n_frames == 5
    ours = report.rows[0]
    assert ours.ratio == ours.ratio_low == ours.ratio_high == 1
    assert ours.model == str(net / "model.onnx") and ours.version is None
    for row in report.rows[1:]:
        assert row.version
        of_ours = row.name == "ort" or row.name.startswith("tvm-")
        assert row.model == str(net / ("model.onnx" if of_ours else "model.float.onnx"))
        assert row.is_exact or not of_ours
    assert report.n_frames == 5 and report.frames == str(net / "frames.npz")
    assert 0 < report.firing_rate < 1
    assert report.machine["n_usable_cpus"] >= 1


def test_our_kernels_in_onnxruntime_give_our_answer(report):
    answers = {row.name: row.answer for row in report.rows}
    assert answers["ort"] == answers["c"]


def test_model_onnx_is_found_beside_the_float_network(net, tmp_path):
    (tmp_path / "model.bstm").write_bytes(_bench.lowered_bytes(net / "model.onnx"))
    float_model = net / "model.float.onnx"
    found = deploy.bench(tmp_path / "model.bstm", float_model, against=["ort"], seconds=0.1)
    assert [row.model for row in found.rows[1:]] == [str(net / "model.onnx")]


def test_float32_engines_give_the_float_answer(report):
    marks = {row.name: row.answer.mark for row in report.rows}
    for name in ("onnxruntime", "openvino-f32", "torch"):
        assert marks.get(name, "exact") == "exact"
    assert not marks["c"].startswith("changes")


def test_a_changed_answer_is_marked(net, tmp_path):
    """The float network with its classes turned round answers otherwise than ours."""
    import onnx

    changed = onnx.load(net / "model.float.onnx")
    (last,) = (n for n in changed.graph.node if "logits" in n.output)
    last.output[0] = "turned"
    changed.graph.initializer.append(onnx.numpy_helper.from_array(np.arange(5)[::-1], "order"))
    turn = onnx.helper.make_node("Gather", ["turned", "order"], ["logits"], axis=1)
    changed.graph.node.append(turn)
    onnx.save(changed, tmp_path / "changed.onnx")
    found = deploy.bench(net / "model.onnx", tmp_path / "changed.onnx", seconds=0.1)
    ours, theirs = found.rows
    assert re.fullmatch(r"changes the answer \(\d+ of \d+\)", ours.answer.mark)
    assert ours.answer.n_top1_different > 0
    assert theirs.answer.mark == "exact", "the reference is this file itself"


def test_frames(net):
    golden = deploy.bench(net / "model.onnx", against=(), seconds=0.1)
    assert golden.frames == "golden frames of the file"
    assert golden.n_frames == runtime.load(_bench.lowered_bytes(net / "model.onnx")).n_golden
    assert golden.reference is None and golden.rows[0].answer is None


def test_a_paused_engine_does_nothing(net):
    """What several threads need: pools of idle engines would spin in the others' turns."""
    with engine.Engine("c") as child:
        child.pause()
        _, status = os.waitpid(child._process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        child.resume()
        (net / "model.bstm").write_bytes(_bench.lowered_bytes(net / "model.onnx"))
        assert child.open(net / "model.bstm", net / "frames.npy", 1)["n_threads"] == 1
        times = engine.measure([child, child], 0.01, threads=2)
        assert times.shape[1] == 2 and (times > 0).all()


def test_two_threads(net):
    found = deploy.bench(net / "model.onnx", threads=2, seconds=0.1)
    assert [row.threads for row in found.rows] == [2, 2]
    assert found.rows[1].answer.mark == "exact"


def test_more_threads_than_processors_are_noted(net, monkeypatch):
    monkeypatch.setattr(_bench, "_machine", lambda: {"n_usable_cpus": 1,
                                                     "load_average_before": 9.0})  # fmt: skip
    notes = " ".join(deploy.bench(net / "model.onnx", threads=2, seconds=0.1).notes)
    assert "2 threads share 1 processors" in notes and "other work is running" in notes


def test_names_and_variants():
    row, variant = peers.peer("onnxruntime-int8:static-qdq-s8s8")
    assert row.name == "onnxruntime-int8" and variant == "static-qdq-s8s8"
    assert peers.peer("openvino") == (peers.peer("openvino")[0], "")
    with pytest.raises(errors.UsageError, match="unknown variant `int4` of onnxruntime-int8"):
        peers.peer("onnxruntime-int8:int4")
    with pytest.raises(errors.UsageError, match=r"unknown variant `x` of openvino, .* one only"):
        peers.peer("openvino:x")


def test_a_variant_that_fails_is_left_out_and_noted(net, monkeypatch):
    pytest.importorskip("onnx")
    row, _ = peers.peer("onnxruntime-int8")
    broken = dataclasses.replace(row, variants=lambda: ("int4", "dynamic-u8s8", "dynamic-u8u8"))
    monkeypatch.setattr(peers, "_PEERS", (broken,))
    monkeypatch.setattr(_bench.Engine, "__init__", engine.Engine.__init__)
    monkeypatch.setattr(_bench, "peer", lambda _name: peers.peer("onnxruntime-int8"))
    found = deploy.bench(net / "model.onnx", against=["onnxruntime-int8"], seconds=0.1)
    assert set(found.tried) == {"onnxruntime-int8:dynamic-u8s8", "onnxruntime-int8:dynamic-u8u8"}
    best = min(found.tried, key=found.tried.get)
    assert f"onnxruntime-int8:{found.rows[1].variant}" == best
    assert any("onnxruntime-int8:int4 was not run" in note for note in found.notes)


def test_a_process_that_dies_is_an_error(net):
    with engine.Engine("onnxruntime") as child:
        child._process.kill()
        with pytest.raises(errors.ArtifactError, match="onnxruntime fails: its process ended"):
            child.open(net / "model.float.onnx", net / "frames.npy", 1)
    assert child._process.poll() is not None


@pytest.mark.parametrize("spec", FORMS, ids=["qk", "kv", "events", "plain"])
def test_the_float_network_in_torch(spec, tmp_path):
    pytest.importorskip("torch")
    from bestdeploy import onnxruntime, torch_peer

    deploy.export(save(tmp_path / "ckpt.pt", spec), tmp_path / "model.onnx")
    path = tmp_path / "model.float.onnx"
    theirs = onnxruntime.load(path, batch=1)
    for way in ("eager", "eager-channels-last"):
        ours = torch_peer.load(path, way=way)
        assert ours.input_shape == spec.frame_shape
        for frame in images_of(spec, 4):
            found = ours.call(ours.feed(frame[None]))
            (expected,) = theirs.call(theirs.feed(frame[None]))
            np.testing.assert_allclose(found, expected, atol=1e-4)


def test_compiled_torch_is_offered_where_there_is_a_compiler(monkeypatch):
    from bestdeploy import torch_peer

    monkeypatch.setattr(torch_peer.shutil, "which", lambda _name: None)
    assert torch_peer.ways() == ("eager", "eager-channels-last")
    monkeypatch.setattr(torch_peer.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert "inductor" in torch_peer.ways()


def test_int8_routes(net):
    pytest.importorskip("onnx")
    from bestdeploy import onnxruntime, onnxruntime_int8

    path, frames = net / "model.float.onnx", images_of(SPEC, 20)
    plain = onnxruntime.load(path, batch=1)
    expected = [plain.call(plain.feed(frame[None]))[0] for frame in frames[:4]]
    files = {r: onnxruntime_int8.quantised(path, frames, r) for r in onnxruntime_int8.ROUTES}
    assert len({file.read_bytes() for file in files.values()}) == len(files)
    for route, file in files.items():
        model = onnxruntime.load(file, batch=1)
        found = [model.call(model.feed(frame[None]))[0] for frame in frames[:4]]
        assert not np.array_equal(found, expected), f"{route} has quantised nothing"
        again = onnxruntime_int8.quantised(path, frames, route)
        assert again == file and again.stat().st_mtime_ns == file.stat().st_mtime_ns
        assert [p.name for p in file.parent.iterdir()] == [file.name]
    other = onnxruntime_int8.quantised(path, frames[::-1], "static-qdq-u8s8")
    assert other != files["static-qdq-u8s8"], "other frames calibrate another file"


# ------------------------------------------------------------------- command line and pictures


def test_json_has_everything(net, capsys):
    words = ["bench", str(net / "model.onnx"), "--seconds", "0.1", "--json"]
    assert cli.main(words) == 0
    document = json.loads(capsys.readouterr().out)
    assert {"cpu", "machine", "n_cpus", "packages"} <= set(document["environment"])
    result = document["result"]
    assert set(result) == {f.name for f in dataclasses.fields(_bench.BenchReport)}
    for row in result["rows"]:
        assert set(row) == {f.name for f in dataclasses.fields(_bench.BenchRow)}
        assert len(row["samples_us"]) == result["n_rounds"]
        assert row["answer"]["mark"] in ("exact", "same top-1")


def test_the_table(report, capsys):
    _printing.print_benched(report, "a cpu")
    out = capsys.readouterr().out
    for name in ("c", *installed()):
        assert re.search(rf"^{re.escape(name)} ", out, re.MULTILINE)
    for word in ("median", "p99", "95 %", "answer", "memory", "load", "firing rate", "exact"):
        assert word in out
    assert "a cpu, kernels" in out


@pytest.mark.parametrize("suffix, magic", [("png", b"\x89PNG\r\n"), ("svg", b"<?xml")])
def test_pictures(report, net, tmp_path, suffix, magic):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra `bench`)")
    path = tmp_path / "new" / f"latency.{suffix}"
    deploy.bench(net / "model.onnx", seconds=0.1, plot=path)
    assert path.read_bytes().startswith(magic)
    plots.latency(report, "a net", tmp_path / f"all.{suffix}")
    plots.curve([report, report], "a net", tmp_path / f"curve.{suffix}")
    assert (tmp_path / f"curve.{suffix}").read_bytes().startswith(magic)
    if suffix == "svg":
        assert b"<svg" in path.read_bytes()


def test_a_picture_that_cannot_be_written_is_refused_at_once(net, tmp_path, monkeypatch):
    monkeypatch.setattr(_bench, "bench_model", lambda *_a, **_k: pytest.fail("it was measured"))
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    for place in (tmp_path / "file" / "a.png", tmp_path / "folder.png"):
        with pytest.raises(errors.OutputError, match="cannot write a picture"):
            deploy.bench(net / "model.onnx", plot=place)
    with pytest.raises(errors.UsageError, match="must end in"):
        deploy.bench(net / "model.onnx", plot=tmp_path / "a.pdf")
