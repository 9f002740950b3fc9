"""What an attention core can say: values, entropy and bimodality of q, k, v and of their product.

    python -m training.attention binary=a-1.pt,a-2.pt ternary=b-1.pt,b-2.pt \
        --data cifar10 --data-dir DIR --out report

Groups are those of `training.measure`: the same network with several seeds; numbers are means over
blocks, then over the group, with the standard deviation. Writes OUT.md and OUT.json.

    q, k, v     what leaves their neurons (the ReLU of A2OS2A's k)
    product     what the neuron behind the product of the three reads

Values, rounded to the grid 2^-20 of the deployed network, are counted over T, images, tokens and
channels: the value-set size is the number of different ones, the entropy -sum p log2 p of their
frequencies, in bits. That is the capacity of [a2os2a] Proposition 1: real-valued keys and ternary
values let the product take more values than spikes alone.

The bimodality coefficient is Sarle's, (skewness^2 + 1) / kurtosis, between 0 and 1: 1 for two
values, 5/9 for a uniform distribution, 1/3 for a normal one; what [qsd] reports of the attention of
few-bit networks. Of a constant it is not defined and left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from training import checkpoint, data, engine, models, plots
from training.errors import ConfigError, guarded
from training.measure import (
    BATCH,
    GRID,
    entropy_of,
    groups_of,
    groups_parser,
    mean_and_deviation,
)

# the module whose output (or input, for the product) is looked at, whatever it is called
NAMES = {
    "q": ("q_lif",),
    "k": ("k_lif", "k_relu"),
    "v": ("v_lif", "v_tlif"),
    "product": ("attn_lif", "talking_heads_lif"),
}


@dataclass(frozen=True)
class Held:
    """One of q, k, v, product: means over blocks. Entropy in bits; bimodality None = constant."""

    value_set: float
    entropy: float
    bimodality: float | None


def bimodality(values: Tensor) -> float | None:
    """Sarle's coefficient of all entries of ``values``; None where they are all the same."""
    x = values.double().flatten()
    x = x - x.mean()
    variance = float(x.square().mean())
    if variance == 0:
        return None
    skewness = float((x**3).mean()) / variance**1.5
    kurtosis = float((x**4).mean()) / variance**2
    return (skewness**2 + 1) / kurtosis


def attention_layers(model: nn.Module) -> list[nn.Module]:
    """Modules with neurons for q, k, v and a product."""
    found = [
        module
        for module in model.modules()
        if all(any(hasattr(module, n) for n in names) for names in NAMES.values())
    ]
    if not found:
        raise ConfigError(
            f"{type(model).__name__} has no attention of q, k, v and a neuron behind their product",
            hint="give a checkpoint of a spiking transformer",
        )
    return found


@contextmanager
def _recorded(layer: nn.Module, into: dict[str, list[Tensor]]) -> Iterator[None]:
    """Collect what the four neurons of an attention layer say while the context is open."""

    def writer(key: str) -> Callable:
        def of_output(_module, inputs, output) -> None:
            into[key].append((inputs[0] if key == "product" else output).detach())

        return of_output

    handles = []
    for key, names in NAMES.items():
        (name,) = (n for n in names if hasattr(layer, n))
        handles.append(getattr(layer, name).register_forward_hook(writer(key)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _held(parts: list[Tensor]) -> Held:
    values = torch.cat([p.flatten() for p in parts])
    size, bits = entropy_of((values.double() * GRID).round().long()[None])
    return Held(size, bits, bimodality(values))


def _mean(found: list[Held]) -> Held:
    known = [h.bimodality for h in found if h.bimodality is not None]
    return Held(
        statistics.fmean(h.value_set for h in found),
        statistics.fmean(h.entropy for h in found),
        statistics.fmean(known) if known else None,
    )


@torch.inference_mode()
def measure(model: nn.Module, split: data.Split, n_images: int) -> dict[str, Held]:
    """Run ``n_images`` of a split through a network; q, k, v and product, means over blocks.

    Raises:
        ConfigError: a network without such an attention.
    """
    model.eval()
    layers = attention_layers(model)
    n = min(n_images, len(split))
    per_layer: list[dict[str, Held]] = []
    for layer in layers:  # one after the other: values of all blocks at once would be large
        found: dict[str, list[Tensor]] = {key: [] for key in NAMES}
        with _recorded(layer, found):
            for start in range(0, n, BATCH):
                index = np.arange(start, min(start + BATCH, n))
                model(model.preprocess(np.ascontiguousarray(split.take(index))))
        per_layer.append({key: _held(parts) for key, parts in found.items()})
    return {key: _mean([of[key] for of in per_layer]) for key in NAMES}


def _cell(values: list[float | None], digits: int) -> str:
    known = [v for v in values if v is not None]
    if not known:
        return "-"
    mean, deviation = mean_and_deviation(known)
    return f"{mean:.{digits}f} +- {deviation:.{digits}f}"


def summary(groups: dict[str, list[dict[str, Held]]], n_images: int) -> str:
    """The report as Markdown."""
    lines = [
        f"Measured on {n_images} images; mean +- standard deviation over checkpoints.",
        "",
        "| network | tensor | value-set size | entropy, bits | bimodality |",
        "|---|---|---|---|---|",
    ]
    for name, found in groups.items():
        for key in NAMES:
            held = [of[key] for of in found]
            cells = (
                _cell([h.value_set for h in held], 0),
                _cell([h.entropy for h in held], 3),
                _cell([h.bimodality for h in held], 3),
            )
            lines.append(f"| {name} | {key} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _parse(argv: list[str] | None) -> argparse.Namespace:
    words = "Values, entropy and bimodality inside the attention of checkpoints."
    return groups_parser("python -m training.attention", words).parse_args(argv)


def _measured(path: str, args: argparse.Namespace) -> dict[str, Held]:
    model = models.restore(checkpoint.load(path), path)
    steps = model.config.n_steps
    _, splits = data.open_split(args.data, args.data_dir, data.DataConfig(), steps)
    with engine.world("cpu"):
        return measure(model, splits["test"], args.images)


def _work(args: argparse.Namespace) -> None:
    if args.threads:
        torch.set_num_threads(args.threads)
    groups = {
        name: [_measured(p, args) for p in paths]
        for name, paths in groups_of(args.checkpoints).items()
    }
    out = Path(args.out)
    text = summary(groups, args.images)
    content = {
        name: [{key: asdict(h) for key, h in of.items()} for of in found]
        for name, found in groups.items()
    }
    plots.write_text(out.with_name(f"{out.name}.md"), text)
    plots.write_text(out.with_name(f"{out.name}.json"), json.dumps(content, indent=1))
    print(text, end="")


def main(argv: list[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    return guarded(_parse, _work, argv)


if __name__ == "__main__":
    sys.exit(main())
