"""The commands that measure: ablation grids, entropy and cost, memory, step time; recipes."""

from __future__ import annotations

import gzip
import json
import math
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from training import ablate, bench_step, config, data, measure, memory, train  # noqa: E402
from training.errors import CheckpointError, ConfigError  # noqa: E402
from training.models.bestformer import BESTformer, BESTformerConfig  # noqa: E402
from training.models.skeleton import record_spikes  # noqa: E402

CONFIGS = Path(train.__file__).parent / "configs"

GRID = """
title = "Small"
average = true
seeds = [1, 2]
[model]
depth = 1
dim = 8
heads = 2
n_steps = 2
[data]
limit = 20
[train]
epochs = 1
batch_size = 10
flip = false
[distill]
teacher = ""
[teacher.model]
family = "spikingformer"
depth = 1
dim = 8
heads = 2
n_steps = 2
[teacher.train]
epochs = 1
batch_size = 10
[[case]]
name = "base"
set = { "model.residual" = "plain", "model.two_heads" = false, \
"model.readout" = "classification", "distill" = false }
[[case]]
name = "both"
"""


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mnist")
    rng = np.random.default_rng(0)
    for stem, n in (("train", 40), ("t10k", 20)):
        images = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        labels = (np.arange(n) % 10).astype(np.uint8)
        for what, array in (("images", images), ("labels", labels)):
            head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            name = f"{stem}-{what}-idx{array.ndim}-ubyte.gz"
            (folder / name).write_bytes(gzip.compress(head + array.tobytes()))
    return folder


@pytest.fixture(scope="module")
def grid(tmp_path_factory, mnist):
    """A finished grid: its folder and its arguments."""
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("grid")
    (folder / "grid.toml").write_text(GRID)
    argv = ["--data", "mnist", "--data-dir", str(mnist), "--config", str(folder / "grid.toml"),
            "--out", str(folder / "out")]  # fmt: skip
    assert ablate.main(argv) == 0
    return folder / "out", argv


def test_a_grid_trains_every_case_with_every_seed(grid, capsys):
    out, argv = grid
    names = {p.name for p in out.glob("*.pt")}
    assert names == {"teacher.pt", *(f"{c}-{s}.pt" for c in ("base", "both") for s in (1, 2))}
    table = (out / "table.md").read_text()
    assert table.startswith("# Small")
    assert "| base |" in table and "| both |" in table
    assert table.splitlines()[-1].startswith("| mean of 2 cases |")
    assert (out / "table.csv").read_text().splitlines()[0] == "case,mean,deviation,1,2"
    assert (out / "plot.png").stat().st_size > 1000
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("*.pt")}
    assert ablate.main(argv) == 0  # nothing is trained twice
    assert {p.name: p.stat().st_mtime_ns for p in out.glob("*.pt")} == before
    assert "training" not in capsys.readouterr().err
    assert ablate.main([*argv, "--set", "train.lr=0.5"]) == CheckpointError.exit_code
    assert "differ" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"case": []}, "at least one"),
        ({"case": [{"name": "a"}, {"name": "a"}]}, "each once"),
        ({"case": [{"name": "a/b"}]}, "expected letters"),
        ({"case": [{"name": "a", "x": 1}]}, "come together"),
        ({"case": [{"name": "a", "x": 1, "series": "s"}, {"name": "b"}]}, "or none"),
        ({"case": [{"name": "a", "set": {"train": 3}}]}, "table = false"),
        ({"case": [{"name": "a", "colour": 3}]}, "unknown key colour"),
        ({"cases": 1}, "unknown key cases"),
        ({"seeds": []}, "whole numbers"),
    ],
)
def test_bad_grids(change, words):
    tables = {"model": {}, "case": [{"name": "a"}]} | change
    with pytest.raises(ConfigError, match=words):
        ablate.parse(tables, "grid.toml")


def test_entropy_of_known_values():
    rows = torch.tensor([[0, 0, 1, 1], [0, 1, 2, 3], [5, 5, 5, 5]])
    assert measure.entropy_of(rows) == (pytest.approx(7 / 3), pytest.approx(1.0))
    skewed = torch.tensor([[0, 0, 0, 1]])
    want = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert measure.entropy_of(skewed)[1] == pytest.approx(want)


def test_report_on_groups_of_checkpoints(grid, mnist, tmp_path, capsys):
    out, _ = grid
    groups = [f"{c}={out / f'{c}-1.pt'},{out / f'{c}-2.pt'}" for c in ("base", "both")]
    argv = [*groups, f"{out / 'teacher.pt'}", "--data", "mnist", "--data-dir", str(mnist),
            "--images", "10", "--out", str(tmp_path / "r")]  # fmt: skip
    assert measure.main(argv) == 0
    text = capsys.readouterr().out
    assert text == (tmp_path / "r.md").read_text()
    assert "| both | block 0 |" in text and "| teacher | tokens |" in text
    held = json.loads((tmp_path / "r.json").read_text())
    assert len(held["base"]) == 2
    assert all(m["value_set"][1] >= 1 and m["entropy"][1] >= 0 for m in held["both"])
    for what in ("entropy", "capacity", "cost"):
        assert (tmp_path / f"r_{what}.png").stat().st_size > 1000
    assert measure.main(["a=", "--data", "mnist", "--data-dir", str(mnist), "--out", "r"]) == 2


def test_work_is_rate_times_macs():
    config_ = BESTformerConfig(1, 16, 2, 2, 8, 1, 3)
    torch.manual_seed(0)
    model = BESTformer(config_).eval()
    model.init_neuron_norms(2.0, 1.0)
    frames = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)
    found = measure.measure(model, data.Arrays(frames, np.zeros(4)), 4, 0.5)
    with torch.inference_mode(), record_spikes(model) as s:
        model(model.preprocess(frames))
    r = {name: float(v.mean()) for name, v in s.items()}
    assert found.rates == pytest.approx(r)
    pooled = {n: float(torch.nn.functional.max_pool2d(s[n].flatten(0, 1), 3, 2, 1).mean())
              for n in ("patch_embed.block3_lif", "patch_embed.block4_lif")}  # fmt: skip
    a, m, t = "block.0.attn.", "block.0.mlp.", 2
    macs = [
        (r["patch_embed.block1_lif"], 64 * 9 * 2 * 4),
        (r["patch_embed.block2_lif"], 64 * 9 * 4 * 8),
        (pooled["patch_embed.block3_lif"], 16 * 9 * 8 * 16),
        (pooled["patch_embed.block4_lif"], 4 * 9 * 16 * 16),
        (r[a + "proj_lif"], 3 * 4 * 16 * 16),
        (r[a + "q_lif"], 4 * 4 * 16),
        (r[a + "attn_lif0"], 4 * 4 * 16),
        (r[a + "attn_lif"], 4 * 16 * 16),
        (r[m + "mlp1_lif"], 4 * 16 * 64),
        (r[m + "mlp2_lif"], 4 * 64 * 16),
    ]
    assert found.sops == pytest.approx(t * sum(rate * n for rate, n in macs), rel=1e-5)
    assert found.ns_ace == pytest.approx(found.sops)


def test_size_is_the_papers(published=((4, 10, 1.18), (2, 100, 0.86))):
    for depth, classes, mib in published:
        with torch.device("meta"):
            model = BESTformer(BESTformerConfig(depth, 384, 8, 4, 32, 3, classes))
        assert measure.size_bytes(model) / 2**20 == pytest.approx(mib, abs=0.005)


def test_what_a_step_keeps_does_not_depend_on_depth():
    kept = [memory.measure(depth, 8, 2, True, "cpu")["kept"] for depth in (1, 3)]
    assert kept[0] == kept[1] < memory.measure(3, 8, 2, False, "cpu")["kept"]
    assert memory.main(["--depths", "two"]) == 2


@pytest.mark.slow
def test_memory_command(capsys):
    assert memory.main(["--depths", "1,2", "--dim", "8", "--batch", "2"]) == 0
    rows = capsys.readouterr().out.splitlines()[-2:]
    kept = [[float(cell) for cell in row.split("|")[2:4]] for row in rows]
    assert kept[0][1] == kept[1][1]
    assert kept[0][0] < kept[1][0]


def test_step_benchmark_computes_the_same_loss_with_every_neuron(capsys):
    assert bench_step.main(["--dim", "16", "--batch", "2", "--repeat", "1"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    assert {row.split("|")[1].strip() for row in rows} >= {"plain", "fused"}
    assert len({row.split("|")[4] for row in rows}) == 1
    assert bench_step.main(["--dim", "12"]) == 2


RECIPES = sorted(p.name for p in CONFIGS.glob("*.toml"))
IMAGENET = replace(data.DATASETS["imagenet"], class_names=tuple(map(str, range(1000))))
DVS = replace(data.DATASETS["cifar10-dvs"], class_names=data.DATASETS["cifar10"].class_names)


def set_of(name):
    """The data set that a recipe's name begins with."""
    if name.startswith("cifar10dvs"):
        return DVS
    if name.startswith("imagenet"):
        return IMAGENET
    found = [d for key, d in data.DATASETS.items() if key.replace("-", "_") in name]
    return max(found, key=lambda d: len(d.name))


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_valid(name):
    tables = config.read_tables(CONFIGS / name)
    cases = ablate.parse(tables, name).cases if "case" in tables else ()
    for recipe in [c.tables for c in cases] or [tables]:
        c = config.parse(recipe, name)
        model = c.model_config(set_of(name))
        distill = None if c.distill is None or not c.distill.teacher else c.distill
        train.check_together(model, c.train, distill, 10_000, 1)


@pytest.mark.parametrize(
    ("name", "n_parameters"),
    [("cifar10_4_384", 9_314_884), ("cifar100_4_384", 9_384_184), ("cifar10_2_384", 5_762_052),
     ("imagenet_8_512", 30_178_064), ("cifar10dvs_2_256", 2_566_676)],
)  # fmt: skip
def test_published_recipes_have_the_published_parameters(name, n_parameters):
    model = config.read(CONFIGS / f"{name}.toml").model_config(set_of(name))
    with torch.device("meta"):
        network = BESTformer(model)
    assert sum(p.numel() for p in network.parameters()) == n_parameters
