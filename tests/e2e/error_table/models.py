"""Files of models: damaged, of another kind, changed by hand."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from error_table.definition import Case, Make, nothing
from error_table.makers import changed_onnx, file, folder, metadata

GIVE = "give a model.onnx as `bestdeploy export` wrote it"
GIVE_OURS = "give the model.onnx of `bestdeploy export`"


def bstm(change: Callable[[bytes], bytes]) -> Make:
    """Write changed.bstm, a damaged copy of the bundle's model."""

    def write(folder: Path) -> None:
        content = (folder / "bundle" / "model.bstm").read_bytes()
        (folder / "changed.bstm").write_bytes(change(content))

    return write


def foreign(rank: int = 4, height: int | str = 8) -> Make:
    """Write foreign.onnx, a model that is not ours."""

    def write(folder: Path) -> None:
        import onnx
        from onnx import TensorProto, helper

        shape = ["B", height, 8, 1][:rank]
        x = helper.make_tensor_value_info("image", TensorProto.UINT8, shape)
        y = helper.make_tensor_value_info("y", TensorProto.UINT8, shape)
        graph = helper.make_graph([helper.make_node("Identity", ["image"], ["y"])], "g", [x], [y])
        name = "foreign.onnx"
        opset = [helper.make_opsetid("", 17)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), folder / name)

    return write


def node(model: Any, op_type: str) -> Any:
    return next(n for n in model.graph if n.op_type.startswith(op_type))


def renamed(op_type: str, new: str) -> Make:
    return changed_onnx(lambda model: setattr(node(model, op_type), "op_type", new))


def fewer_inputs(model: Any) -> None:
    affine = node(model, "SpikeConvAffine")
    affine.resize_inputs(len(affine.inputs) - 1)


def another_attribute(model: Any) -> None:
    from bestdeploy import ir

    ir.set_attribute(node(model, "SpikeOrPool"), "colour", 3)


def attribute(op_type: str, name: str, value: Any) -> Make:
    def change(model: Any) -> None:
        from bestdeploy import ir

        ir.set_attribute(node(model, op_type), name, value)

    return changed_onnx(change)


def newer_bstm(content: bytes) -> bytes:
    """Count the major version of the format up by five."""
    (major,) = struct.unpack_from("<H", content, 4)
    return content[:4] + struct.pack("<H", major + 5) + content[6:]


def newer_domain(model: Any) -> None:
    model.opset_imports["bestdeploy"] += 1


def newer_function(model: Any) -> None:
    next(iter(model.functions.values())).opset_imports["bestdeploy"] = 2


def newer_encoding(model: Any) -> None:
    model.ir_version = 99


NEWER_OPS = "`changed.onnx` has ops of bestdeploy version 2, this is version 1"
UPDATE = "pip install -U bestdeploy"


def another_input(model: Any) -> None:
    model.graph.inputs[0].name = "picture"


MODEL_CASES: tuple[Case, ...] = (
    # .bstm files
    Case(
        "run none.bstm frames.npz",
        7,
        "cannot read `none.bstm`: No such file or directory",
        "give a model.onnx of `bestdeploy export`, a .bstm, or a bundle folder",
    ),
    Case(
        "run changed.bstm frames.npz",
        7,
        "header: total_bytes = *, must be the size of the file (BAD_FILE)",
        "compile the model again: bestdeploy compile model.onnx",
        make=bstm(lambda b: b[:-1]),
        site="runtime.py:_Library.call",
    ),
    Case(
        "run changed.bstm frames.npz",
        7,
        "header: crc32 = *, must be the checksum of the file: it is damaged (BAD_FILE)",
        "compile the model again: bestdeploy compile model.onnx",
        make=bstm(lambda b: b[:200] + b"x" + b[201:]),
    ),
    Case(
        "run changed.bstm frames.npz",
        4,
        "header: format version = 6, must be 1 (UNSUPPORTED)",
        "the file is newer than this runtime: pip install -U bestdeploy",
        make=bstm(newer_bstm),
        site="runtime.py:_Library.call",
    ),
    Case(
        "verify changed.bstm --golden",
        4,
        "header: format version = 6, must be 1 (UNSUPPORTED)",
        "the file is newer than this runtime: pip install -U bestdeploy",
        make=bstm(newer_bstm),
        site="runtime.py:_Library.call",
    ),
    Case(
        "compile changed.bstm -o out",
        4,
        "header: format version = 6, must be 1 (UNSUPPORTED)",
        "the file is newer than this runtime: pip install -U bestdeploy",
        make=bstm(newer_bstm),
        site="runtime.py:_Library.call",
    ),
    Case(
        "inspect changed.bstm",
        4,
        "newer than this program: format version 6, this program reads 1",
        UPDATE,
        where="changed.bstm",
        make=bstm(newer_bstm),
    ),
    Case(
        "run text.bstm frames.npz",
        7,
        "`text.bstm` is not a .bstm file (starts with b'?')",
        "bestdeploy export makes a model.onnx from a checkpoint",
        make=file("text.bstm", "?"),
    ),
    Case(
        "inspect text.bstm",
        7,
        "`text.bstm` is of no known kind (starts with b'?')",
        "give a checkpoint (.pt .pth .tar .safetensors .ckpt .bin), an .onnx, a .bstm or a bundle",
        make=file("text.bstm", "?"),
    ),
    Case(
        "inspect none.bstm",
        7,
        "cannot read `none.bstm`: No such file or directory",
        "give a checkpoint, an .onnx, a .bstm or a bundle folder",
    ),
    Case(
        "inspect own",
        7,
        "`own` is not a bundle (no manifest.json of bestdeploy)",
        "bestdeploy compile model.onnx makes one",
        make=folder("own"),
    ),
    Case(
        "run own frames.npz",
        7,
        "cannot read `own/model.bstm`: No such file or directory",
        "give a model.onnx of `bestdeploy export`, a .bstm, or a bundle folder",
        make=folder("own"),
    ),
    # .onnx files
    Case(
        "run none.onnx frames.npz --engine ort",
        7,
        "`none.onnx` does not exist",
        "bestdeploy export writes the .onnx files",
    ),
    Case(
        "run none.onnx frames.npz",
        7,
        "cannot read `none.onnx`: No such file or directory",
        "bestdeploy export writes the .onnx files",
        where="none.onnx",
    ),
    Case(
        "run text.onnx frames.npz",
        7,
        "`text.onnx` is not an ONNX model (8 bytes)",
        "give a file that `bestdeploy export` wrote",
        where="text.onnx",
        make=file("text.onnx", "no model"),
    ),
    Case(
        "run text.onnx frames.npz --engine ort",
        7,
        "ONNX Runtime refuses `text.onnx`: [ONNXRuntimeError] : 7 : *",
        "bestdeploy doctor shows its version; 1.17 and later run what export writes",
        make=file("text.onnx", "no model"),
    ),
    Case(
        "run empty.onnx frames.npz",
        7,
        "`empty.onnx` holds no ONNX graph",
        "give a file that `bestdeploy export` wrote",
        where="empty.onnx",
        make=file("empty.onnx", ""),
    ),
    Case(
        "run ckpt.pt frames.npz",
        7,
        "`ckpt.pt` is not a .bstm file (starts with b'PK\\x03\\x04')",
        "bestdeploy export makes a model.onnx from a checkpoint",
    ),
    Case(
        "compile model.std.onnx",
        4,
        "`model.std.onnx` holds standard ops only, a packed graph is compiled",
        "give the model.onnx of `bestdeploy export`: model.onnx",
    ),
    Case(
        "compile model.float.onnx",
        4,
        "`model.float.onnx` holds standard ops only, a packed graph is compiled",
        "give the model.onnx of `bestdeploy export`: model.onnx",
    ),
    Case(
        "compile ckpt.pt",
        7,
        "`ckpt.pt` is not a .bstm file (starts with b'PK\\x03\\x04')",
        "bestdeploy export makes a model.onnx from a checkpoint",
    ),
    Case(
        "compile passes/00_spiking.onnx",
        4,
        "the graph is of stage `spiking`, only a packed graph is lowered",
        "give the model.onnx that `bestdeploy export` wrote",
    ),
    Case(
        "run model.std.onnx frames.npz --engine reference",
        4,
        "`model.std.onnx` holds standard ops only, engine `reference` runs those of bestdeploy",
        "give model.onnx, or use --engine ort",
    ),
    Case(
        "run passes/00_spiking.onnx frames.npz --engine reference",
        7,
        "`passes/00_spiking.onnx` has outputs ['logits'], expected logits and raw",
        GIVE_OURS,
    ),
    Case(
        "run model.float.onnx frames.npz --engine ort",
        7,
        "`model.float.onnx` has outputs ['logits'], expected logits and raw",
        GIVE_OURS,
    ),
    Case(
        "run foreign.onnx frames.npz --engine ort",
        7,
        "`foreign.onnx` has outputs ['y'], expected logits and raw",
        GIVE_OURS,
        make=foreign(),
    ),
    Case(
        "run foreign.onnx frames.npz --engine ort",
        7,
        "`foreign.onnx` takes an input of shape [8, 8], expected [H, W, C] or [T, H, W, C]",
        GIVE_OURS,
        make=foreign(rank=3),
    ),
    Case(
        "verify foreign.onnx --against model.onnx",
        7,
        "`foreign.onnx` has outputs ['y'], expected logits",
        "give an .onnx file of `bestdeploy export`",
        make=foreign(),
    ),
    # for TVM
    *(
        Case(
            f"compile {words} --backend tvm", code, says, hint, where=where, make=make, needs="tvm"
        )
        for words, code, says, hint, where, make in (
            (
                "changed.onnx -o out",
                4,
                NEWER_OPS,
                UPDATE,
                "changed.onnx",
                changed_onnx(newer_domain),
            ),
            (
                "foreign.onnx -o out",
                4,
                "`foreign.onnx` holds standard ops only, a packed graph is compiled",
                "give the model.onnx of `bestdeploy export`: foreign.onnx",
                None,
                foreign(),
            ),
            (
                "ckpt.pt",
                7,
                "`ckpt.pt` is not a .bstm file (starts with b'PK\\x03\\x04')",
                "bestdeploy export makes a model.onnx from a checkpoint",
                None,
                nothing,
            ),
        )
    ),
    # newer files
    *(
        Case(words, 4, NEWER_OPS, UPDATE, where="changed.onnx", make=changed_onnx(newer_domain))
        for words in (
            "run changed.onnx frames.npz",
            "run changed.onnx frames.npz --engine ort",
            "run changed.onnx frames.npz --engine reference",
            "verify changed.onnx --against model.onnx",
            "compile changed.onnx -o out",
        )
    ),
    Case(
        "inspect changed.onnx",
        4,
        NEWER_OPS,
        UPDATE,
        where="changed.onnx",
        make=changed_onnx(newer_function),
    ),
    Case(
        "run changed.onnx frames.npz",
        4,
        "`changed.onnx` is of ONNX IR version 99, onnx * reads up to *",
        "pip install -U bestdeploy onnx",
        where="changed.onnx",
        make=changed_onnx(newer_encoding),
    ),
    # metadata
    Case(
        "run changed.onnx frames.npz",
        4,
        "the model's metadata names no stage (found '', expected ['spiking', 'folded', 'packed'])",
        "give a model.onnx that `bestdeploy export` wrote",
        make=metadata(stage=None),
    ),
    Case(
        "run changed.onnx frames.npz",
        7,
        "the golden vectors in the metadata are damaged",
        "export the model again",
        where="golden",
        make=metadata(golden="[]"),
    ),
    Case(
        "run changed.onnx frames.npz",
        7,
        "the model's metadata says frac_bits='many', expected a number in 0..30",
        "give the model.onnx that `bestdeploy export` wrote",
        where="metadata",
        make=metadata(frac_bits="many"),
    ),
    Case(
        "run changed.onnx frames.npz",
        7,
        "the model's metadata is damaged: *",
        "export the model again",
        where="metadata",
        make=metadata(config="{"),
    ),
    Case(
        "inspect changed.onnx",
        4,
        "the metadata names stage 'x', expected one of spiking, folded, packed",
        "give a file that `bestdeploy export` wrote",
        make=metadata(stage="x"),
    ),
    Case(
        "inspect changed.onnx",
        7,
        "the model's metadata is damaged: *",
        "export the model again",
        where="metadata",
        make=metadata(config="{"),
    ),
    # graphs
    Case(
        "compile changed.onnx",
        4,
        "unknown op `bestdeploy::Dream_T2`",
        GIVE,
        where="block.0.attn.proj_lif",
        make=renamed("StreamNeuron", "Dream_T2"),
    ),
    Case(
        "compile changed.onnx",
        4,
        "op `Lif` may not stand in a packed graph",
        GIVE,
        where="block.0.attn.proj_lif",
        make=renamed("StreamNeuron", "Lif_T2"),
    ),
    Case(
        "compile changed.onnx",
        4,
        "op `Sin` may not stand in a packed graph",
        GIVE,
        where="logits.wide",
        make=renamed("Cast", "Sin"),
    ),
    Case(
        "compile changed.onnx",
        4,
        "a graph has one number of time steps, found [2, 3]",
        GIVE,
        make=renamed("StreamNeuron", "StreamNeuron_T3"),
    ),
    Case(
        "compile changed.onnx",
        4,
        "`SpikeConvAffine` has 4 inputs and 1 outputs, expected 5 and 1",
        GIVE,
        where="patch_embed.block4_conv",
        make=changed_onnx(fewer_inputs),
    ),
    Case(
        "compile changed.onnx",
        4,
        "`SpikeOrPool` has attributes ['colour', 'kernel_shape', 'pads', 'strides'], "
        "expected ['kernel_shape', 'pads', 'strides']",
        GIVE,
        where="patch_embed.block3_mp",
        make=changed_onnx(another_attribute),
    ),
    Case(
        "compile changed.onnx",
        4,
        "a packed graph maps image to ['logits', 'raw'], found ['picture'] to ['logits', 'raw']",
        GIVE,
        make=changed_onnx(another_input),
    ),
    Case(
        "compile changed.onnx",
        4,
        "op `Div` may not stand in a packed graph",
        GIVE,
        where="image.unit",
        make=metadata("passes/00_spiking.onnx", stage="packed"),
    ),
    Case(
        "compile changed.onnx",
        4,
        "stride and padding must be the same on every side",
        GIVE,
        where="patch_embed.block3_mp",
        make=attribute("SpikeOrPool", "pads", [1, 0, 1, 1]),
    ),
    Case(
        "compile changed.onnx",
        4,
        "a pooling window must be square",
        GIVE,
        where="patch_embed.block3_mp",
        make=attribute("SpikeOrPool", "kernel_shape", [3, 2]),
    ),
    Case(
        "compile changed.onnx",
        4,
        "a neuron without rounding has rate 7, expected 2^29",
        GIVE,
        make=attribute("StreamNeuron", "rate", 7),
    ),
    Case(
        "verify foreign.onnx --against model.onnx",
        4,
        "axis 1 of `image` is H, expected a number",
        GIVE,
        make=foreign(height="H"),
    ),
    Case(
        "inspect changed.bstm",
        7,
        "not a valid .bstm: file has * bytes, its header says *",
        "write the file again: bestdeploy compile model.onnx",
        where="changed.bstm",
        make=bstm(lambda b: b[:-1]),
    ),
    Case(
        "inspect changed.bstm",
        7,
        "not a valid .bstm: checksum is wrong, the file is damaged",
        "write the file again: bestdeploy compile model.onnx",
        where="changed.bstm",
        make=bstm(lambda b: b[:200] + b"x" + b[201:]),
        site="_inspect/program.py:_read",
    ),
    Case(
        "inspect model.float.onnx --data frames.npz",
        2,
        "--data: no spikes can be recorded of `model.float.onnx`, it holds standard ops only",
        GIVE_OURS,
    ),
)
