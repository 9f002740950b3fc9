"""Entropy, capacity and cost of trained networks.

    python -m training.measure cie=both-1.pt,both-2.pt base=baseline-1.pt,baseline-2.pt \
        --data fashion-mnist --data-dir DIR --out report

Each NAME=CKPT,CKPT,.. is a group: the same network trained with several seeds; every number is the
mean over the group, with the standard deviation. Writes OUT.json, OUT.md, and plots:

    OUT_entropy.png     entropy per block                           [bestformer] Figures 2 and 5b
    OUT_capacity.png    value-set size per block
    OUT_cost.png        accuracy against NS-ACE and against size    [bestformer] Figure 1

A feature map is the stream x1 after the tokenizer ("tokens") and after each block. Its values,
rounded to the grid 2^-20 of the deployed network, are counted per channel over T, images and
tokens: the value-set size is the number of different values, the entropy is -sum p log2 p of their
frequencies, in bits; both are means over channels. They grow with the number of images, so only
equal numbers compare, and each report states its own.

SOPs = sum over layers fed by spikes of firing rate x MACs x T; NS-ACE = SOPs x weight bits x spike
bits, real weights counting 16. Size: 1 bit a binary weight (16 a real one), 16 for conv0, batch
norms and heads.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from training import checkpoint, data, engine, models, plots
from training.errors import ConfigError, guarded
from training.layers import BinaryConv1d, BinaryConv2d
from training.models.skeleton import Attention, Network, record_spikes

GRID = 2.0**20
REAL_BITS = 16
BATCH = 50


@dataclass(frozen=True)
class Measured:
    """One checkpoint. Lists run over ("tokens", block 0, ..); entropies are in bits."""

    accuracy: float
    value_set: list[float]
    entropy: list[float]
    rates: dict[str, float]
    sops: float
    ns_ace: float
    size_bytes: float


def entropy_of(values: Tensor) -> tuple[float, float]:
    """Value-set size and entropy in bits, means over the rows of int64 ``values`` [channels, n]."""
    sizes, bits = [], []
    for row in values:
        counts = torch.unique(row, return_counts=True)[1].double()
        p = counts / counts.sum()
        sizes.append(len(counts))
        bits.append(float(-(p * p.log2()).sum()))
    return statistics.fmean(sizes), statistics.fmean(bits)


def _rows(stream: Tensor) -> Tensor:
    """[T, B, D, H, W] -> int64 [D, T * B * H * W] on the grid."""
    return (stream.double() * GRID).round().long().permute(2, 0, 1, 3, 4).flatten(1)


class _Work:
    """Operations on spikes, summed over batches."""

    def __init__(self) -> None:
        self.sops = 0.0
        self.ns_ace = 0.0

    def add(self, rate: Tensor, macs: int, bits: int) -> None:
        """Count a layer: mean input, MACs of the whole batch and all steps, bits of a weight."""
        self.sops += float(rate) * macs
        self.ns_ace += float(rate) * macs * bits


@contextmanager
def _counted(model: Network, work: _Work) -> Iterator[None]:
    """Count the operations of every layer that spikes feed while the context is open."""

    def conv(module, inputs, output) -> None:
        bits = 1 if isinstance(module, BinaryConv1d | BinaryConv2d) else REAL_BITS
        fan_in = module.weight[0].numel()
        work.add(inputs[0].mean(), output.numel() * fan_in, bits)

    handles = []
    first = model.patch_embed.layout.key(0)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d) and not name.endswith(f"{first}_conv"):
            handles.append(module.register_forward_hook(conv))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _attention_work(model: Network, spikes: dict[str, Tensor], work: _Work) -> None:
    """Count the two products of every attention; both operands are spikes, weights of 1 bit."""
    for name, module in model.named_modules():
        if not isinstance(module, Attention):
            continue
        q, k, v = (spikes[f"{name}.{n}_lif"] for n in "qkv")  # [T, B, D, N]
        t, b, dim, n = q.shape
        pairs = n * n * dim if module.form == "qk" else n * dim * dim // module.heads
        first, second = (q, None) if module.form == "qk" else (k, q)
        work.add(first.mean(), t * b * pairs, 1)
        bits = spikes.get(f"{name}.attn_lif0")
        rate = second if second is not None else (bits if bits is not None else v)
        work.add(rate.mean(), t * b * pairs, 1)


@torch.inference_mode()
def measure(model: Network, split: data.Split, n_images: int, metric: float) -> Measured:
    """Run ``n_images`` of a split through a network in evaluation mode."""
    model.eval()
    n = min(n_images, len(split))
    streams: list[list[Tensor]] = []
    rates: dict[str, float] = {}
    work = _Work()
    for start in range(0, n, BATCH):
        index = np.arange(start, min(start + BATCH, n))
        x = model.preprocess(np.ascontiguousarray(split.take(index)))
        with record_spikes(model) as spikes, _counted(model, work):
            pairs = [x1 for _, x1 in model.walk(x)]
        _attention_work(model, spikes, work)
        streams.append([_rows(x1) for x1 in pairs])
        for name, s in spikes.items():
            rates[name] = rates.get(name, 0.0) + float(s.mean()) * len(index) / n
    found = [entropy_of(torch.cat(parts, 1)) for parts in zip(*streams, strict=True)]
    return Measured(
        accuracy=metric,
        value_set=[v for v, _ in found],
        entropy=[h for _, h in found],
        rates=rates,
        sops=work.sops / n,
        ns_ace=work.ns_ace / n,
        size_bytes=size_bytes(model),
    )


def size_bytes(model: Network) -> float:
    """Bytes in the papers' accounting (file head); lambda and running statistics do not count."""
    bits = 0
    for name, p in model.named_parameters():
        owner = model.get_submodule(name.rpartition(".")[0])
        if isinstance(owner, BinaryConv1d | BinaryConv2d):
            bits += p.numel()
        elif not name.endswith("lambda_attn"):
            bits += REAL_BITS * p.numel()
    return bits / 8


def mean_and_deviation(values: list[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (0 for one value)."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def summary(groups: dict[str, list[Measured]], n_images: int) -> str:
    """The report as Markdown."""
    lines = [f"Measured on {n_images} images; mean +- standard deviation over checkpoints.", ""]
    lines += ["| network | seeds | accuracy % | size kB | SOPs M | NS-ACE M | firing rate % |",
              "|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, found in groups.items():
        rate = [100 * statistics.fmean(m.rates.values()) for m in found]
        columns = [
            [100 * m.accuracy for m in found],
            [m.size_bytes / 1e3 for m in found],
            [m.sops / 1e6 for m in found],
            [m.ns_ace / 1e6 for m in found],
            rate,
        ]
        cells = [f"{a:.2f} +- {s:.2f}" for a, s in map(mean_and_deviation, columns)]
        lines.append(f"| {name} | {len(found)} | {' | '.join(cells)} |")
    lines += ["", "| network | feature map | value-set size | entropy, bits |", "|---|---|---|---|"]
    for name, found in groups.items():
        for i in range(len(found[0].entropy)):
            v, dv = mean_and_deviation([m.value_set[i] for m in found])
            h, dh = mean_and_deviation([m.entropy[i] for m in found])
            where = f"block {i - 1}" if i else "tokens"
            lines.append(f"| {name} | {where} | {v:.0f} +- {dv:.0f} | {h:.3f} +- {dh:.3f} |")
    return "\n".join(lines) + "\n"


def _plot(groups: dict[str, list[Measured]], out: Path) -> list[Path]:
    def curves(key: str) -> dict:
        return {
            name: [mean_and_deviation([getattr(m, key)[i] for m in found])
                   for i in range(len(getattr(found[0], key)))]
            for name, found in groups.items()
        }  # fmt: skip

    written = []
    for key, words, what in (
        ("entropy", "entropy, bits", "entropy"),
        ("value_set", "value-set size", "capacity"),
    ):
        path = out.with_name(f"{out.name}_{what}.png")
        plots.curves(curves(key), path, x="blocks before the feature map", y=words)
        written.append(path)
    path = out.with_name(f"{out.name}_cost.png")
    points = {name: [(m.ns_ace / 1e6, m.size_bytes / 1e3, 100 * m.accuracy) for m in found]
              for name, found in groups.items()}  # fmt: skip
    plots.cost(points, path)
    return [*written, path]


def groups_of(texts: list[str]) -> dict[str, list[str]]:
    """The groups NAME=CKPT,CKPT,.. of a command line; a lone path is a group of its own name."""
    found = {}
    for text in texts:
        name, equals, paths = text.partition("=")
        if not equals:
            name, paths = Path(text).stem, text
        found[name] = [p for p in paths.split(",") if p]
        if not found[name]:
            raise ConfigError(f"{text}: no checkpoint", hint="write NAME=a.pt,b.pt")
    return found


def groups_parser(prog: str, description: str) -> argparse.ArgumentParser:
    """What every report on groups of checkpoints is asked."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("checkpoints", nargs="+", metavar="NAME=CKPT,CKPT")
    parser.add_argument("--data", required=True, choices=list(data.DATASETS))
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--images", type=int, default=200, help="images of the test split")
    parser.add_argument("--out", required=True, help="prefix of the files to write")
    parser.add_argument("--threads", type=int, default=0)
    return parser


def _parse(argv: list[str] | None) -> argparse.Namespace:
    words = "Entropy, capacity, firing rates and cost of checkpoints."
    return groups_parser("python -m training.measure", words).parse_args(argv)


def _measured(path: str, args: argparse.Namespace) -> Measured:
    ckpt = checkpoint.load(path)
    model = models.restore(ckpt, path)
    _, splits = data.open_split(args.data, args.data_dir, data.DataConfig(), model.config.n_steps)
    classes = int(splits["test"].labels.max()) + 1
    if classes > model.config.classes:
        raise ConfigError(
            f"{path} has {model.config.classes} classes, {args.data} has {classes}",
            hint="give the data set that it was trained on",
        )
    with engine.world("cpu"):
        return measure(model, splits["test"], args.images, ckpt["metric"])


def _work(args: argparse.Namespace) -> None:
    if args.threads:
        torch.set_num_threads(args.threads)
    plots.require()
    groups = {
        name: [_measured(p, args) for p in paths]
        for name, paths in groups_of(args.checkpoints).items()
    }
    out = Path(args.out)
    text = summary(groups, args.images)
    plots.write_text(out.with_name(f"{out.name}.md"), text)
    content = {name: [asdict(m) for m in found] for name, found in groups.items()}
    plots.write_text(out.with_name(f"{out.name}.json"), json.dumps(content, indent=1))
    for path in _plot(groups, out):
        print(f"wrote {path}", file=sys.stderr)
    print(text, end="")


def main(argv: list[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    return guarded(_parse, _work, argv)


if __name__ == "__main__":
    sys.exit(main())
