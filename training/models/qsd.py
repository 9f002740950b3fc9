"""QSD-Transformer: Meta-SpikeFormer with few-bit weights and neurons of several levels.

Every convolution and linear layer has weights of ``weight_bits`` bits, a learned step per output
channel (`training.quantisers`); neurons are IE-LIF (`training.graded`) with levels 0..4, output
level / 4, and level / 2 behind q (k^T v); residual branches are scaled by learned factors that
start at ``layer_scale``. ``ie_leak`` = 0 is the released code, whose neuron has no memory.

Options of the paper that the released code lacks; what it leaves open are fields of the config:

    ``entropy``    times (log2 5 - mean entropy of the levels of q, k and v) is added to the loss:
                   information-entropy maximisation
    [distill] ``attention`` times the mean squared difference between the row-normalised q k^T of
                   this network and of its teacher is added: fine-grained attention distillation;
                   the teacher is a network of this topology, e.g. one of neuron_kind "relu"
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.graded import IELIF, level_entropy
from training.models import meta_spikeformer as meta
from training.models.base import require
from training.quantisers import LSQConv1d, LSQConv2d, LSQLinear, weight_range

N_LEVELS = 4


@dataclass(frozen=True)
class QSDConfig(meta.MetaConfig):
    """Everything that fixes the network."""

    FAMILY: ClassVar[str] = "qsd"
    OPTIONAL: ClassVar[tuple[str, ...]] = (*meta.MetaConfig.OPTIONAL, "entropy", "ie_leak")

    attn_scale: float = 0.25
    neuron_kind: str = "ielif"
    weight_bits: int = 4
    layer_scale_init: float = 1e-6
    ie_leak: float = 0.0
    entropy: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        weight_range(self.weight_bits)
        require("neuron_kind", self.neuron_kind, ("ielif", "lif"))
        if not self.entropy >= 0:
            raise ValueError(f"entropy must not be negative, got {self.entropy}")

    def spike(self, attention: bool = False) -> nn.Module:
        """A neuron; ``attention``: the one behind q (k^T v)."""
        if self.neuron_kind == "lif":
            return super().spike(attention)
        return IELIF(N_LEVELS, divisor=2.0 if attention else 4.0, leak=self.ie_leak)

    def conv2d(self, *args, **kwargs) -> nn.Module:
        """A convolution of few-bit weights."""
        return LSQConv2d(*args, bits=self.weight_bits, **kwargs)

    def conv1d(self, *args, **kwargs) -> nn.Module:
        """A convolution over tokens, of few-bit weights."""
        return LSQConv1d(*args, bits=self.weight_bits, **kwargs)

    def linear(self, n_in: int, n_out: int) -> nn.Module:
        """A head of few-bit weights."""
        return LSQLinear(n_in, n_out, bits=self.weight_bits)

    def layer_scale(self, width: int) -> nn.Parameter:
        """Learned factors of a residual branch [C]."""
        return nn.Parameter(torch.full((width,), float(self.layer_scale_init)))


class QSD(meta.MetaSpikeformer):
    """The network; ``forward`` takes what ``preprocess`` returns."""

    def __init__(self, config: QSDConfig) -> None:
        super().__init__(config)
        self._membranes: list[Tensor] = []
        if config.entropy:
            for attention in self.attentions():
                for name in ("q_lif", "k_lif", "v_lif"):
                    getattr(attention, name).register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple[Tensor], _output: Tensor) -> None:
        if self.training and torch.is_grad_enabled():
            gain = module.gain if isinstance(module, IELIF) else 1.0
            self._membranes.append(inputs[0] * gain)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits; see the base class."""
        self._membranes.clear()
        return super().forward(x)

    def extra_loss(self, teacher: nn.Module | None, attention: float) -> Tensor | float:
        """What the options add to the loss of the last forward pass."""
        total: Tensor | float = 0.0
        if self._membranes:
            found = torch.stack([level_entropy(u, N_LEVELS) for u in self._membranes]).mean()
            total = total + self.config.entropy * (math.log2(N_LEVELS + 1) - found)
            self._membranes.clear()
        if attention and teacher is not None:
            total = total + attention * attention_distance(self, teacher.module)
        return total


def attention_distance(student: meta.MetaSpikeformer, teacher: meta.MetaSpikeformer) -> Tensor:
    """Mean squared difference of the row-normalised attention maps, mean over T, of two networks.

    Both have run with ``keep_maps`` set on their attention layers; a row of zeros stays zeros.
    """
    pairs = zip(student.attentions(), teacher.attentions(), strict=True)
    found = []
    for a, b in pairs:
        rows = (F.normalize(x.maps.float().mean(0), dim=-1) for x in (a, b))
        one, other = rows
        found.append((one - other.detach()).square().sum(-1).mean())
    return torch.stack(found).mean()


Config, Model = QSDConfig, QSD
