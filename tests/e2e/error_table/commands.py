"""Words of the command line, outputs, and comparisons of two forms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from random_nets import save

from error_table.definition import Case, Make
from error_table.makers import both, changed_onnx, file, folder, metadata
from error_table.shared import IMAGES

MORE = "leave them away, or export the checkpoint again with them"
SAME = "are both of the same model?"


def other(**changes: int) -> Make:
    """Write other.pt, a network of another shape."""

    def write(where: Path) -> None:
        save(where / "other.pt", replace(IMAGES, **changes))

    return write


def alone(where: Path) -> None:
    """Write own.bstm, which no float network lies beside."""
    content = (where / "bundle" / "model.bstm").read_bytes()
    (where / "deep").mkdir()
    (where / "deep" / "own.bstm").write_bytes(content)


def two_at_once(model: Any) -> None:
    """Let a float network take batches of two only."""
    image = model.graph.inputs[0]
    image.shape = type(image.shape)([2, *image.shape[1:]])


def of_another_checkpoint(model: Any) -> None:
    """Let a float network come from elsewhere."""
    model.metadata_props["source_sha256"] = "0" * 64


OWN_MODULE = """
import torch

class Own(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.patch_embed = torch.nn.Module()
        self.patch_embed.block1_lif = torch.nn.Identity()
    def preprocess(self, frames):
        return torch.as_tensor(frames).float()
    def forward(self, x):
        return self.patch_embed.block1_lif(x)[:, 0, :5, 0]

def build(checkpoint):
    return Own()
"""

COMMAND_CASES: tuple[Case, ...] = (
    # words of the command line
    Case("comple", 2, "No such command 'comple'. Did you mean 'compile'?", "bestdeploy --help"),
    Case("run", 2, "Missing argument 'MODEL'", "bestdeploy run --help"),
    Case(
        "run bundle frames.npz --engin c",
        2,
        "No such option: --engin (Possible options: --engine)",
        "bestdeploy run --help",
    ),
    Case(
        "run bundle frames.npz --top 0",
        2,
        "Invalid value for '--top': Input should be greater than or equal to 1",
        "bestdeploy run --help",
    ),
    Case(
        "run bundle frames.npz --engine gpu",
        2,
        "unknown engine `gpu`, expected one of c, ort, std, tvm, reference",
        "--engine c",
    ),
    Case(
        "run bundle frames.npz --engine tvm --threads 2",
        2,
        "engine `tvm` runs a frame on one thread, not on 2",
        "leave --threads away, or use --engine c",
    ),
    Case(
        "run bundle frames.npz --engine ort",
        2,
        "engine `ort` runs .onnx files, not `bundle`",
        "give the model.onnx that the .bstm was compiled from, or use --engine c",
    ),
    Case(
        "run model.onnx frames.npz --engine ort --isa scalar",
        2,
        "engine `ort` has no instruction set to choose, --isa scalar is for engine c",
        "leave --isa away, or use --engine c",
    ),
    Case(
        "run bundle frames.npz --isa vax",
        4,
        "isa `vax` cannot be used on this machine, usable: *",
        "leave it out: the best one is taken",
    ),
    Case(
        "run model.onnx frames.npz --engine ort --profile",
        2,
        "--profile looks into the C runtime, not into engine `ort`",
        "leave --profile away, or use --engine c",
    ),
    Case(
        "run bundle frames.npz --threads 300", 2, "threads is 300, expected 1..256", "--threads 1"
    ),
    Case(
        "bench bundle --float two.float.onnx",
        7,
        "`two.float.onnx` takes frames of *, the model those of *",
        "--float model.float.onnx of the same export",
    ),
    Case("bench bundle --threads 300", 2, "threads is 300, expected 1..256", "--threads 1"),
    Case(
        "bench bundle --against vax",
        2,
        "unknown --against `vax`, expected onnxruntime, onnxruntime-int8, openvino, "
        "openvino-f32, torch, ort, tvm-tir, tvm-extern",
        "--against onnxruntime",
    ),
    Case(
        "bench bundle --against onnxruntime-int8:int4",
        2,
        "unknown variant `int4` of onnxruntime-int8, here it has static-qdq-u8s8, *",
        "--against onnxruntime-int8 measures all and takes the fastest",
    ),
    Case(
        "bench bundle --float model.float.onnx --seconds 0",
        2,
        "Invalid value for '--seconds': Input should be greater than or equal to 0.1",
        "bestdeploy bench --help",
    ),
    Case(
        "bench bundle --float model.onnx",
        7,
        "`model.onnx` is an integer network, expected the float one",
        "--float model.float.onnx of the same export",
    ),
    Case(
        "bench bundle --float changed.onnx",
        7,
        "`changed.onnx` comes from another checkpoint than the model",
        "--float model.float.onnx of the same export",
        make=changed_onnx(of_another_checkpoint, "model.float.onnx"),
    ),
    Case(
        "bench bundle --float none.float.onnx",
        7,
        "`none.float.onnx` does not exist",
        "bestdeploy export writes the .onnx files",
        site="_bench/__init__.py:_float_path",
    ),
    Case(
        "bench bundle --float two.float.onnx --against torch:eager",
        7,
        "`two.float.onnx` takes frames of *, the model those of *",
        "--float model.float.onnx of the same export",
    ),
    Case(
        "bench bundle --float model.std.onnx --against torch:eager",
        7,
        "`model.std.onnx` has an op `*`, which no float network of ours has",
        "give the model.float.onnx of export",
        where="*",
    ),
    Case(
        "bench bundle --float text.onnx --against onnxruntime-int8:dynamic-u8s8",
        7,
        "ONNX Runtime cannot quantise `text.onnx`: *",
        "give the model.float.onnx of export",
        make=file("text.onnx", "?"),
    ),
    Case(
        "bench bundle --float changed.onnx",
        7,
        "onnxruntime fails: *",
        "leave it out of --against",
        make=changed_onnx(two_at_once, "model.float.onnx"),
    ),
    Case(
        "bench bundle --float model.float.onnx --data frames.raw",
        7,
        "`frames.raw` does not exist",
        "give an image, a folder, .npy, .npz, *-idx3-ubyte.gz, or - for raw frames",
    ),
    Case(
        "bench bundle --against torch --plot bench.pdf",
        2,
        "--plot bench.pdf must end in .png or .svg",
        "--plot bench.png",
    ),
    Case(
        "bench bundle --plot frames.npz/bench.png",
        8,
        "cannot write a picture to `frames.npz/bench.png`",
        "choose a file in a folder you may write to",
        where="frames.npz/bench.png",
    ),
    Case(
        "bench deep/own.bstm",
        7,
        "no float network beside `deep/own.bstm`",
        "--float model.float.onnx (bestdeploy export writes it)",
        make=alone,
    ),
    Case(
        "compile model.onnx --target vax",
        2,
        "unknown target `vax`, expected one of host, *",
        "bestdeploy targets lists them",
    ),
    Case(
        "compile model.onnx --backend vax",
        2,
        "unknown backend `vax`, expected one of c, tvm",
        "--backend c",
    ),
    Case(
        "compile model.onnx --kernels tir",
        2,
        "kernels and isa are chosen for TVM, backend `c` has every instruction set in it",
        "leave --kernels and --isa out, or use --backend tvm",
    ),
    Case(
        "compile model.onnx --backend tvm --kernels vax",
        2,
        "unknown kernels `vax`, expected auto, tir or extern",
        "--kernels auto",
    ),
    Case(
        "compile model.onnx --backend tvm --target arm --isa avx2",
        2,
        "backend `tvm` has no isa `avx2` for aarch64, expected one of neon",
        "leave --isa out",
    ),
    Case(
        "compile model.onnx --backend tvm --target c",
        4,
        "backend `tvm` cannot compile for C source, only for x86_64, aarch64, armv7l, riscv64",
        "use --backend c",
    ),
    Case("export ckpt.pt --set tau", 2, "--set tau is not of the form KEY=VALUE", "--set tau=2"),
    Case(
        "export ckpt.pt -o model.bin",
        2,
        "output `model.bin` must end in .onnx",
        "-o model.bin.onnx",
    ),
    Case(
        "export model.float.onnx -o model.onnx",
        2,
        "the export would overwrite the checkpoint `model.float.onnx` with `model.float.onnx`",
        "choose another output with -o",
    ),
    Case("inspect", 2, "there is no FILE to inspect", "bestdeploy inspect model.onnx"),
    Case(
        "inspect model.onnx --published",
        2,
        "--published takes no FILE",
        "bestdeploy inspect --published",
    ),
    Case(
        "inspect model.onnx --energy mac=few",
        2,
        "--energy mac=few is not of the form mac=PICOJOULE,ac=PICOJOULE",
        "--energy mac=4.6,ac=0.9",
    ),
    Case(
        "inspect --published --limit 3",
        2,
        "--published takes no other option than --json",
        "bestdeploy inspect --published",
    ),
    # options that nothing would use
    *(
        Case(
            f"inspect {words}",
            2,
            f"{words.split()[1]} is about frames, and there is no --data",
            "give frames with --data",
        )
        for words in (
            "model.onnx --limit 3",
            "bundle --energy mac=4",
            "events.bstm --strict-events",
        )
    ),
    *(
        Case(
            words,
            2,
            f"--set and --config: settings are for checkpoints, which {names}",
            MORE,
        )
        for words, names in (
            ("inspect model.onnx --set tua=1", "`model.onnx` is not"),
            ("inspect bundle --config nonexist.toml", "`bundle` is not"),
            ("inspect model.std.onnx --set tau=2", "`model.std.onnx` is not"),
            (
                "verify model.onnx --against model.std.onnx --set tau=7 --config nonexist.toml",
                "none of `model.onnx`, `model.std.onnx` is",
            ),
            ("verify bundle --golden --set tau=2", "none of `bundle` is"),
        )
    ),
    *(
        Case(
            f"{words} --strict-events",
            2,
            "--strict-events is for models of events, this one takes images [8, 8, 1]",
            "leave --strict-events away",
        )
        for words in (
            "run bundle frames.npz",
            "export ckpt.pt",
            "verify bundle --against model.onnx",
            "verify bundle --golden",
            "inspect bundle --data frames.npz",
        )
    ),
    # outputs
    Case(
        "export ckpt.pt -o frames.npz/model.onnx",
        8,
        "cannot write `frames.npz/model.onnx`: Not a directory",
        "choose a folder you may write to with -o",
        where="frames.npz/model.onnx",
    ),
    Case(
        "export none.pt -o /proc/x/model.onnx",
        8,
        "cannot write `/proc/x/model.onnx`: No such file or directory",
        "choose a folder you may write to with -o",
        where="/proc/x/model.onnx",
    ),
    Case(
        "export ckpt.pt -o own.onnx --dump-passes frames.npz",
        8,
        "cannot write `frames.npz/00_spiking.onnx`: Not a directory",
        "choose a folder you may write to with --dump-passes",
        where="frames.npz/00_spiking.onnx",
    ),
    Case(
        "export ckpt.pt -o own.onnx --dump-passes mine",
        8,
        "`mine/00_spiking.onnx` was not written by an export and would be overwritten",
        "choose another folder with --dump-passes",
        make=both(folder("mine"), file("mine/00_spiking.onnx", "mine")),
    ),
    Case(
        "compile model.onnx -o frames.npz",
        8,
        "`frames.npz` is a file, expected a folder",
        "choose another -o",
    ),
    Case(
        "compile model.onnx -o frames.npz/bundle",
        8,
        "cannot write `frames.npz/bundle`: `*/frames.npz` is no folder you may write to",
        "choose a folder you may write to with -o",
    ),
    Case(
        "compile model.onnx -o .",
        8,
        "`.` cannot be replaced: it is in use as the current folder or a mount",
        "choose a folder in it: -o bundle",
    ),
    Case(
        "compile model.onnx -o full",
        8,
        "`full` is not empty and not a bundle of bestdeploy",
        "choose another folder with -o, or add --force to replace it",
        make=both(folder("full"), file("full/mine.txt", "mine")),
    ),
    # verify
    Case(
        "verify bundle",
        2,
        "`bundle` alone: nothing to compare with",
        "--against OTHER, or --golden for the vectors stored in it",
    ),
    Case(
        "verify bundle --golden --data frames.npz",
        2,
        "--data is for a comparison of two forms, golden vectors have frames of their own",
        "add --against OTHER, or leave --data away",
    ),
    Case(
        "verify ckpt.pt --golden",
        7,
        "ckpt.pt (float64): no golden vectors in there",
        "a model.onnx of `bestdeploy export` and what is compiled from it hold some",
    ),
    *(
        Case(
            words,
            7,
            "cannot read `nonexist`: No such file or directory",
            "check the names of both forms",
        )
        for words in ("verify nonexist --against model.onnx", "verify bundle --against nonexist")
    ),
    Case(
        "verify frames.npz --against bundle",
        2,
        "`frames.npz`: cannot tell what it is",
        "a checkpoint (.pt, .pth, .tar, .safetensors, .bin, .ckpt), .onnx, .bstm or a "
        "bundle folder",
    ),
    Case(
        "verify bundle --against model.onnx --model a:b",
        2,
        "--model a:b evaluates a checkpoint, which none of `bundle`, `model.onnx` is",
        "give a checkpoint (.pt, .pth, .tar, .safetensors, .bin, .ckpt), or leave --model away",
    ),
    Case(
        "verify bundle --against ckpt.pt --model nowhere",
        2,
        "--model nowhere: expected PKG.MOD:FACTORY",
        "--model my_package.my_module:build, where build(checkpoint) gives the module",
    ),
    Case(
        "verify bundle --against ckpt.pt --model nowhere:build",
        2,
        "--model nowhere:build: No module named 'nowhere'",
        "it is looked up from the current folder",
    ),
    Case(
        "verify bundle --against ckpt.pt --model json:loads",
        2,
        "--model json:loads failed: JSONDecodeError: Expecting value: line 1 column 1 (char 0)",
        "the factory is called with the path of the checkpoint",
    ),
    Case(
        "verify bundle --against ckpt.pt --model builtins:str",
        2,
        "--model builtins:str gave a str without `preprocess`",
        "the factory returns a torch module with preprocess(uint8 [B, H, W, C])",
    ),
    Case(
        "verify bundle --against ckpt.pt --model own_module:build",
        7,
        "a neuron of the torch module gives spikes [16, 8, 8, 1], expected [T, B, C, "
        "H, W] of [2, 16, 8, 8, 2] [T, B, H, W, C]",
        "is the module built from this checkpoint?",
        where="patch_embed.block1_lif",
        make=file("own_module.py", OWN_MODULE),
    ),
    Case(
        "verify bundle --against ckpt.pt --budget speed=1",
        2,
        "--budget speed: unknown",
        "known: flips_per_million, logit_difference, top1_agreement, raw_different",
    ),
    Case(
        "verify bundle --against ckpt.pt --budget flips_per_million=few",
        2,
        "--budget flips_per_million=few is not of the form NAME=NUMBER",
        "--budget flips_per_million=50",
    ),
    Case(
        "verify bundle --against ckpt.pt --budget logit_difference=inf",
        2,
        "--budget logit_difference=inf: expected a limit finite and not negative",
        "--budget logit_difference=0",
    ),
    Case(
        "verify bundle --against ckpt.pt --budget top1_agreement=99",
        2,
        "--budget top1_agreement=99.0: expected a limit in 0..1",
        "--budget top1_agreement=0.99",
    ),
    Case(
        "verify bundle --against ckpt.pt --budget raw_different=0",
        2,
        "--budget raw_different: raw logits exist in integer forms only (bundle (C, *) "
        "and ckpt.pt (float64))",
        "measured here: flips_per_million, logit_difference, top1_agreement",
    ),
    Case(
        "verify bundle --against model.std.onnx --budget flips_per_million=0",
        2,
        "--budget flips_per_million: no layer shows its spikes in both forms (bundle "
        "(C, *) and model.std.onnx (onnxruntime))",
        "measured here: logit_difference, top1_agreement, raw_different",
    ),
    Case(
        "verify bundle --against ckpt.pt --budget logit_difference=0",
        6,
        "logit_difference is *, the budget is at most 0",
        "the report is printed above",
        site="_verify.py:_check_budget",
    ),
    Case(
        "verify bundle --against two.onnx",
        7,
        "`bundle` takes frames [8, 8, 1], `two.onnx` takes [8, 8, 2]",
        SAME,
    ),
    Case(
        "verify ckpt.pt --against other.pt",
        7,
        "the forms give 5 and 3 classes",
        SAME,
        where="ckpt.pt (float64) and other.pt (float64)",
        make=other(classes=3),
    ),
    Case(
        "verify ckpt.pt --against other.pt",
        7,
        "the spikes of `patch_embed.block1_lif` [T, B, ...] are (2, 16, 8, 8, 2) in "
        "ckpt.pt (float64) and (3, 16, 8, 8, 2) in other.pt (float64)",
        SAME,
        where="patch_embed.block1_lif",
        make=other(n_steps=3),
    ),
    Case(
        "verify bundle --against changed.onnx",
        7,
        "the metadata of `changed.onnx (onnxruntime)` about pruned neurons is damaged",
        "export the model again",
        where="pruned",
        make=metadata(pruned="[1]"),
    ),
    Case(
        "verify bundle --against changed.onnx",
        7,
        "the metadata of `changed.onnx (onnxruntime)` about pruned neurons is not JSON",
        "export the model again",
        where="pruned",
        make=metadata(pruned="{"),
    ),
    Case(
        "verify reference:model.std.onnx --against bundle",
        4,
        "`model.std.onnx` holds standard ops only, the references are those of bestdeploy's ops",
        "give model.std.onnx without `reference:` to run it in ONNX Runtime",
    ),
    Case(
        "verify bundle --against changed.onnx",
        7,
        "the golden vectors in the metadata are damaged",
        "export the model again",
        where="golden",
        make=metadata(golden="{}"),
    ),
)
