"""Layers, spikes, SOPs and the formulas of the literature, against counts made here by hand."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_nets import Network, Spec, images_of, save

from bestdeploy import importers, ir, lower, passes, report, stages
from bestdeploy.errors import UsageError
from bestdeploy.program import Op
from bestdeploy.report import of_graph, of_program, published
from bestdeploy.report.layers import conv_layer, conv_reach, product_layer
from bestdeploy.report.of_shapes import layers_of_skeleton, skeleton_of, trained_parameters

# ------------------------------------------------------------------- a convolution's reach


@given(
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.data(),
)
def test_reach_is_the_number_of_weights_that_meet_a_place(size, kernel, strides, data):
    pads = tuple(data.draw(st.integers(0, k - 1)) for k in kernel)
    out = tuple(
        (n + 2 * p - k) // s + 1 for n, k, s, p in zip(size, kernel, strides, pads, strict=True)
    )
    if min(out) < 1:
        return
    met = np.zeros(size, np.int64)
    for oy, ox, dy, dx in np.ndindex(*out, *kernel):
        y, x = oy * strides[0] - pads[0] + dy, ox * strides[1] - pads[1] + dx
        if 0 <= y < size[0] and 0 <= x < size[1]:
            met[y, x] += 1
    reach = conv_reach((*size, 5), (*out, 3), kernel, strides, pads)
    assert np.array_equal(np.outer(reach.rows, reach.columns), met) and reach.width == 3


def test_a_spike_in_the_corner_meets_fewer_weights():
    layer = conv_layer("c", "conv", (4, 4, 2), (4, 4, 7), (7, 3, 3, 2), n_steps=1, reads="s")
    recorder = report.Recorder([layer])
    for place, weights in (((0, 0), 4), ((0, 1), 6), ((2, 2), 9)):
        spikes = np.zeros((1, 1, 4, 4, 2), np.uint8)
        spikes[0, 0, *place, 1] = 1
        before = recorder.counted(layer).sops
        recorder.add({"s": spikes}, 1)
        assert recorder.counted(layer).sops - before == 7 * weights
    assert recorder.counted(layer).rate_in == Fraction(3, 3 * 32)
    assert report.rate_sops(layer, recorder.counted(layer)) == Fraction(3, 96) * 4 * 4 * 7 * 18


# ------------------------------------------------------------------- SOPs of random networks

SPECS = {
    "qk": Spec(seed=3, dim=24, heads=3, depth=2, n_steps=4, size=12, classes=5),
    "kv": Spec(seed=4, dim=32, heads=4, depth=1, n_steps=3, size=36, classes=5,
               attention="kv", layout="imagenet"),
    "events": Spec(seed=5, dim=16, heads=2, depth=1, n_steps=5, size=20, channels=2, classes=3,
                   layout="imagenet", events=True),
    "plain": Spec(seed=6, dim=24, heads=2, depth=2, n_steps=4, size=12, classes=3,
                  attention="kv", residual="plain", readout="classification"),
    "paper": Spec(seed=7, dim=24, heads=3, depth=1, n_steps=4, size=12, classes=3,
                  variant="paper", decay_input=False),
}  # fmt: skip
N_FRAMES = 3


@pytest.fixture(scope="module", params=SPECS, ids=str)
def net(request, tmp_path_factory):
    """A random network: its form, its spiking graph, and frames."""
    spec = SPECS[request.param]
    path = save(tmp_path_factory.mktemp("net") / "net.pt", spec)
    return spec, importers.import_checkpoint(path), images_of(spec, N_FRAMES)


def ones_conv(spikes: np.ndarray, n_out: int, kernel: int) -> int:
    """Additions of a convolution: what it gives when every weight is 1, summed up."""
    ones = np.ones((n_out, spikes.shape[-1], kernel, kernel))
    return int(Network.conv(None, spikes.astype(np.float64), ones).sum())


def by_head(x: np.ndarray, heads: int) -> np.ndarray:
    """[T, B, H, W, D] -> float64 [T, B, heads, N, d]."""
    t, b, h, w, d = x.shape
    return x.reshape(t, b, h * w, heads, d // heads).swapaxes(2, 3).astype(np.float64)


def independent_sops(spec: Spec, spikes: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Return (SOPs) of every layer and (SOPs, pairs) of every product, by published name."""
    stage = "patch_embed.block{}" if spec.layout == "cifar" else "patch_embed.proj{}"
    found: dict[str, tuple[int, ...]] = {}
    for i in range(1, 5):
        s = spikes[f"{stage.format(i)}_lif"].astype(np.float64)
        if i >= 3 or spec.layout != "cifar":
            s = Network.pool(s)
        found[f"{stage.format(i)}_conv"] = (ones_conv(s, spec.widths[i], 3),)
    d, hidden = spec.dim, spec.dim * spec.mlp_ratio
    for i in range(spec.depth):
        a, m = f"block.{i}.attn", f"block.{i}.mlp"
        q, k, v = (by_head(spikes[f"{a}.{n}_lif"], spec.heads) for n in "qkv")
        bits = spikes[f"{a}.attn_lif0"].astype(np.float64)
        for n in "qkv":
            found[f"{a}.{n}_conv"] = (ones_conv(spikes[f"{a}.proj_lif"], d, 1),)
        if spec.attention == "qk":
            one = (q @ np.ones_like(k).swapaxes(-1, -2), q @ k.swapaxes(-1, -2))
            two = (bits @ np.ones_like(v), bits @ v)
            names = ("scores", "values")
        else:
            one = (k.swapaxes(-1, -2) @ np.ones_like(v), k.swapaxes(-1, -2) @ v)
            two = (q @ np.ones_like(bits), q @ bits)
            names = ("key_values", "query_values")
        for name, product in zip(names, (one, two), strict=True):
            found[f"{a}.{name}"] = tuple(int(x.sum()) for x in product)
        found[f"{a}.proj_conv"] = (ones_conv(spikes[f"{a}.attn_lif"], d, 1),)
        found[f"{m}.mlp1_conv"] = (ones_conv(spikes[f"{m}.mlp1_lif"], hidden, 1),)
        found[f"{m}.mlp2_conv"] = (ones_conv(spikes[f"{m}.mlp2_lif"], d, 1),)
    return found


def record(model: ir.Model, frames: np.ndarray, *, batch_size: int = N_FRAMES):
    """Run a graph in the references; return its layers with what they did."""
    layers = of_graph.layers_of_graph(model)
    recorder = report.Recorder(layers)
    executor = stages.Executor(ir.clone(model), watch=recorder.names)
    for start in range(0, len(frames), batch_size):
        batch = frames[start : start + batch_size]
        recorder.add(executor.run(batch), len(batch))
    return layers, recorder


def test_sops_are_those_of_an_independent_count(net):
    spec, model, frames = net
    layers, recorder = record(model, frames)
    names = [str(v.name) for v in stages.neuron_values(model)]
    spikes = stages.Executor(ir.clone(model), watch=names).run(frames)
    expected = independent_sops(spec, spikes)
    found = {x.name: recorder.counted(x) for x in layers if x.spike_fed}
    assert set(found) == set(expected)
    for name, (sops, *pairs) in expected.items():
        assert found[name].sops == sops > 0, name
        assert found[name].pairs == (pairs[0] if pairs else None), name
    counted = sum(sops for sops, *_ in expected.values())
    print(
        f"\n{spec.layout} {spec.attention}: {counted} SOPs in {len(expected)} layers, both counts"
    )
    for layer in layers:
        if layer.writes in names:
            out = spikes[layer.writes]
            assert recorder.counted(layer).rate_out == Fraction(int(out.sum()), out.size)


def test_rate_times_macs_is_exact_where_nothing_is_padded(net):
    _, model, frames = net
    layers, recorder = record(model, frames)
    for layer in layers:
        if layer.spike_fed:
            counted = recorder.counted(layer)
            literature = report.rate_sops(layer, counted) * N_FRAMES
            padded = layer.name.startswith("patch_embed")
            assert counted.sops < literature if padded else counted.sops == literature
            assert 0 < literature <= layer.total_macs * N_FRAMES


def test_batches_add_up(net):
    _, model, frames = net
    layers, together = record(model, frames)
    _, apart = record(model, frames, batch_size=1)
    assert together.n_frames == apart.n_frames == N_FRAMES
    assert [together.counted(x) for x in layers] == [apart.counted(x) for x in layers]


# ------------------------------------------------------------------- one table in every form


def row(layer: report.Layer) -> tuple:
    return (layer.kind, layer.input_shape, layer.output_shape, layer.n_steps, layer.macs,
            layer.n_weights if layer.kind != "linear" else 0, layer.n_norm)  # fmt: skip


def test_the_table_survives_every_pass(net):
    _, model, frames = net
    tables: dict[str, list[report.Layer]] = {}
    counted: dict[str, list[report.Counted]] = {}

    def after(_number, step, graph):
        if graph.metadata_props["stage"] != "packed":
            copy = ir.clone(graph)
            stages.infer_types(copy)
            tables[step.name], seen = record(copy, frames)
            counted[step.name] = [seen.counted(x) for x in tables[step.name] if x.spike_fed]

    packed = ir.clone(model)
    passes.run(packed, after=after)
    program = of_program.layers_of_program(lower.lower(packed))

    order = list(tables)
    before = [row(x) for x in tables["dead_stores"] if x.kind != "linear"]
    assert set(before) <= {row(x) for x in of_graph.layers_of_graph(model)}
    for name in order[1 : order.index("prune")]:
        assert [row(x) for x in tables[name] if x.kind != "linear"] == before, name
        assert [c.sops for c in counted[name]] == [c.sops for c in counted["dead_stores"]], name
    # Neurons that never fire are cut: no spike goes, only weights that no sum would change.
    spikes_in = [c.n_spikes_in for c in counted["dead_stores"]]
    for name in ("prune", "pack"):
        assert [c.n_spikes_in for c in counted[name]] == spikes_in
        assert all(
            a.sops <= b.sops for a, b in zip(counted[name], counted["dead_stores"], strict=True)
        )
    assert [row(x) for x in program] == [row(x) for x in tables["pack"]]


def test_shapes_alone_give_the_table_of_the_graph(net, tmp_path):
    spec, model, _ = net
    content = importers.checkpoint.read(save(tmp_path / "net.pt", spec))
    shapes = {k: v.shape for k, v in content.tensors.items()}
    skeleton = skeleton_of(shapes)
    assert skeleton is not None and skeleton.n_steps == spec.n_steps
    found = layers_of_skeleton(skeleton, (spec.size, spec.size), spec.attention, spec.heads)
    found = [x for x in found if x.kind != "linear" or x.name in spec.head_names]
    expected = of_graph.layers_of_graph(model)
    same = ("name", "kind", "input_shape", "output_shape", "n_steps", "macs", "weight_bits",
            "n_weights", "n_norm", "n_bias", "writes", "reach", "heads")  # fmt: skip
    for ours, theirs in zip(found, expected, strict=True):
        for attribute in same:
            if ours.kind != "pool" or attribute != "writes":
                assert getattr(ours, attribute) == getattr(theirs, attribute), ours.name
    trained = trained_parameters(shapes)
    per_head = spec.variant == "official"
    n_scales = of_graph.n_scales_of_graph(model, per_head=per_head)
    counted = report.parameters_of(found, n_scales)
    n_unread = (spec.dim + 1) * spec.classes if len(spec.head_names) == 1 else 0
    assert dataclasses.replace(trained, heads=trained.heads - n_unread) == counted


def test_every_op_of_the_format_has_a_reader():
    assert set(of_program._READERS) == set(Op)


# ------------------------------------------------------------------- published numbers

PUBLISHED = {  # parameters, binary, conv0, batch norm, heads, MiB to the printed digit
    ("CIFAR-10", "4-384"): (9_314_884, 9_275_904, 1_296, 29_856, 7_700, "1.18"),
    ("CIFAR-100", "4-384"): (9_384_184, 9_275_904, 1_296, 29_856, 77_000, "1.31"),
    ("CIFAR-10", "2-384"): (5_762_052, 5_736_960, 1_296, 16_032, 7_700, "0.73"),
    ("CIFAR-100", "2-384"): (5_831_352, 5_736_960, 1_296, 16_032, 77_000, "0.86"),
    ("ImageNet", "8-512"): (30_178_064, 29_073_408, 1_728, 76_672, 1_026_000, "5.57"),
    ("CIFAR10-DVS", "2-256"): (2_566_676, 2_549_760, 576, 10_688, 5_140, "0.34"),
}
MODELS = {(m.dataset, m.name): m for m in published.MODELS}


@pytest.mark.parametrize("key", PUBLISHED, ids="-".join)
def test_published_parameters_and_sizes(key):
    total, binary, conv0, norm, heads, printed = PUBLISHED[key]
    counts = trained_parameters(published.state_shapes(MODELS[key]))
    assert (counts.binary, counts.conv0, counts.norm, counts.heads) == (binary, conv0, norm, heads)
    assert counts.total == total and counts.other == 0
    assert f"{float(report.paper_bytes(counts) / report.MIB):.2f}" == printed
    assert MODELS[key].printed_mib == printed


def test_all_published_models_are_compared():
    assert set(MODELS) == set(PUBLISHED)
    assert all(x["size_agrees"] for x in published.published()["models"])


def test_twelve_heads_would_give_another_count():
    model = dataclasses.replace(MODELS["CIFAR-10", "4-384"], heads=12)
    assert trained_parameters(published.state_shapes(model)).total == 9_314_948


@pytest.mark.parametrize("key", [k for k in PUBLISHED if k[0].startswith("CIFAR-")], ids="-".join)
def test_published_shapes_are_those_of_the_training_code(key):
    torch = pytest.importorskip("torch")
    from training.models.bestformer import BESTformer, BESTformerConfig

    m = MODELS[key]
    config = BESTformerConfig(
        depth=m.depth, dim=m.dim, heads=m.heads, n_steps=m.n_steps, image_size=m.side,
        channels=m.channels, classes=m.classes,
    )  # fmt: skip
    with torch.device("meta"):
        module = BESTformer(config)
    state = {k: tuple(v.shape) for k, v in module.state_dict().items()}
    assert state == published.state_shapes(m)
    n_parameters = sum(p.numel() for p in module.parameters())
    assert n_parameters == trained_parameters(state).total == PUBLISHED[key][0]


def test_a_full_precision_relative_is_counted_too():
    """Spikingformer 4-384 on CIFAR-10: no lambda, one head, biases, unused layer norms."""
    shapes = published.state_shapes(MODELS["CIFAR-10", "4-384"])
    d = 384
    for name in [k for k in shapes if "lambda_attn" in k or k.startswith("head2")]:
        del shapes[name]
    for i in range(4):
        shapes[f"block.{i}.attn.proj_conv.bias"] = (d,)
        shapes[f"block.{i}.mlp.mlp1_conv.bias"] = (4 * d,)
        shapes[f"block.{i}.mlp.mlp2_conv.bias"] = (d,)
        for n in (1, 2):
            shapes[f"block.{i}.norm{n}.weight"] = shapes[f"block.{i}.norm{n}.bias"] = (d,)
    counts = trained_parameters(shapes)
    assert counts.total == 9_326_266 and counts.binary == 0


def table_of(key: tuple[str, str]) -> dict[str, report.Layer]:
    m = MODELS[key]
    skeleton = skeleton_of(published.state_shapes(m))
    layers = layers_of_skeleton(skeleton, (m.side, m.side), m.attention, m.heads)
    return {x.name: x for x in layers}


def test_dense_work_of_the_cifar_model():
    layers = table_of(("CIFAR-10", "4-384"))
    millions = {
        "patch_embed.block0_conv": "1.327",
        "patch_embed.block1_conv": "42.467",
        "patch_embed.block2_conv": "169.869",
        "patch_embed.block3_conv": "169.869",
        "patch_embed.block4_conv": "84.935",
        "block.3.attn.q_conv": "9.437",
        "block.3.attn.scores": "1.573",
        "block.3.attn.values": "1.573",
        "block.3.attn.proj_conv": "9.437",
        "block.3.mlp.mlp1_conv": "37.749",
        "block.3.mlp.mlp2_conv": "37.749",
    }
    assert {name: f"{layers[name].macs / 1e6:.3f}" for name in millions} == millions
    work = report.work_of(list(layers.values()), 4, report.Energy())
    assert f"{work.macs_per_step / 1e6:.1f}" == "932.7" and f"{work.spike_macs / 1e9:.2f}" == "3.73"
    assert layers["patch_embed.block0_conv"].n_steps == 1
    binary = {n: x.n_weights // 8 for n, x in layers.items() if x.weight_bits == 1}
    stem = sum(size for name, size in binary.items() if name.startswith("patch_embed"))
    assert stem == 274_752 and sum(binary.values()) == 1_159_488


def test_dense_work_of_the_imagenet_model():
    layers = table_of(("ImageNet", "8-512"))
    millions = {
        "patch_embed.proj_conv": "86.7",
        "patch_embed.proj1_conv": "924.8",
        "patch_embed.proj2_conv": "924.8",
        "patch_embed.proj3_conv": "924.8",
        "patch_embed.proj4_conv": "462.4",
        "block.7.attn.key_values": "6.4",
        "block.7.attn.query_values": "6.4",
        "block.7.mlp.mlp1_conv": "205.5",
    }
    assert {name: f"{layers[name].macs / 1e6:.1f}" for name in millions} == millions
    assert layers["patch_embed.proj4_conv"].output_shape == (14, 14, 512)
    work = report.work_of(list(layers.values()), 4, report.Energy())
    assert f"{work.macs_per_step / 1e9:.3f}" == "8.272" and f"{work.spike_macs / 1e9:.1f}" == "33.1"
    conv0 = layers["patch_embed.proj_conv"].macs
    assert f"{conv0 * 4 / 1e6:.1f}" == "346.8"
    assert work.real_macs_literature - work.real_macs == 3 * conv0
    assert sum(x.n_weights for x in layers.values() if x.weight_bits == 1) // 8 == 3_634_176


def test_dense_work_of_the_event_camera_model():
    layers = table_of(("CIFAR10-DVS", "2-256"))
    work = report.work_of(list(layers.values()), 16, report.Energy())
    assert f"{work.macs_per_step / 1e6:.0f}" == "369"
    conv0 = layers["patch_embed.proj_conv"]
    assert f"{conv0.macs / 1e6:.2f}" == "9.44" and conv0.n_steps == 16
    assert work.real_macs == work.real_macs_literature


# ------------------------------------------------------------------- formulas


def test_ns_ace_of_the_literature():
    rows = {x["model"].split(",")[0]: x for x in published.published()["ns_ace"]}
    assert rows["Spikingformer 8-512"]["ns_ace_g"] == pytest.approx(104.32)
    assert rows["Q-Spikformer"]["ns_ace_g"] == pytest.approx(7.86)
    assert rows["Q-SEW-ResNet"]["ns_ace_g"] == pytest.approx(4.12)
    assert all(x["agrees"] for x in rows.values())


def test_agreement_is_that_of_rounded_numbers():
    """SOPs of 2.06 are [2.055, 2.065): 2 bits make [4.11, 4.13), which 4.11 and 4.13 round."""
    for printed, agrees in (("4.10", False), ("4.11", True), ("4.13", True), ("4.14", False)):
        row = published._cost_row(published.PrintedCost("net", "2.06", 2, 1, printed))
        assert (row["ns_ace_low_g"], row["ns_ace_high_g"]) == (4.11, 4.13)
        assert row["agrees"] is agrees, printed


def test_both_readings_of_the_printed_ns_ace():
    readings = published.published()["readings"]
    assert [
        (x["ns_ace_g"], x["time_steps"], f"{100 * x['implied_firing_rate']:.1f}") for x in readings
    ] == [(2.13, 1, "25.7"), (2.13, 4, "6.4"), (5.67, 4, "17.1")]
    assert {x["dense_macs"] // x["time_steps"] for x in readings} == {8_272_216_064}


def test_ns_ace_multiplies_the_bits_of_weights_and_spikes():
    layers = [
        conv_layer("a", "c", (3, 3, 4), (3, 3, 5), (5, 1, 1, 4), n_steps=2, reads="s"),
        conv_layer("b", "c", (3, 3, 4), (3, 3, 5), (5, 1, 1, 4), n_steps=2, reads="s",
                   weight_bits=16),
        product_layer("p", "m", "q k^T", (3, 3, 4), 2, n_steps=2, reads=("s", "s")),
    ]  # fmt: skip
    recorder = report.Recorder(layers)
    spikes = np.zeros((2, 1, 3, 3, 4), np.uint8)
    spikes[0, 0, 1, 1, 2] = spikes[1, 0, 0, 0, 3] = 1
    recorder.add({"s": spikes}, 1)
    work = report.work_of(layers, 2, report.Energy(), [recorder.counted(x) for x in layers], 1)
    assert work.sops_counted == 2 * 5 + 2 * 5 + 2 * 9
    assert work.ns_ace_counted == 2 * 5 + 16 * 2 * 5 + 2 * 9 == work.ns_ace_rate
    assert work.s_ace == (180 + 16 * 180 + 9 * 9 * 4) * 2
    assert work.macs_avoided == (180 + 180 + 324) * 2 - 38
    assert work.pairs == 2


def test_energy_of_the_literature():
    """Spikingformer 8-512: 0.3473 G MACs (conv0 each step, head) and 6.5175 G additions."""
    assert f"{report.Energy().microjoules(0.3473e9, 6.5175e9) / 1e3:.2f}" == "7.46"
    assert report.Energy.parse("mac=1, ac=0.5") == report.Energy(1.0, 0.5)
    assert report.Energy.parse("ac=0.1") == report.Energy(4.6, 0.1)


@pytest.mark.parametrize("text", ["mac", "mac=x", "acc=1", "mac=-1", "mac=nan", "ac=inf"])
def test_energy_that_makes_no_sense_is_refused(text):
    with pytest.raises(UsageError, match="--energy") as caught:
        report.Energy.parse(text)
    assert "mac=4.6,ac=0.9" in caught.value.hint


def test_work_without_frames_has_no_sops():
    layers = list(table_of(("CIFAR-10", "2-384")).values())
    work = report.work_of(layers, 4, report.Energy(), [report.Counted()] * len(layers), 0)
    assert work.sops_counted is None and work.energy_uj_counted is None and work.spike_macs > 0
