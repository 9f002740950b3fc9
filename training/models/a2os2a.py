"""A2OS2A Spiking Transformer: addition-only attention on the backbone of Spike-driven Transformer.

    attention   s = lif(x);  q = lif(bn(conv s)) in {0, 1};  k = relu(bn(conv s)) >= 0;
                v = ternary(bn(conv s)) in {-1, 0, +1};  bn(conv(lif(q k^T v)))
                no softmax, no scale; q k^T v = q (k^T v), sums of entries of k with signs
    head        head(mean over tokens and T of lif(x))                   readout "neuron_mean"

No code is published. Keys are those of Spike-driven Transformer v1 without ``talking_heads``; the
neurons are called q_lif, k_relu (k_lif), v_tlif (v_lif), attn_lif. Constants that the paper leaves
open are fields of the config: those of the ternary neuron and the threshold behind the product.
``key`` and ``value`` = "binary" give the all-binary attention of the paper's ablation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from training.graded import TernaryLIF
from training.models import sdt_v1
from training.models.base import require


@dataclass(frozen=True)
class A2OS2AConfig(sdt_v1.SDTConfig):
    """Everything that fixes the network."""

    FAMILY: ClassVar[str] = "a2os2a"

    readout: str = "neuron_mean"
    key: str = "relu"
    value: str = "ternary"
    attn_v_threshold: float = 1.0
    ternary_beta: float = 0.25
    ternary_threshold: float = 0.5
    ternary_decay_input: bool = False
    ternary_amplitude: float = 1.0
    learn_amplitude: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require("key", self.key, ("relu", "binary"))
        require("value", self.value, ("ternary", "binary"))
        if self.dvs_mode:
            raise ValueError("dvs_mode belongs to Spike-driven Transformer v1, must be false")
        if not self.attn_v_threshold > 0:
            raise ValueError(f"attn_v_threshold must be positive, got {self.attn_v_threshold}")


class Attention(sdt_v1.Attention):
    """Addition-only attention, [T, B, D, H, W] -> [T, B, D, H, W]."""

    def add_neurons(self, c: A2OS2AConfig) -> None:
        """Binary q, ReLU k, ternary v, or what the ablation puts there."""
        self.q_lif = c.neuron()
        if c.key == "relu":
            self.k_relu = nn.ReLU()
        else:
            self.k_lif = c.neuron()
        if c.value == "ternary":
            self.v_tlif = TernaryLIF(
                c.ternary_beta,
                c.ternary_threshold,
                c.ternary_decay_input,
                c.ternary_amplitude,
                c.learn_amplitude,
            )
        else:
            self.v_lif = c.neuron()
        self.attn_lif = c.neuron(v_threshold=c.attn_v_threshold)

    def mix(self, s: Tensor) -> Tensor:
        """The attention core on spikes, [T, B, D, H, W] -> [T, B, heads, N, d]."""
        key = self.k_relu if hasattr(self, "k_relu") else self.k_lif
        value = self.v_tlif if hasattr(self, "v_tlif") else self.v_lif
        q = self.split(self.q_lif(self.project("q", s)))
        k = self.split(key(self.project("k", s)))
        v = self.split(value(self.project("v", s)))
        return self.attn_lif((q @ (k.mT @ v)).mT).mT


class A2OS2A(sdt_v1.SDT):
    """The network; ``forward`` takes what ``preprocess`` returns."""

    ATTENTION = Attention


Config, Model = A2OS2AConfig, A2OS2A
