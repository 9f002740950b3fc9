"""Make a checkpoint small enough to ship, without changing one logit.

    python -m training.shrink ck.pt small.pt

Latent binary weights are replaced by their signs, int8: a row of signs b has a mean strictly
between -1 and 1 as soon as both signs occur (in a row of latent weights they do, its centred sum
is 0), so sign(b - mean b) = b, and whoever binarises the file again gets the same bits. Everything
else stays as it is. The file is compressed (8 signs in a little more than a byte). It cannot be
trained further: keep the original for that.
"""

from __future__ import annotations

import argparse
import io
import sys
import zipfile
from pathlib import Path

import torch

from training import checkpoint, models
from training.errors import CheckpointError, OutputError, UnsupportedError, guarded
from training.layers import BinaryConv1d, BinaryConv2d, binarise


def signs(ckpt: dict, where: str) -> dict:
    """The checkpoint with signs for latent weights.

    Raises:
        UnsupportedError: it has no binary weights.
        CheckpointError: a weight is exactly its row's mean, so the published code gives it no sign.
    """
    model = models.restore(ckpt, where)
    state = dict(ckpt["state_dict"])
    found = False
    for name, module in model.named_modules():
        if not isinstance(module, BinaryConv1d | BinaryConv2d):
            continue
        found = True
        bits = binarise(module.weight.detach(), module.variant)
        if bool((bits == 0).any()):
            raise CheckpointError(f"{where}: {name}.weight has a weight without a sign")
        if not torch.equal(binarise(bits, module.variant), bits):
            raise CheckpointError(f"{where}: {name}.weight has a row of one sign")
        state[f"{name}.weight"] = bits.to(torch.int8)
    if not found:
        raise UnsupportedError(f"{where} has no binary weights", hint="only BESTformer has")
    return ckpt | {"state_dict": state}


def compressed(content: dict) -> bytes:
    """The bytes of ``torch.save`` with every entry of its zip archive deflated."""
    plain, small = io.BytesIO(), io.BytesIO()
    torch.save(content, plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(small, "w") as new:
        for entry in old.infolist():
            info = zipfile.ZipInfo(entry.filename)  # no times: the same bytes every time
            new.writestr(info, old.read(entry), zipfile.ZIP_DEFLATED, 9)
    return small.getvalue()


def _work(args: argparse.Namespace) -> None:
    data = compressed(signs(checkpoint.load(args.checkpoint), args.checkpoint))
    out = Path(args.out)
    try:
        out.write_bytes(data)
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror}") from error
    models.load(out)  # reads back
    print(f"{out}: {len(data) / 1e6:.2f} MB, from {Path(args.checkpoint).stat().st_size / 1e6:.2f}")


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.shrink", description="Signs instead of latent weights."
    )
    parser.add_argument("checkpoint", help="as `python -m training.train` wrote it")
    parser.add_argument("out", help="file to write")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    return guarded(_parse, _work, argv)


if __name__ == "__main__":
    sys.exit(main())
