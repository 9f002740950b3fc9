"""`inspect` on every kind of file, and on files that are none."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import weighted_nets
from onnx import TensorProto, helper
from random_nets import Spec, images_of, save
from tiny_bstm import CIN, H, W, tiny_bytes
from weighted_nets import Weighted

from bestdeploy import cli, deploy, runtime
from bestdeploy._bundle import lowered_bytes
from bestdeploy.emit.bstm import read_bstm
from bestdeploy.errors import (
    ArtifactError,
    BestDeployError,
    CheckpointError,
    InputError,
    MissingToolError,
    UnsupportedModelError,
    UsageError,
)
from bestdeploy.report import published

SPEC = Spec(seed=21, dim=24, heads=3, depth=1, n_steps=4, size=12, classes=5)
EVENTS = Spec(seed=22, dim=16, heads=2, depth=1, n_steps=3, size=20, channels=2, classes=3,
              attention="kv", layout="imagenet", events=True)  # fmt: skip
N_FRAMES = 4


@pytest.fixture(scope="module", params=[SPEC, EVENTS], ids=["images", "events"])
def exported(request, tmp_path_factory) -> Path:
    """A folder with ckpt.pt, its export, every dumped pass, its .bstm, and frames.npy."""
    folder = tmp_path_factory.mktemp("exported")
    save(folder / "ckpt.pt", request.param)
    np.save(folder / "frames.npy", images_of(request.param, N_FRAMES))
    deploy.export(
        folder / "ckpt.pt",
        folder / "model.onnx",
        data=[folder / "frames.npy"],
        dump_passes=folder / "passes",
    )
    (folder / "model.bstm").write_bytes(lowered_bytes(folder / "model.onnx"))
    return folder


def after(folder: Path, name: str) -> Path:
    """Return the graph dumped after a pass, whatever its number."""
    (found,) = folder.glob(f"[0-9][0-9]_{name}.onnx")
    return found


def call(capsys, *words) -> tuple[int, str, str]:
    code = cli.main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def activity(found: dict) -> list[dict]:
    return [x["activity"] for x in found["layers"] if x["spike_fed"]]


# ------------------------------------------------------------------- forms of one network


def test_every_integer_form_counts_the_same_spikes(exported):
    frames = exported / "frames.npy"
    forms = [after(exported / "passes", name) for name in ("pack", "prune")]
    forms += ["model.onnx", "model.bstm"]
    found = [deploy.inspect(exported / form, frames) for form in forms]
    for one in found[1:]:
        assert activity(one) == activity(found[0])
        assert one["work"] == found[0]["work"]
        assert one["parameters"] == found[0]["parameters"]
    assert found[0]["work"]["n_frames"] == N_FRAMES
    total = sum(a["sops"] for a in activity(found[0]))
    assert found[0]["work"]["sops_counted"] == total / N_FRAMES > 0


def test_recorded_rates_are_those_of_the_runtime(exported):
    model = runtime.load(exported / "model.bstm")
    spikes: dict[str, list[int]] = {}
    for frame in np.load(exported / "frames.npy"):
        for name, taps in model.run_probed(frame)[1].items():
            for tap in taps:
                if tap.info.kind == "spikes":
                    held = spikes.setdefault(name, [0, 0])
                    held[0] += int(tap.values().sum())
                    held[1] += int(np.prod(tap.info.shape))
    found = deploy.inspect(exported / "model.bstm", exported / "frames.npy")
    rates = {x["name"]: x["activity"]["firing_rate_out"] for x in found["layers"]}
    assert {n: r for n, r in rates.items() if r is not None} == {
        name: fired / places for name, (fired, places) in spikes.items()
    }
    kinds = {x["kind"]: x["activity"] for x in found["layers"] if x["kind"] in ("q k^T", "k^T v")}
    (attention,) = kinds.values()
    assert attention["firing_rate_in"] > 0 and attention["pairs"] is not None


def test_a_checkpoint_and_its_graph_say_the_same(exported):
    plain = deploy.inspect(exported / "ckpt.pt")
    graph = deploy.inspect(exported / "passes" / "00_spiking.onnx")
    keys = ("name", "kind", "input_shape", "output_shape", "macs", "n_weights", "times_per_frame")
    assert [[x[k] for k in keys] for x in plain["layers"]] == [
        [x[k] for k in keys] for x in graph["layers"]
    ]
    assert plain["work"] == graph["work"] and plain["parameters"] == graph["parameters"]
    assert plain["settings"]["missing"] == [] and not plain["settings"]["unusable"]
    recorded = deploy.inspect(exported / "ckpt.pt", exported / "frames.npy")
    assert activity(recorded) == activity(
        deploy.inspect(exported / "passes" / "00_spiking.onnx", exported / "frames.npy")
    )


@pytest.mark.parametrize(("trained", "bits"), [(0, 32), (1, 1), (4, 4)])
def test_bits_of_a_checkpoint_are_those_of_its_training(trained, bits, tmp_path):
    """Real weights are 32 bits before the export; those on a grid of b bits are b bits."""
    spec = Weighted("spikformer", seed=3, size=16, trained_bits=trained)
    settings = {} if trained else {"weight_bits": "8"}
    path = weighted_nets.save(tmp_path / "net.pt", spec)
    layers = deploy.inspect(path, settings=settings)["layers"]
    assert {x["weight_bits"] for x in layers if x["spike_fed"] and x["n_weights"]} == {bits}


def test_every_dumped_pass_is_described(exported):
    files = sorted((exported / "passes").glob("*.onnx"))
    assert len(files) > 10
    work = {}
    for file in files:
        found = deploy.inspect(file)
        work[file.name] = found["work"]["macs_per_step"]
        assert found["kind"] == "onnx" and "bestformer" in found["what"]
        assert found["sizes"]["file_bytes"] == file.stat().st_size
    unpruned = {n for file, n in work.items() if file < "13"}
    assert len(unpruned) == 1 and all(n <= min(unpruned) for n in work.values())


def test_standard_files_are_described(exported):
    packed = deploy.inspect(exported / "model.onnx")
    standard = deploy.inspect(exported / "model.std.onnx")
    floating = deploy.inspect(exported / "model.float.onnx")
    assert "standard ops" in standard["what"] and "float network" in floating["what"]
    assert standard["n_layers_of_unknown_shape"] == floating["n_layers_of_unknown_shape"] == 0
    trained = deploy.inspect(exported / "ckpt.pt")["work"]
    assert floating["total_macs"] == trained["spike_macs"] + trained["real_macs"]
    # In standard ops the first layer is three limbs, and the last MLP runs on spike counts.
    hidden = next(x for x in packed["layers"] if x["name"] == "readout.hidden")
    places = hidden["output_shape"][0] * hidden["output_shape"][1] * hidden["times_per_frame"]
    stem = packed["layers"][0]["total_macs"]
    work = packed["work"]
    assert standard["total_macs"] == (
        work["spike_macs"] + work["real_macs"] + 2 * stem - hidden["n_weights"] * (places - 1)
    )
    for name in ("model.std.onnx", "model.float.onnx"):
        with pytest.raises(UsageError, match="no spikes can be recorded") as caught:
            deploy.inspect(exported / name, exported / "frames.npy")
        assert "model.onnx" in caught.value.hint


def test_sizes_are_those_of_the_files(exported):
    content = (exported / "model.bstm").read_bytes()
    model, program = runtime.load(content), read_bstm(content)
    for name in ("model.bstm", "model.onnx"):
        sizes = deploy.inspect(exported / name)["sizes"]
        assert sizes["file_bytes"] == (exported / name).stat().st_size
        assert sizes.get("bstm_file_bytes", sizes["file_bytes"]) == len(content)
        assert sizes["model_bytes"] == model.model_bytes
        assert sizes["arena_bytes"] == model.arena_bytes
        assert sum(sizes["section_bytes"].values()) == len(content)
        assert sizes["section_bytes"]["meta"] == len(program.meta.encode())
        assert sum(sizes["constant_bytes_by_type"].values()) == sum(
            c.n_bytes for c in program.constants
        )
    weights = onnx.load(exported / "model.onnx").graph.initializer
    found = deploy.inspect(exported / "model.onnx")["sizes"]["weight_bytes_by_type"]
    assert sum(found.values()) == sum(onnx.numpy_helper.to_array(w).nbytes for w in weights)


def test_pruned_channels_are_told(exported):
    notes = json.loads(
        {p.key: p.value for p in onnx.load(exported / "model.onnx").metadata_props}["pruned"]
    )
    expected = {
        "layers": len(notes),
        "cut": sum(len(n["cut"]) for n in notes.values()),
        "of": sum(n["of"] for n in notes.values()),
    }
    assert expected["cut"] > 0
    for name in ("model.onnx", "model.bstm", "model.std.onnx", after(exported / "passes", "pack")):
        assert deploy.inspect(exported / name)["pruned"] == expected
    assert deploy.inspect(exported / "passes" / "00_spiking.onnx")["pruned"] is None


def test_limit_and_progress(exported):
    seen = []
    found = deploy.inspect(
        exported / "model.bstm",
        exported / "frames.npy",
        limit=2,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert found["work"]["n_frames"] == 2 and seen[-1] == (2, 2)


def test_energy_follows_its_constants(exported):
    found = deploy.inspect(exported / "model.bstm", exported / "frames.npy", energy="mac=2,ac=0.5")
    work = found["work"]
    assert work["energy_uj_counted"] == pytest.approx(
        1e-6 * (2 * work["real_macs"] + 0.5 * work["sops_counted"])
    )
    assert work["energy_uj_literature"] == pytest.approx(
        1e-6 * (2 * work["real_macs_literature"] + 0.5 * work["sops_rate"])
    )


def test_a_model_that_reads_one_stream(tmp_path):
    """The method as printed: no last MLP, one head that reads a stream as it is."""
    spec = Spec(seed=23, dim=24, heads=3, depth=1, n_steps=3, size=12, classes=3,
                variant="paper", decay_input=False, residual="plain")  # fmt: skip
    save(tmp_path / "ckpt.pt", spec)
    frames = tmp_path / "frames.npy"
    np.save(frames, images_of(spec, N_FRAMES))
    dumped = tmp_path / "passes"
    deploy.export(tmp_path / "ckpt.pt", tmp_path / "model.onnx", dump_passes=dumped)
    (tmp_path / "model.bstm").write_bytes(lowered_bytes(tmp_path / "model.onnx"))
    graph = deploy.inspect(after(dumped, "pack"), frames)
    program = deploy.inspect(tmp_path / "model.bstm", frames)
    assert activity(program) == activity(graph) and program["work"] == graph["work"]
    assert program["parameters"] == graph["parameters"]
    assert program["parameters"]["scales"] == 3


def test_memory_does_not_grow_with_the_data(tmp_path):
    model = tmp_path / "tiny.bstm"
    model.write_bytes(tiny_bytes())

    def peak(n_frames: int) -> int:
        file = tmp_path / "frames.npy"
        np.save(file, np.random.default_rng(0).integers(0, 256, (n_frames, H, W, CIN), np.uint8))
        tracemalloc.start()
        try:
            found = deploy.inspect(model, file)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            assert found["work"]["n_frames"] == n_frames

    few, many = 64, 2560
    peak(few)  # what is imported and cached at first use
    kept = many * sum(  # bytes if the spikes of all frames were held
        int(np.prod(o.shape)) for x in runtime.load(model).steps() for o in x.outputs
        if o.kind == "spikes"
    )  # fmt: skip
    assert peak(many) < peak(few) + kept / 4


# ------------------------------------------------------------------- checkpoints


@pytest.fixture(scope="module")
def published_checkpoint(tmp_path_factory) -> Path:
    """BESTformer 4-384 of CIFAR-10 as its authors would save it: shapes, nothing in `args`."""
    state = {
        name: torch.ones(shape)
        for name, shape in published.state_shapes(published.MODELS[0]).items()
    }
    path = tmp_path_factory.mktemp("published") / "model_best.pth.tar"
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "args": None}, path)
    return path


def test_a_published_checkpoint_without_settings(published_checkpoint, capsys):
    found = deploy.inspect(published_checkpoint)
    assert found["parameters"]["total"] == 9_314_884
    assert f"{found['parameters']['paper_mib']:.2f}" == "1.18"
    assert found["layers"] == [] and found["layers_need"] == ["image_size", "attention"]
    missing = {x["name"] for x in found["settings"]["missing"]}
    assert {"image_size", "attention", "mean", "std", "tau"} <= missing
    net = found["skeleton"]
    assert (net["n_steps"], net["depth"], net["dim"], net["heads"]) == (4, 4, 384, 8)
    assert "4-384, cifar layout" in found["what"]

    code, out, _ = call(
        capsys, "inspect", published_checkpoint, "--set", "image_size=32", "--set", "attention=qk"
    )
    assert code == 0
    assert "932.7 M per step, 3.731 G per frame (T = 4)" in out
    assert "9314884: 9275904 binary, 1296 conv0, 29856 batch norm, 7700 heads, 128 lambda" in out
    assert "1.18 MiB" in out and "5.316 M where the first layer is counted T times" in out


def test_safetensors_hold_no_settings(tmp_path):
    from safetensors.torch import save_file

    content = torch.load(save(tmp_path / "net.pt", SPEC), weights_only=True)
    save_file(content["state_dict"], tmp_path / "net.safetensors")
    found = deploy.inspect(tmp_path / "net.safetensors")
    with_args = deploy.inspect(tmp_path / "net.pt")
    assert found["parameters"] == with_args["parameters"]
    assert found["layers"] == [] and found["settings"]["missing"]
    given = {"image_size": str(SPEC.size), "attention": "qk"}
    layers = deploy.inspect(tmp_path / "net.safetensors", settings=given)["layers"]
    assert layers == with_args["layers"]


def test_settings_that_do_not_fit(published_checkpoint, tmp_path):
    with pytest.raises(UsageError, match="--set atention") as caught:
        deploy.inspect(published_checkpoint, settings={"atention": "qk"})
    assert "attention" in caught.value.hint
    with pytest.raises(UsageError, match="attention='x'"):
        deploy.inspect(published_checkpoint, settings={"attention": "x"})
    config = tmp_path / "net.toml"
    config.write_text('[model]\nfamily = "bestformer"\nimage_size = 32\nattention = "kv"\n')
    found = deploy.inspect(published_checkpoint, config=config)
    assert found["settings"]["found"]["attention"] == {"value": "kv", "from": "--config"}
    assert [x["kind"] for x in found["layers"] if "k^T" in x["kind"]] == ["k^T v"] * 4


def test_settings_of_the_file_that_are_not_usable(tmp_path):
    path = save(tmp_path / "net.pt", SPEC)
    content = torch.load(path, weights_only=True)
    content["args"]["tau"] = "quick"
    torch.save(content, path)
    found = deploy.inspect(path)
    assert "tau='quick'" in found["settings"]["unusable"]["tau"]
    assert found["layers"]


def test_frames_need_the_settings(published_checkpoint, tmp_path):
    np.save(tmp_path / "frames.npy", np.zeros((1, 32, 32, 3), np.uint8))
    with pytest.raises(UnsupportedModelError, match="does not say"):
        deploy.inspect(published_checkpoint, tmp_path / "frames.npy")


def test_checks_of_a_checkpoint(tmp_path):
    path = save(tmp_path / "net.pt", SPEC)
    content = torch.load(path, weights_only=True)
    gammas = [k for k in content["state_dict"] if k.endswith("_bn.weight")]
    n_zero = sum(int((content["state_dict"][k] == 0).sum()) for k in gammas)
    scale = content["state_dict"]["block.0.attn.lambda_attn"]
    checks = deploy.inspect(path)["checks"]
    assert checks["gamma_zero"] == n_zero > 0
    assert checks["lambda_range"] == [float(scale.min()), float(scale.max())]
    assert checks["lambda_not_positive"] == int((scale <= 0).sum()) > 0
    content["state_dict"]["head.bias"][0] = float("nan")
    torch.save(content, path)
    assert deploy.inspect(path)["checks"]["tensors_not_finite"] == ["head.bias"]


FOREIGN = {
    "QKFormer": ["patch_embed1.proj_conv.weight", "stage1.0.tssa.q_conv.weight"],
}


@pytest.mark.parametrize("model", FOREIGN)
def test_other_models_are_recognised_by_name(tmp_path, capsys, model):
    torch.save({k: torch.ones(2, 3) for k in FOREIGN[model]}, tmp_path / "net.pth")
    found = deploy.inspect(tmp_path / "net.pth")
    assert model in found["what"] and not found["exported"] and found["settings"] is None
    assert found["parameters"]["total"] == found["parameters"]["other"] == 6 * len(FOREIGN[model])
    assert found["parameters"]["paper_mib"] is None
    code, out, _ = call(capsys, "inspect", tmp_path / "net.pth")
    assert code == 0 and model in out and "recognised but not exported" in out
    with pytest.raises(UsageError, match="its family is not imported"):
        deploy.inspect(tmp_path / "net.pth", "frames.npy")


def test_a_checkpoint_of_nothing_known(tmp_path, capsys):
    torch.save({"fc.weight": torch.ones(3, 4)}, tmp_path / "net.pt")
    code, out, _ = call(capsys, "inspect", tmp_path / "net.pt")
    assert code == 0 and "of no known model" in out and "parameters  12: 12 other" in out


def test_an_incomplete_checkpoint_is_described_as_far_as_it_goes(tmp_path):
    path = save(tmp_path / "net.pt", SPEC)
    content = torch.load(path, weights_only=True)
    del content["state_dict"]["patch_embed.block2_conv.weight"]
    torch.save(content, path)
    found = deploy.inspect(path)
    assert "incomplete" in found["what"] and found["layers"] == []


# ------------------------------------------------------------------- other files


def foreign_onnx(path: Path, *, batch: int | str = "N", classes: int | str = 10) -> None:
    """Conv 3 -> 4, MatMul over channels, Gemm of unknown width."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4, 3, 3, 3], [0.0] * 108)
    square = helper.make_tensor("q", TensorProto.INT8, [6, 6], [0] * 36)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Cast", ["q"], ["qf"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["y", "qf"], ["z"], name="second"),
        helper.make_node("GlobalAveragePool", ["z"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "v"], ["out"], name="third", transB=1),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 6, 6]),
        helper.make_tensor_value_info("v", TensorProto.FLOAT, [classes, 4]),
    ]
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, [batch, classes])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [weight, square])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)


def test_an_onnx_file_of_others(tmp_path, capsys):
    foreign_onnx(tmp_path / "net.onnx")
    found = deploy.inspect(tmp_path / "net.onnx")
    assert "not of bestdeploy" in found["what"]
    assert found["ops"] == {"Cast": 1, "Conv": 1, "Flatten": 1, "Gemm": 1,
                            "GlobalAveragePool": 1, "MatMul": 1}  # fmt: skip
    rows = {x["name"]: x for x in found["layers"]}
    assert rows["first"]["macs"] == 4 * 6 * 6 * 27 and rows["first"]["n_weights"] == 108
    assert rows["first"]["weight_bits"] == 32
    assert rows["second"]["macs"] == 4 * 6 * 6 * 6 and rows["second"]["n_weights"] == 0
    assert rows["third"]["macs"] == 40 and rows["third"]["output_shape"] == (1, 10)
    assert found["total_macs"] == 4 * 36 * 27 + 4 * 36 * 6 + 40
    assert found["sizes"]["weight_bytes_by_type"] == {"float": 432, "int8": 36}
    code, out, _ = call(capsys, "inspect", tmp_path / "net.onnx")
    assert code == 0 and "Conv 1" in out and "4.792 k per frame" in out
    with pytest.raises(UsageError, match="standard ops only"):
        deploy.inspect(tmp_path / "net.onnx", "frames.npy")


def test_shapes_that_are_not_known_are_said_to_be_so(tmp_path, capsys):
    foreign_onnx(tmp_path / "net.onnx", classes="K")
    code, out, _ = call(capsys, "inspect", tmp_path / "net.onnx")
    found = deploy.inspect(tmp_path / "net.onnx")
    assert found["layers"][2]["output_shape"] in ((), (1, 1))
    assert code == 0 and "third" in out


def test_metadata_that_pretends_to_be_ours(tmp_path):
    foreign_onnx(tmp_path / "net.onnx", classes="K")
    model = onnx.load(tmp_path / "net.onnx")
    for key, value in (("family", "bestformer"), ("config", "{}"), ("pruned", "[1]")):
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(model, tmp_path / "net.onnx")
    found = deploy.inspect(tmp_path / "net.onnx")
    assert len(found["layers"]) == 3 and found["pruned"] is None


def test_a_graph_without_a_stage_is_refused(exported, tmp_path):
    model = onnx.load(exported / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(UnsupportedModelError, match="names stage None") as caught:
        deploy.inspect(tmp_path / "net.onnx")
    assert "bestdeploy export" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "content", "error", "says"),
    [
        ("missing.bstm", None, ArtifactError, "cannot read"),
        ("missing.onnx", None, ArtifactError, "cannot read"),
        ("missing.pt", None, CheckpointError, "cannot read"),
        ("notes.txt", b"hello", ArtifactError, "of no known kind"),
        ("empty", b"", ArtifactError, "of no known kind"),
        ("net.bstm", b"BSTM" + bytes(100), ArtifactError, "not a valid .bstm"),
        ("net.onnx", b"\xff\xfe not onnx", ArtifactError, "is not an ONNX model"),
        ("net.pt", b"not a checkpoint", CheckpointError, "checkpoint"),
        ("net.safetensors", b"\x08" + bytes(20), CheckpointError, "damaged"),
    ],
)
def test_files_that_are_none_of_it(tmp_path, name, content, error, says):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=says) as caught:
        deploy.inspect(path)
    assert caught.value.hint or caught.value.where


def test_a_folder_that_is_no_bundle(tmp_path):
    with pytest.raises(ArtifactError, match="is not a bundle"):
        deploy.inspect(tmp_path)


def test_truncated_files_are_refused(exported):
    for name in ("model.bstm", "model.onnx", "ckpt.pt"):
        content = (exported / name).read_bytes()
        cut = exported / f"cut.{name.partition('.')[2]}"
        for size in (len(content) // 2, len(content) - 1):
            cut.write_bytes(content[:size])
            with pytest.raises(BestDeployError):
                deploy.inspect(cut)


def test_frames_that_do_not_fit(exported, tmp_path):
    np.save(tmp_path / "frames.npy", np.zeros((2, 5, 5, 3), np.uint8))
    for name in ("model.bstm", "passes/00_spiking.onnx", "ckpt.pt"):
        with pytest.raises(InputError):
            deploy.inspect(exported / name, tmp_path / "frames.npy")
    with pytest.raises(InputError, match="does not exist"):
        deploy.inspect(exported / "model.bstm", tmp_path / "none.npy")


@pytest.mark.parametrize("target", ["armv7", "c", "host"])
def test_buffers_of_a_bundle_are_those_of_its_target(exported, tmp_path, capsys, target):
    """Elsewhere the manifest's, of the portable kernels; here those that this machine lays out."""
    content = (exported / "model.bstm").read_bytes()
    (tmp_path / "model.bstm").write_bytes(content)
    portable = runtime.load(content, isa="scalar")
    stated = {"model_bytes": portable.model_bytes, "arena_bytes": portable.arena_bytes}
    manifest = {"kind": "bestdeploy bundle", "target": target, "model": stated, "files": {}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    best = runtime.load(content)
    expected = best if target == "host" else portable
    sizes = deploy.inspect(tmp_path)["sizes"]
    assert sizes["model_bytes"] == expected.model_bytes
    assert sizes["kernels"] == (best.isa if target == "host" else "portable")
    assert call(capsys, "inspect", tmp_path)[0] == 0
    _, out, _ = call(capsys, "inspect", tmp_path)
    assert f"one per model; {sizes['kernels']} kernels)" in out


def test_without_a_compiler_a_program_is_still_described(exported, monkeypatch):
    def missing(*_arguments, **_options):
        raise MissingToolError("no compiler", hint="install one")

    whole = deploy.inspect(exported / "model.bstm")
    monkeypatch.setattr(runtime, "load", missing)
    found = deploy.inspect(exported / "model.bstm")
    assert found["layers"] == whole["layers"] and found["sizes"]["model_bytes"] is None
    with pytest.raises(MissingToolError):
        deploy.inspect(exported / "model.bstm", exported / "frames.npy")


# ------------------------------------------------------------------- the command


def test_the_command_prints_a_table_and_totals(exported, capsys):
    code, out, err = call(
        capsys, "inspect", exported / "model.onnx", "--data", exported / "frames.npy"
    )
    assert code == 0 and err == ""
    lines = out.splitlines()
    header = next(line for line in lines if line.startswith("layer "))
    for word in ("in -> out", "bits", "MACs/step", "rate in", "SOPs", "rate x MACs", "avoided"):
        assert word in header
    for step in runtime.load(exported / "model.bstm").steps():
        assert sum(line.startswith(step.name) for line in lines) >= 1
    for word in ("NS-ACE = SOPs b_w b_s", "S-ACE", "4.6 pJ", "paper size", "buffer 1", "buffer 2"):
        assert word in out
    assert all(line == line.rstrip() for line in lines)


def test_a_narrow_terminal_gets_two_tables(exported, capsys, monkeypatch):
    words = ("inspect", exported / "model.onnx", "--data", exported / "frames.npy")
    wide = call(capsys, *words)[1]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    narrow = call(capsys, *words)[1]
    assert [x.split()[1:3] for x in narrow.splitlines() if x.startswith("layer ")] == [
        ["op", "in"],
        ["rate", "in"],
    ]
    monkeypatch.setenv("COLUMNS", "200")
    assert call(capsys, *words)[1] == wide


def test_the_command_without_frames_says_what_is_not_there(exported, capsys):
    code, out, _ = call(capsys, "inspect", exported / "model.bstm")
    assert code == 0 and "not recorded: give frames with --data" in out and "rate in" not in out


@pytest.mark.parametrize(
    "name", ["ckpt.pt", "model.onnx", "model.std.onnx", "model.float.onnx", "model.bstm"]
)
def test_json_holds_the_whole_answer(exported, capsys, name):
    code, out, _ = call(capsys, "inspect", exported / name, "--json")
    document = json.loads(out)
    assert code == 0 and document["schema_version"] == 1 and document["command"] == "inspect"
    assert {"bestdeploy", "python", "cpu"} <= set(document["environment"])
    found = document["result"]
    assert found["path"] == str(exported / name) and len(found["sha256"]) == 64
    keys = {"name", "op", "kind", "input_shape", "output_shape", "weight_bits", "n_weights",
            "macs", "total_macs", "activity"}  # fmt: skip
    assert all(keys <= set(x) for x in found["layers"])
    assert call(capsys, "inspect", exported / name)[0] == 0


def test_claims_of_qsd_are_recomputed(capsys):
    """4-bit weights of the published widths, counted by hand from the layers of [qsd]."""
    found = deploy.published()["qsd"]
    assert [row["weights"] for row in found["models"]] == [15_015_072, 31_193_520, 55_163_456]
    assert all(row["agrees"] for row in found["models"])
    assert [round(row["packed_mib"], 2) for row in found["models"]] == [7.16, 14.87, 26.30]
    assert f"{found['size_ratio']:.1f}" in ("8.1", found["printed_size_ratio"])
    assert f"{found['energy_ratio']:.1f}" == found["printed_energy_ratio"]
    _, out, _ = call(capsys, "inspect", "--published")
    assert "26.30" in out and "52.4 mJ / 8.7 mJ = 6.02" in out


def test_published_numbers_are_printed(capsys):
    code, out, _ = call(capsys, "inspect", "--published")
    assert code == 0
    numbers = "9314884 30178064 2566676 1.1799 5.5723 932.7 8.272 369.1 104.32 4.12 4.11 4.13"
    for text in (*numbers.split(), "25.7 %", "6.4 %", "17.1 %"):
        assert text in out
    code, out, _ = call(capsys, "inspect", "--published", "--json")
    assert json.loads(out)["result"] == json.loads(json.dumps(deploy.published()))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "no FILE"),
        (("x.bstm", "--published"), "takes no FILE"),
        (("x.bstm", "--energy", "joule=1"), "--energy joule=1"),
        (("x.bstm", "--set", "tau"), "KEY=VALUE"),
    ],
)
def test_usage_errors_of_the_command(capsys, words, says):
    code, out, err = call(capsys, "inspect", *words)
    assert code == 2 and out == "" and says in err and "hint: " in err
