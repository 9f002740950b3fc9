"""Model families: which checkpoints are known and how each becomes a spiking graph.

To add a family, write `importers/<family>.py` (NAME, SETTINGS, recognises, build) and list it here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from bestdeploy import ir
from bestdeploy.errors import UnsupportedModelError
from bestdeploy.importers import (
    a2os2a,
    bestformer,
    checkpoint,
    qsd,
    sdt_v1,
    sdt_v2,
    settings,
    signatures,
    spikformer,
    spikingformer,
)

FAMILIES: tuple[ModuleType, ...] = (
    bestformer, spikingformer, spikformer, sdt_v1, a2os2a, sdt_v2, qsd,
)  # fmt: skip


def import_checkpoint(
    path: str | Path,
    *,
    family: str | None = None,
    config: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    deployed: bool = True,
) -> ir.Model:
    """Read a checkpoint and build its spiking graph.

    Args:
        path: the checkpoint file.
        family: name of the family; recognised from the tensor names when None.
        config: TOML file with settings.
        overrides: settings given by the caller, strongest.
        deployed: the graph is to be deployed; else it is evaluated as it was trained, and what
            only a deployed network has (`weight_bits`) need not be said.

    Raises:
        CheckpointError, UnsupportedModelError, UsageError: see `importers.settings`.
    """
    stated = settings.read_config(config)
    content = checkpoint.read(path, ema=settings.wants_ema(overrides, stated))
    chosen = _choose(family or stated.pop("family", None), content)
    sources = {"--set": dict(overrides or {}), "--config": stated, "checkpoint args": content.args}
    if not deployed:
        sources["the float network"] = {"weight_bits": 8}
    return chosen.build(content, sources)


def _choose(name: str | None, content: checkpoint.Checkpoint) -> ModuleType:
    names = ", ".join(f.NAME for f in FAMILIES)
    if name is not None:
        for family in FAMILIES:
            if name == family.NAME:
                return _confirmed(family, content)
        raise UnsupportedModelError(f"family `{name}` is unknown", hint=f"known families: {names}")
    keys = set(content.tensors)
    found = [family for family in FAMILIES if family.recognises(keys)]
    if found:  # names alone do not tell A2OS2A from Spikformer: the args do
        stated = content.args.get("family")
        return next((family for family in found if stated == family.NAME), found[0])
    foreign = signatures.recognise(keys)
    if foreign is not None:
        raise UnsupportedModelError(
            f"this is a checkpoint of {foreign}, which is recognised but not imported",
            where=str(content.path),
            hint=f"imported families: {names}",
        )
    shown = ", ".join(f"`{k}`" for k in sorted(keys)[:3])
    raise UnsupportedModelError(
        f"no known model family has these {len(keys)} tensors ({shown}, ...)",
        where=str(content.path),
        hint=f"known families: {names}; name one with --family",
    )


def _confirmed(family: ModuleType, content: checkpoint.Checkpoint) -> ModuleType:
    """Return a family that the caller asked for; refuse the tensors of another one."""
    keys = set(content.tensors)
    other = next((f.NAME for f in FAMILIES if f is not family and f.recognises(keys)), None)
    other = other or signatures.recognise(keys)
    if other is None or family.recognises(keys):
        return family
    raise UnsupportedModelError(
        f"family `{family.NAME}` was asked for, these are the tensors of {other}",
        where=str(content.path),
        hint="leave --family away: the family is found from the tensor names",
    )
