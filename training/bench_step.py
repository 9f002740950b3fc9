"""Time of a training step against the same network with spikingjelly's neurons.

    python -m training.bench_step [--dim 64] [--depth 1] [--batch 32] [--amp bf16] [--compile]
        [--compile-network] [--device cuda]

One BESTformer, the same weights and images, the neurons exchanged in place for
    plain          ordinary autograd operations, step by step (the reference)
    spikingjelly   its multi-step LIF, torch backend (skipped where it is not installed)
    fused          ours: one autograd function for all T steps
    compiled       ours through torch.compile (with --compile)
    network        the whole network through torch.compile, neurons and all (with --compile-network)
in one process, in turns, so that a busy machine disturbs all alike. "step" is forward, loss and
backward; the smallest of the repeated times is given, as CPU time of the process and as wall time.
"""

from __future__ import annotations

import argparse
import inspect
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training import neurons
from training.config import AMP
from training.engine import DTYPES
from training.errors import ConfigError, guarded
from training.models.bestformer import BESTformer, BESTformerConfig
from training.models.skeleton import Network
from training.neurons import LIF, LIFParameters, plain_lif


class Plain(nn.Module):
    """The neuron as a loop of ordinary operations."""

    def __init__(self, p: LIFParameters) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Spikes [T, ...] of ``x`` [T, ...]."""
        return plain_lif(x, self.p)


class Peer(nn.Module):
    """spikingjelly's multi-step neuron, its membrane reset before every call."""

    def __init__(self, p: LIFParameters) -> None:
        super().__init__()
        common = {
            "tau": p.tau,
            "decay_input": p.decay_input,
            "v_threshold": p.v_threshold,
            "v_reset": None if p.reset == "soft" else p.v_reset,
            "detach_reset": p.detach_reset,
        }
        try:  # releases from 0.0.0.0.14 on; the last ones choose the backend themselves
            from spikingjelly.activation_based import neuron, surrogate

            known = inspect.signature(neuron.LIFNode.__init__).parameters
            named = {"backend": "torch"} if "backend" in known else {}
            self.node = neuron.LIFNode(
                surrogate_function=surrogate.Sigmoid(p.alpha), step_mode="m", **named, **common
            )
        except ImportError:
            from spikingjelly.clock_driven import neuron, surrogate

            self.node = neuron.MultiStepLIFNode(
                surrogate_function=surrogate.Sigmoid(p.alpha), backend="torch", **common
            )

    def forward(self, x: Tensor) -> Tensor:
        """Spikes [T, ...] of ``x`` [T, ...]."""
        self.node.reset()
        return self.node(x)


def with_neurons(model: Network, make: Callable[[LIFParameters], nn.Module]) -> Network:
    """Exchange every neuron of ``model`` in place."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, LIF):
                setattr(module, name, make(child.parameters_))
    return model


def step(model: nn.Module, x: Tensor, y: Tensor, amp: str = "none") -> Tensor:
    """Forward, loss, backward; returns the loss."""
    model.zero_grad(set_to_none=True)
    with torch.autocast(x.device.type, DTYPES.get(amp), enabled=amp != "none"):
        outputs = model(x)
    value = sum(F.cross_entropy(out.float(), y) for out in outputs)
    value.backward()
    if x.is_cuda:
        torch.cuda.synchronize()
    return value.detach()


def _networks(args: argparse.Namespace) -> dict[str, Network]:
    try:
        config = BESTformerConfig(args.depth, args.dim, max(1, args.dim // 16), 4, 28, 1, 10)
    except ValueError as error:
        raise ConfigError(str(error)) from error

    def network() -> BESTformer:
        torch.manual_seed(0)
        model = BESTformer(config).to(args.device).train()
        model.init_neuron_norms(1.5, 0.5)
        return model

    found = {"plain": with_neurons(network(), Plain)}
    try:
        found["spikingjelly"] = with_neurons(network(), Peer)
    except ImportError as error:
        print(f"spikingjelly is left out: {error}", file=sys.stderr)
    found["fused"] = network()
    if args.compile:
        found["compiled"] = network()
    if args.compile_network:
        found["network"] = network()
        for region in found["network"].regions():
            region.compile()
    return found


def _work(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    models = _networks(args)
    x = torch.randn(args.batch, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    y = torch.arange(args.batch) % 10
    x, y = x.to(args.device), y.to(args.device)
    losses, cpu, wall = {}, {}, {}
    for turn in range(args.repeat + 1):  # the first turn warms up
        for name, model in models.items():
            neurons.use_compiled(name == "compiled")
            if name in ("compiled", "network"):
                step(model, x, y, args.amp)
            began, began_wall = time.process_time(), time.perf_counter()
            losses[name] = float(step(model, x, y, args.amp))
            if turn:
                cpu.setdefault(name, []).append(time.process_time() - began)
                wall.setdefault(name, []).append(time.perf_counter() - began_wall)
    neurons.use_compiled(False)
    network = f"BESTformer-{args.depth}-{args.dim}, T 4, 28x28x1, batch {args.batch}"
    where = f"{args.device}, {args.threads} thread(s), amp {args.amp}, torch {torch.__version__}"
    print(f"{network}, {where}, best of {args.repeat}")
    print("| neurons | CPU ms | wall ms | loss |")
    print("|---|---|---|---|")
    for name in models:
        print(f"| {name} | {1e3 * min(cpu[name]):.1f} | {1e3 * min(wall[name]):.1f} "
              f"| {losses[name]:.6f} |")  # fmt: skip


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.bench_step", description="Time of a training step."
    )
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--depth", type=int, default=1)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--amp", default="none", choices=AMP)
    parser.add_argument("--compile", action="store_true", help="also with compiled neurons")
    parser.add_argument("--compile-network", action="store_true", help="also compiled as a whole")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    return guarded(_parse, _work, argv)


if __name__ == "__main__":
    sys.exit(main())
