"""One file per model family; each has ``Config`` and ``Model``. FAMILIES lists them."""

from __future__ import annotations

from training import checkpoint
from training.errors import CheckpointError
from training.models import (
    a2os2a,
    bestformer,
    convnet,
    meta_spikeformer,
    qsd,
    sdt_v1,
    sew_resnet,
    spikformer,
    spiking_vgg,
    spikingformer,
)
from training.models.skeleton import Network

FAMILIES = {
    module.Config.FAMILY: module
    for module in (
        bestformer,
        spikingformer,
        spikformer,
        sdt_v1,
        a2os2a,
        meta_spikeformer,
        qsd,
        spiking_vgg,
        sew_resnet,
        convnet,
    )
}


def restore(ckpt: dict, where: str) -> Network:
    """The network of a checkpoint's content, in evaluation mode.

    Raises:
        CheckpointError: unknown family, settings that are missing, or tensors that do not fit.
    """
    args = ckpt["args"]
    family = args.get("family")
    if family not in FAMILIES:
        raise CheckpointError(
            f"family {family!r} is not one of {', '.join(FAMILIES)}",
            where=where,
            hint="this checkpoint was not written by `python -m training.train`",
        )
    module = FAMILIES[family]
    try:
        model = module.Model(module.Config.from_args(args))
        model.load_state_dict(ckpt["state_dict"])
        model.set_normalisation(args["mean"], args["std"])
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"the weights do not fit the settings stated beside them: {error}",
            where=where,
            hint="is the file whole and unchanged?",
        ) from error
    return model.eval()


def load(path) -> Network:
    """Load a checkpoint of any family as a module in evaluation mode."""
    return restore(checkpoint.load(path), str(path))
