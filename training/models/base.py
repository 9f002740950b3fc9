"""What the configuration of every family can do: names in checkpoints, checks, neurons."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import ClassVar

from training.neurons import LIF

SIZES = ("depth", "heads", "n_steps", "image_size", "channels", "classes", "mlp_ratio")


def require(name: str, value, allowed) -> None:
    """Raise ValueError unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}; got {value!r}")


class NetworkConfig:
    """Base of the families' dataclasses; it has no field of its own."""

    FAMILY: ClassVar[str] = ""
    # our name -> its name in checkpoints, where the published code has another
    CHECKPOINT_NAMES: ClassVar[dict[str, str]] = {
        "depth": "layer",
        "heads": "num_heads",
        "n_steps": "time_step",
        "image_size": "img_size",
        "channels": "in_channels",
        "classes": "num_classes",
    }
    # settings that older checkpoints do not state, because there was one choice
    OPTIONAL: ClassVar[tuple[str, ...]] = ()

    def to_args(self) -> dict:
        """The config under the names checkpoints use."""
        names = self.CHECKPOINT_NAMES
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {"family": self.FAMILY} | {names.get(k, k): v for k, v in plain.items()}

    @classmethod
    def from_args(cls, args: dict):
        """Inverse of ``to_args``; keys of ``args`` that do not describe the network are ignored.

        Raises:
            ValueError: another family, or a key is missing that has no default.
        """
        if args.get("family") != cls.FAMILY:
            raise ValueError(
                f"this checkpoint is of family {args.get('family')!r}, not {cls.FAMILY!r}"
            )
        given, missing = {}, []
        for field in fields(cls):
            key = cls.CHECKPOINT_NAMES.get(field.name, field.name)
            if args.get(key) is not None:
                given[field.name] = args[key]
            elif field.name not in cls.OPTIONAL:
                missing.append(key)
        if missing:
            raise ValueError(f"checkpoint args lack {', '.join(missing)}")
        return cls(**given)

    def check_sizes(self, *more: str) -> None:
        """Raise ValueError unless the sizes of the network are positive whole numbers."""
        for name in (*SIZES, *more):
            value = getattr(self, name, 1)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if not isinstance(self.decay_input, bool):
            raise ValueError(f"decay_input must be true or false, got {self.decay_input!r}")
        require("input", self.input, ("image", "events"))

    def neuron(self, **changes) -> LIF:
        """A neuron with this network's constants."""
        return LIF(**({"tau": self.tau, "decay_input": self.decay_input} | changes))
