"""Checkpoints, settings and what the passes cannot hold."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from error_table.definition import Case, Make
from error_table.makers import checkpoint, file

HEAD = "head.weight"
CONV = "patch_embed.block1_conv.weight"
NORM = "block.0.mlp.mlp1_bn"
LAMBDA = "block.0.attn.lambda_attn"


def saved(make_content: Callable[[], object], name: str = "changed.pt") -> Make:
    """Write anything with torch.save."""

    def write(folder: Path) -> None:
        import torch

        torch.save(make_content(), folder / name)

    return write


def without(*keys: str) -> Make:
    """Take tensors out of the checkpoint."""
    return checkpoint(lambda tensors, args: [tensors.pop(key) for key in keys])


def args(**changes: Any) -> Make:
    """Change args of the checkpoint; None takes one out."""

    def change(tensors: dict[str, Any], found: dict[str, Any]) -> None:
        for key, value in changes.items():
            if value is None:
                found.pop(key, None)
            else:
                found[key] = value

    return checkpoint(change)


def tensor(key: str, change: Callable[[Any], Any]) -> Make:
    """Replace a tensor of the checkpoint by what `change` makes of it."""
    return checkpoint(lambda tensors, args: tensors.update({key: change(tensors[key].clone())}))


def filled(key: str, value: float) -> Make:
    return tensor(key, lambda t: t.fill_(value))


def evil() -> object:
    return {"state_dict": {}, "args": Path("/")}


def meta() -> object:
    import torch

    return {"state_dict": {"a": torch.zeros(2, device="meta")}}


def one_lambda(folder: Path) -> None:
    """One lambda for all heads, and nothing that says how many heads there are."""

    def change(tensors: dict[str, Any], found: dict[str, Any]) -> None:
        tensors[LAMBDA] = tensors[LAMBDA][:, :, :1].clone()
        for key in ("heads", "num_heads"):
            found.pop(key, None)

    checkpoint(change)(folder)


def expanded() -> object:
    import torch

    return {"state_dict": {"a": torch.zeros(1).expand(1 << 21)}}


def empty_pickle(folder: Path) -> None:
    """A file of torch's form whose pickle takes from an empty stack."""
    parts = {"data.pkl": b"\x80\x02.", "version": b"3\n", "byteorder": b"little"}
    with zipfile.ZipFile(folder / "changed.pt", "w") as archive:
        for name, data in parts.items():
            archive.writestr(f"archive/{name}", data)


def bits() -> object:
    import torch

    return {"state_dict": {"a": torch.empty(2, dtype=torch.bits8)}}


def complex_numbers() -> object:
    import torch

    return {"state_dict": {"a": torch.zeros(2, dtype=torch.complex64)}}


def foreign() -> object:
    """Tensor names of another model of the field."""
    import torch

    names = ("patch_embed1.proj_conv.weight", "stage1.0.tssa.q_conv.weight")
    return {"state_dict": dict.fromkeys(names, torch.zeros(1))}


def unknown() -> object:
    import torch

    return {"state_dict": dict.fromkeys("abcd", torch.zeros(1))}


def bare_events(folder: Path) -> None:
    """The state dict alone of the event-camera network."""
    import torch

    content = torch.load(folder / "events.pt", weights_only=True)
    torch.save(content["state_dict"], folder / "changed.pt")


UNKNOWN_WORDS = (  # setting, what it expects, what the published code uses
    ("variant", "official or paper", "official"),
    ("attention", "qk or kv", "qk"),
    ("binariser", "soft, hard or boolean", "..."),
    ("residual", "reversible or plain", "..."),
    ("readout", "average, classification or distillation", "..."),
    ("input", "image or events", "..."),
)


def cut_checkpoint(folder: Path) -> None:
    content = (folder / "ckpt.pt").read_bytes()
    (folder / "cut.pt").write_bytes(content[: len(content) // 2])


CHECKPOINT_CASES: tuple[Case, ...] = (
    # files
    Case(
        "export none.pt",
        7,
        "cannot read `none.pt`: No such file or directory",
        "give a .pt, .pth, .pth.tar or .safetensors file",
        where="none.pt",
    ),
    Case(
        "export text.pt",
        7,
        "`text.pt` is refused: not a checkpoint, or it holds more than tensors and "
        "plain values (*)",
        "save a file with only the state dict: torch.save(model.state_dict(), ...)",
        where="text.pt",
        make=file("text.pt", "no checkpoint"),
    ),
    Case(
        "export empty.pt",
        7,
        "`empty.pt` is truncated or not a torch checkpoint (EOFError)",
        "is the file whole? copy or download it again",
        where="empty.pt",
        make=file("empty.pt", ""),
    ),
    Case(
        "export text.safetensors",
        7,
        "`text.safetensors` is damaged or not a .safetensors file (*)",
        "is the file whole? copy or download it again",
        where="text.safetensors",
        make=file("text.safetensors", "no checkpoint"),
    ),
    Case(
        "export cut.pt",
        7,
        "`cut.pt` is truncated or not a torch checkpoint (*)",
        "is the file whole? copy or download it again",
        where="cut.pt",
        make=cut_checkpoint,
    ),
    Case(
        "export changed.pt",
        7,
        "`changed.pt` is refused: not a checkpoint, or it holds more than tensors and "
        "plain values (*)",
        "save a file with only the state dict: torch.save(model.state_dict(), ...)",
        where="changed.pt",
        make=saved(evil),
    ),
    Case(
        "export changed.pt",
        7,
        "`changed.pt` holds a list, expected a dictionary of tensors",
        "save a file with only the state dict: torch.save(model.state_dict(), ...)",
        where="changed.pt",
        make=saved(lambda: [1, 2]),
    ),
    Case(
        "export changed.pt",
        7,
        "`changed.pt` holds no state dict; its keys are ['a']",
        "expected `state_dict`, `model`, or the tensors themselves",
        where="changed.pt",
        make=saved(lambda: {"a": 1}),
    ),
    Case(
        "export changed.pt",
        7,
        "`changed.pt` holds an empty state dict",
        "save a file with only the state dict: torch.save(model.state_dict(), ...)",
        where="changed.pt",
        make=saved(lambda: {"state_dict": {}}),
    ),
    Case(
        "export changed.pt",
        7,
        "`a` is a int, expected a tensor",
        "save a file with only the state dict: torch.save(model.state_dict(), ...)",
        where="changed.pt",
        make=saved(lambda: {"state_dict": {"a": 1}}),
    ),
    Case(
        "export changed.pt",
        7,
        "`a` is on the meta device: it has a shape and no values",
        "load the weights before the checkpoint is saved",
        where="changed.pt",
        make=saved(meta),
    ),
    Case(
        "export changed.pt",
        7,
        "`a` is dense torch.complex64, expected real dense numbers",
        "save float32 or float16 tensors",
        where="changed.pt",
        make=saved(complex_numbers),
    ),
    Case(
        "export changed.pt",
        7,
        "`a` has shape (2097152,) over 4 bytes of values",
        "save its .contiguous() copy",
        where="changed.pt",
        make=saved(expanded),
    ),
    Case(
        "export changed.pt",
        7,
        "`a` of torch.bits8 cannot be read as numbers (\"copy_\" not implemented for 'Bits8')",
        "save float32 or float16 tensors",
        where="changed.pt",
        make=saved(bits),
    ),
    Case(
        "export changed.pt",
        7,
        "`changed.pt` is not a torch checkpoint (IndexError)",
        "is the file whole? copy or download it again",
        where="changed.pt",
        make=empty_pickle,
    ),
    Case(
        "export ckpt.pt",
        3,
        "reading a checkpoint needs torch, which is not installed",
        "pip install 'bestdeploy[export]'",
        hidden=("torch",),
    ),
    Case(
        "export a.safetensors",
        3,
        "reading a .safetensors file needs safetensors, which is not installed",
        "pip install 'bestdeploy[export]'",
        hidden=("safetensors.torch",),
        make=file("a.safetensors", "?"),
    ),
    # families
    Case(
        "export ckpt.pt --family resnet",
        4,
        "family `resnet` is unknown",
        "known families: bestformer, *",
    ),
    Case(
        "export changed.pt",
        4,
        "this is a checkpoint of QKFormer, which is recognised but not imported",
        "imported families: bestformer, *",
        where="changed.pt",
        make=saved(foreign),
    ),
    Case(
        "inspect changed.pt --set tau=2",
        2,
        "--set and --config: the family of `changed.pt` is not imported",
        "imported families: bestformer, *",
        make=saved(foreign),
    ),
    Case(
        "export changed.pt",
        4,
        "no known model family has these 4 tensors (`a`, `b`, `c`, ...)",
        "known families: bestformer, *; name one with --family",
        where="changed.pt",
        make=saved(unknown),
    ),
    # tensors
    Case(
        "export changed.pt",
        7,
        "tensor `head.weight` is missing",
        "nearest names: head2.weight, head.bias",
        where="changed.pt",
        make=without(HEAD),
    ),
    Case(
        "export changed.pt",
        7,
        "1 tensors do not belong to this model: `extra`",
        "is this another family or variant? see `bestdeploy export --help`",
        where="changed.pt",
        make=checkpoint(lambda tensors, args: tensors.update(extra=tensors[HEAD])),
    ),
    Case(
        "export changed.pt",
        7,
        "`head.weight` is there twice (with and without `module.`)",
        "save one of the two",
        where="changed.pt",
        make=checkpoint(lambda tensors, args: tensors.update({f"module.{HEAD}": tensors[HEAD]})),
    ),
    Case(
        "export changed.pt",
        7,
        "`head.weight` has shape (16,), expected 2 axes",
        "is this another family or variant? see `bestdeploy export --help`",
        where="changed.pt",
        make=tensor(HEAD, lambda t: t[0]),
    ),
    Case(
        "export changed.pt",
        7,
        "`head.bias` has shape (4,), expected (5,)",
        "is this another family or variant? see `bestdeploy export --help`",
        where="changed.pt",
        make=tensor("head.bias", lambda t: t[:-1]),
    ),
    Case(
        "export changed.pt",
        7,
        "`head.bias` is nan at (0,) (5 values are not finite)",
        "the training has diverged: take an earlier checkpoint",
        where="changed.pt",
        make=filled("head.bias", float("nan")),
    ),
    Case(
        "export changed.pt",
        7,
        "`block.0.mlp.mlp1_bn.running_var` is -1.0 in channel 0: a variance is never negative",
        "the file is damaged, or its training has diverged",
        where="changed.pt",
        make=filled(f"{NORM}.running_var", -1.0),
    ),
    Case(
        "export changed.pt",
        7,
        "`patch_embed.block1_conv.weight`: 72 weights equal their row mean, their sign is 0",
        "variant=paper gives them +1; the official code gives 0, which no bit holds",
        where="changed.pt",
        make=filled(CONV, 0.0),
    ),
    Case(
        "export changed.pt",
        4,
        "values reach 4.76e+22, which no integer format here holds",
        "are the weights and batch norm statistics of this layer sound?",
        where="head.merged0",
        make=filled(HEAD, 1e20),
    ),
    Case(
        "export changed.pt",
        4,
        "a head weight needs 32 bits, at most 31 are held",
        "weights of the heads must stay below about 2000",
        where="head",
        make=filled(HEAD, 5e3),
    ),
    Case(
        "export changed.pt",
        4,
        "values reach 7.99e+09, which no integer format here holds",
        "are the weights and batch norm statistics of this layer sound?",
        where="patch_embed.block0_conv",
        make=filled("patch_embed.block0_bn.weight", 1e12),
    ),
    # settings
    Case(
        "export ckpt.pt --set colour=red",
        2,
        "--set colour: family `bestformer` has no such setting",
        "known settings: *",
    ),
    Case(
        "export ckpt.pt --set tua=2",
        2,
        "--set tua: family `bestformer` has no such setting",
        "did you mean tau? known settings: *",
    ),
    Case(
        "export ckpt.pt --config none.toml",
        7,
        "cannot read `none.toml`: No such file or directory",
        "check --config",
        where="none.toml",
    ),
    Case(
        "export ckpt.pt --config text.toml",
        7,
        "`text.toml` is not a TOML file: Invalid statement (at line 1, column 1)",
        'one setting per line: tau = 2.0, variant = "official"',
        where="text.toml",
        make=file("text.toml", "= ="),
    ),
    Case(
        "export ckpt.pt --config list.toml",
        7,
        "`list.toml`: model=3, expected a table [model]",
        "put the settings below a line [model], or without any table",
        where="list.toml",
        make=file("list.toml", "model = 3"),
    ),
    Case(
        "export ckpt.pt --config own.toml",
        2,
        "--config colour: family `bestformer` has no such setting",
        "known settings: *",
        make=file("own.toml", "colour = 3"),
    ),
    *(
        Case(
            f"export ckpt.pt --set {name}=dream",
            2,
            f"{name}='dream' (from --set): must be {expected}",
            f"override it with --set {name}={usual}",
            where=f"setting {name}",
        )
        for name, expected, usual in UNKNOWN_WORDS
    ),
    Case(
        "export changed.pt",
        4,
        "the checkpoint does not say `variant`, `attention`, `image_size`, `tau`, `decay_input` "
        "and nothing is guessed (*)",
        "no code is published that says it, give what was trained: --set variant=... "
        "--set attention=... --set image_size=... --set tau=... --set decay_input=...",
        where="family bestformer",
        make=bare_events,
    ),
    Case(
        "export ckpt.pt --set ema=true",
        7,
        "`ckpt.pt` holds no averaged weights (`state_dict_ema`)",
        "leave ema=true away: the file has one set of weights",
        where="setting ema",
    ),
    Case(
        "inspect ckpt.pt --set ema=some",
        2,
        "ema='some' (from --set): must be true or false",
        "override it with --set ema=...",
        where="setting ema",
    ),
    Case(
        "export ckpt.pt --set tau=few",
        2,
        "tau='few' (from --set): must be a number >= 1",
        "override it with --set tau=2.0",
        where="setting tau",
    ),
    Case(
        "export changed.pt",
        4,
        "tau=-1 (from checkpoint args): must be a number >= 1",
        "override it with --set tau=2.0",
        where="setting tau",
        make=args(tau=-1),
    ),
    Case(
        "export changed.pt",
        4,
        "the checkpoint does not say `attention`, `tau` and nothing is guessed "
        "(attention: qk or kv; tau: a number >= 1)",
        "the published code uses: --set attention=qk --set tau=2.0",
        where="family bestformer",
        make=args(tau=None, attention=None),
    ),
    Case(
        "export ckpt.pt --set n_steps=3",
        2,
        "n_steps=3 (from --set): lambda_attn has 2 steps",
        "a model trained with T=2 runs with T=1..2",
        where=LAMBDA,
    ),
    Case(
        "export ckpt.pt --set heads=3",
        7,
        "heads=3 (from --set), lambda_attn has 2 heads",
        "one lambda for all heads of a layer is --set variant=paper",
        where=LAMBDA,
    ),
    Case(
        "export ckpt.pt --set mean=0.1,0.2",
        4,
        "mean has 2 numbers, the image has 1 channels",
        "override it with --set mean=...",
        where="setting mean",
    ),
    Case(
        "export ckpt.pt --set std=0",
        4,
        "std=(0.0,): must be positive",
        "override it with --set std=...",
        where="setting std",
    ),
    Case(
        "export ckpt.pt --set image_size=4096",
        4,
        "image_size=(4096, 4096) gives 1048576 tokens, at most 1024",
        "override it with --set image_size=...",
        where="setting image_size",
    ),
    Case(
        "export changed.pt",
        7,
        "heads=2 (from checkpoint args), lambda_attn has 1 heads",
        "one lambda for all heads of a layer is --set variant=paper",
        where=LAMBDA,
        make=tensor(LAMBDA, lambda t: t[:, :, :1]),
    ),
    Case(
        "export changed.pt --set variant=paper --set heads=3",
        7,
        "width D=16 is not a multiple of 3 heads",
        "override it with --set heads=...",
        where="setting heads",
        make=tensor(LAMBDA, lambda t: t[:, :, :1]),
    ),
    Case(
        "export changed.pt --set variant=paper",
        4,
        "lambda_attn is one number per step, so nothing says how many `heads` there are",
        "the published code uses: --set heads=8",
        where=LAMBDA,
        make=one_lambda,
    ),
    Case(
        "export changed.pt --set variant=paper --set heads=2",
        7,
        "`block.0.attn.lambda_attn` has shape (2, 4), expected one number per step, or "
        "per step and head (T, 1, 2, 1, 1)",
        "--set heads=... says how many heads there are",
        where="changed.pt",
        make=tensor(LAMBDA, lambda t: t[:, 0, :, 0, 0].repeat(1, 2)),
    ),
    Case(
        "export changed.pt",
        7,
        "`block.0.attn.lambda_attn` has shape (1, 1), expected 5 axes",
        "is this another family or variant? see `bestdeploy export --help`",
        where="changed.pt",
        make=tensor(LAMBDA, lambda t: t[0, 0, 0]),
    ),
    Case(
        "export changed.pt",
        4,
        "T=18 time steps, supported are 1..16",
        "--set n_steps=16 takes the first 16 of them",
        where=LAMBDA,
        make=tensor(LAMBDA, lambda t: t.repeat(9, 1, 1, 1, 1)),
    ),
    Case(
        "export ckpt.pt --data none.npz",
        7,
        "`none.npz` does not exist",
        "give an image, a folder, .npy, .npz, *-idx3-ubyte.gz, or - for raw frames",
    ),
)
