"""Config files: TOML with the tables [model], [train], [data], [distill]; recipes are in configs/.

Sizes, classes and input kind of the network come from the data set and need not be written.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path

from training.data import DataConfig, Dataset
from training.errors import ConfigError, TrainingError
from training.losses import DistillConfig
from training.models import FAMILIES
from training.models.skeleton import SkeletonConfig
from training.optimisers import OPTIMISERS

TABLES = ("model", "train", "data", "distill")
AMP = ("none", "bf16", "fp16")


@dataclass(frozen=True)
class TrainConfig:
    """The [train] table of a config file."""

    epochs: int = 10
    batch_size: int = 100  # of all processes together, per micro-batch
    accumulate: int = 1  # micro-batches per step
    optimizer: str = "adamw"
    lr: float = 1e-3
    min_lr: float = 1e-5
    warmup_lr: float = 1e-5
    warmup_epochs: float = 1.0
    cooldown_epochs: int = 0
    lr_per: str = "step"  # "step": the schedule moves every step; "epoch": once per epoch
    weight_decay: float = 0.06
    clip_grad: float = 0.0  # largest norm of the gradient; 0 = any
    label_smoothing: float = 0.1
    flip: bool = True
    crop_padding: int = 0
    rand_augment_n: int = 0
    rand_augment_m: float = 9.0  # 0..10
    erasing: float = 0.0  # probability
    mixup: float = 0.0  # parameter of the Beta law
    cutmix: float = 0.0
    mix_prob: float = 1.0
    mix_off_epoch: int = 0  # 0 = never off
    event_roll: int = 0  # pixels
    event_affine: bool = False
    rate_penalty: float = 0.0  # times the mean firing rate of all neurons, added to the loss
    tet: bool = False  # temporal efficient training: the loss of the logits of every step
    tet_lambda: float = 0.001  # of it, the share of the squared distance of logits from 1
    ema: float = 0.0  # decay of the averaged weights that are evaluated and saved; 0 = none
    amp: str = "none"
    channels_last: bool = False
    compile: bool = False  # the steps of a neuron become one loop
    compile_network: bool = False  # the whole network is compiled: fast on CUDA, slow to start
    recompute: bool = False  # reversible encoder: memory independent of depth
    sync_bn: bool = False  # batch norms of all CUDA processes share their statistics
    bn_weight_init: float = 1.0  # gamma and beta of the batch norms that feed a neuron
    bn_bias_init: float = 0.0
    bn_images: int = 0  # before a test, take the batch-norm statistics anew over this many
    test_every: int = 1  # epochs between tests; the last epoch is always tested
    save_every: int = 0  # seconds between resume files within an epoch; 0 = at its end alone
    seed: int = 42

    def __post_init__(self) -> None:
        at_least = {"epochs": 1, "batch_size": 2, "accumulate": 1, "cooldown_epochs": 0,
                    "crop_padding": 0, "bn_images": 0, "rand_augment_n": 0, "mix_off_epoch": 0,
                    "test_every": 1,
                    "event_roll": 0, "save_every": 0, "weight_decay": 0, "clip_grad": 0,
                    "mixup": 0, "cutmix": 0, "rate_penalty": 0, "min_lr": 0, "warmup_lr": 0,
                    "warmup_epochs": 0}  # fmt: skip
        for name, low in at_least.items():
            if not getattr(self, name) >= low:
                raise ConfigError(f"{name} >= {low} needed, got {getattr(self, name)}")
        for name in ("erasing", "mix_prob", "tet_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be in 0..1, got {getattr(self, name)}")
        if not (self.lr > 0 and 0 <= self.label_smoothing < 1 and 0 <= self.ema < 1):
            raise ConfigError("lr > 0, 0 <= label_smoothing < 1 and 0 <= ema < 1 are required")
        choices = {"lr_per": ("step", "epoch"), "optimizer": tuple(OPTIMISERS), "amp": AMP}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"{name} must be one of {', '.join(allowed)}; got {getattr(self, name)!r}"
                )


@dataclass(frozen=True)
class Config:
    """All tables of a file; ``model`` stays a table until the data set is known."""

    model: dict
    train: TrainConfig = field(default_factory=TrainConfig)
    data: DataConfig = field(default_factory=DataConfig)
    distill: DistillConfig | None = None
    where: str = "config"

    @property
    def n_steps(self) -> int:
        """T of the network."""
        value = self.model.get("n_steps")
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(
                f"n_steps must be a positive integer, got {value!r}", where=f"{self.where} [model]"
            )
        return value

    def model_config(self, dataset: Dataset) -> SkeletonConfig:
        """The network for this data set.

        Raises:
            ConfigError: unknown or missing keys, or sizes that the data set contradicts.
        """
        where = f"{self.where} [model]"
        table = dict(self.model)
        family = table.pop("family", "bestformer")
        if family not in FAMILIES:
            raise ConfigError(f"family {family!r} is not one of {', '.join(FAMILIES)}", where=where)
        given = {
            "image_size": dataset.image_size,
            "channels": dataset.channels,
            "classes": len(dataset.class_names),
            "input": dataset.input,
        }
        config = _table(FAMILIES[family].Config, table, where, given)
        for name, value in given.items():
            if getattr(config, name) != value:
                raise ConfigError(
                    f"{name} is {getattr(config, name)}, {dataset.name} has {value}",
                    where=where,
                    hint=f"leave {name} out: it comes from the data set",
                )
        return config


def _table(kind, table: dict, where: str, given: dict):
    known = {f.name: f for f in fields(kind)}
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise ConfigError(
            f"unknown key {', '.join(unknown)}", where=where, hint=f"known: {', '.join(known)}"
        )
    for name, value in table.items():
        _check_type(known[name], value, where)
    try:
        return kind(**(given | table))
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error), where=where) from error
    except TrainingError as error:
        error.where = error.where or where
        raise


def _check_type(f, value, where: str) -> None:
    """Refuse a text where a number stands, and the like; whole numbers pass as real ones."""
    wanted = {"int": int, "float": (int, float), "bool": bool, "str": str}.get(str(f.type))
    if wanted and (
        not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool)
    ):
        raise ConfigError(f"{f.name} must be of type {f.type}, got {value!r}", where=where)


def parse(tables: dict, where: str) -> Config:
    """A config from TOML tables.

    Raises:
        ConfigError: unknown tables or keys, or values out of range.
    """
    unknown = sorted(set(tables) - set(TABLES))
    if unknown:
        raise ConfigError(
            f"unknown table {', '.join(unknown)}", where=where, hint=f"known: {', '.join(TABLES)}"
        )
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise ConfigError(f"{name} must be a table [{name}]", where=where)
    distill = tables.get("distill")
    return Config(
        model=tables.get("model", {}),
        train=_table(TrainConfig, tables.get("train", {}), f"{where} [train]", {}),
        data=_table(DataConfig, tables.get("data", {}), f"{where} [data]", {}),
        distill=None if distill is None else _table(DistillConfig, distill,
                                                    f"{where} [distill]", {}),
        where=where,
    )  # fmt: skip


def read_tables(path) -> dict:
    """The tables of a TOML file.

    Raises:
        ConfigError: unreadable, or not TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"cannot read config {path}: {error}", hint="recipes are in training/configs/"
        ) from error


def read(path) -> Config:
    """Read a config file."""
    return parse(read_tables(path), str(path))


def changed(tables: dict, changes: dict) -> dict:
    """Tables with some keys replaced; ``changes`` maps "table.key" to a value.

    ``False`` for a whole table drops it ("distill" = false).

    Raises:
        ConfigError: a change without a dot that does not drop a table.
    """
    result = {name: dict(table) for name, table in tables.items()}
    for key, value in changes.items():
        table, dot, name = key.partition(".")
        if dot:
            result.setdefault(table, {})[name] = value
        elif value is False:
            result.pop(table, None)
        else:
            raise ConfigError(f"{key} = {value!r}: expected table.key, or a table = false")
    return result
