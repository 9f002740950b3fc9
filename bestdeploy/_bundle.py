"""`compile`: model.onnx to a folder that a device can use, checked by running it.

DIR/manifest.json             target, compiler, model facts, SHA-256 of every file
DIR/README.txt                how to copy it over and run it
DIR/model.bstm
DIR/bin/bst_run, bst_bench    static executables
DIR/lib/libbst.so, libbst.a   the runtime, for your own program
DIR/lib/libbst_ort.so         the same kernels as custom ops for ONNX Runtime
DIR/lib/cmake, lib/pkgconfig  how CMake and pkg-config find it
DIR/include/bst.h

For the target `c` there are bst.c, bst.h, model.h and main.c instead of programs and libraries.
With the backend `tvm` there are also

DIR/net.o                     the network as machine code, made without a linker
DIR/net.so                    the same linked with the runtime, where a compiler was found

and the programs are not static, so that they load it; without a compiler there are none.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bestdeploy import __version__, runtime, toolchain
from bestdeploy.errors import (
    ArtifactError,
    MissingToolError,
    OutputError,
    UnsupportedModelError,
    UsageError,
    VerificationError,
)
from bestdeploy.files import cannot_write, replaced_folder

__all__ = [
    "BACKENDS",
    "CompileReport",
    "ModuleFacts",
    "check_module",
    "compile_bundle",
    "host_module",
    "lowered_bytes",
    "open_module",
    "read_manifest",
]

BACKENDS = ("c", "tvm")
MANIFEST_KIND = "bestdeploy bundle"
MANIFEST_VERSION = 1
RUN_TIMEOUT_S = 1800


@dataclass(frozen=True)
class ModuleFacts:
    """What TVM made of a network.

    Attributes:
        kernels: who computes convolutions: "tir" or "extern".
        isa: instruction set that the module's own code needs.
        text_bytes: code and constants in net.o.
        seconds: that TVM took.
    """

    kernels: str
    isa: str
    text_bytes: int
    seconds: float


@dataclass(frozen=True)
class CompileReport:
    """What `compile` wrote and how it was checked.

    Attributes:
        compiler: its version; "" where a source bundle was made without one.
        golden: "passed", "none" (the model holds no golden vectors) or "not run: <why>".
        emulator: command that ran the golden vectors; "" when this machine did it itself.
        files: name -> size in bytes.
        text: name -> bytes of code and constants, of programs and libraries.
        module: what TVM made; None with another backend.
    """

    folder: Path
    target: str
    backend: str
    compiler: str
    golden: str
    n_golden: int
    emulator: str
    files: dict[str, int] = field(default_factory=dict)
    text: dict[str, int] = field(default_factory=dict)
    module: ModuleFacts | None = None


def lowered_bytes(path: str | Path) -> bytes:
    """Return the `.bstm` bytes of a model: of the file, the bundle, or the lowered `.onnx`.

    Raises:
        ArtifactError: the file cannot be read or is of another kind.
        UnsupportedModelError: the `.onnx` is not a packed graph.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "model.bstm"
    if path.suffix == ".onnx":
        from bestdeploy import ir
        from bestdeploy.emit.bstm import write_bstm
        from bestdeploy.lower import lower

        graph = ir.load(path)
        if not any(node.domain == ir.DOMAIN for node in graph.graph):
            name = path.name.removesuffix(".onnx").removesuffix(".std").removesuffix(".float")
            raise UnsupportedModelError(
                f"`{path}` holds standard ops only, a packed graph is compiled",
                hint=f"give the model.onnx of `bestdeploy export`: {path.with_name(name)}.onnx",
            )
        return write_bstm(lower(graph))
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"cannot read `{path}`: {error.strerror}",
            hint="give a model.onnx of `bestdeploy export`, a .bstm, or a bundle folder",
        ) from error
    if content[:4] != b"BSTM":
        raise ArtifactError(
            f"`{path}` is not a .bstm file (starts with {content[:4]!r})",
            hint="bestdeploy export makes a model.onnx from a checkpoint",
        )
    return content


def compile_bundle(
    model: str | Path,
    target: str = "host",
    backend: str = "c",
    output: str | Path | None = None,
    *,
    kernels: str = "auto",
    isa: str | None = None,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
) -> CompileReport:
    """Compile a model for a target; see `bestdeploy.deploy.compile`."""
    say = progress or (lambda _text: None)
    row = toolchain.find_target(target)
    if backend not in BACKENDS:
        raise UsageError(
            f"unknown backend `{backend}`, expected one of {', '.join(BACKENDS)}",
            hint="--backend c",
        )
    if backend != "tvm" and (kernels != "auto" or isa is not None):
        raise UsageError(
            "kernels and isa are chosen for TVM, backend `c` has every instruction set in it",
            hint="leave --kernels and --isa out, or use --backend tvm",
        )
    if backend == "tvm":
        check_module(row, kernels, isa)
    source = Path(model)
    name = source.name.removesuffix(".onnx").removesuffix(".bstm") or "model"
    folder = Path(output) if output else Path("build") / name / row.name
    _check_output(folder, force)

    say(f"lowering {source}")
    content = lowered_bytes(source)
    compiler = _compiler(row, backend)
    with replaced_folder(folder) as work:
        module = _build_module(work, content, row, kernels, isa, say) if backend == "tvm" else None
        say(f"building the runtime for {row.name} with {compiler or 'no compiler'}")
        with _writing(folder):
            _fill(work, content, row, name, module is not None, bool(compiler))
        say("running the golden vectors")
        golden, n_golden, emulator = _check_golden(work, row, module)
        facts = {"golden": golden, "backend": backend, "compiler": compiler}
        if module is not None:
            facts |= {"kernels": module.kernels, "isa": module.isa}
        with _writing(folder):
            files = _describe(work, source, row, n_golden, facts)
            sizes = {name: toolchain.text_bytes((work / name).read_bytes()) for name in files}
    return CompileReport(
        folder=folder,
        target=row.name,
        backend=backend,
        compiler=compiler,
        golden=golden,
        n_golden=n_golden,
        emulator=emulator,
        files=files,
        text={name: size for name, size in sizes.items() if size is not None},
        module=module,
    )


# ----------------------------------------------------------------------------- modules of TVM


def check_module(row: toolchain.Target, kernels: str = "auto", isa: str | None = None) -> None:
    """Check, before anything is written, that TVM is here and can compile for a target.

    Raises:
        MissingToolError: TVM is missing or of another release.
        UnsupportedModelError: TVM cannot compile for the target.
        UsageError: unknown kernels or isa.
    """
    from bestdeploy.emit import tvm

    tvm.check_choice(_machine(row), kernels, isa)
    tvm.check_versions()


def build_object(
    content: bytes, row: toolchain.Target, kernels: str = "auto", isa: str | None = None
) -> tuple[bytes, ModuleFacts]:
    """Return net.o of a `.bstm` and the facts about it.

    For the target "host" TVM's own kernels take this machine's best instruction set.

    Raises:
        See `check_module`.
    """
    from bestdeploy.emit import tvm

    own_code = tvm.check_choice(_machine(row), kernels, isa) == "tir"
    if own_code and isa is None and not row.machine:
        isa = runtime.isa_names()[0]
    start = time.perf_counter()
    built = tvm.build(content, _machine(row), kernels, isa)
    seconds = time.perf_counter() - start
    text = toolchain.text_bytes(built.content) or 0
    return built.content, ModuleFacts(built.kernels, built.isa, text, seconds)


def host_module(content: bytes, kernels: str = "auto") -> Path:
    """Return net.so of a `.bstm` for this machine, built when it is not in the cache.

    Raises:
        MissingToolError: TVM or a C compiler is missing.
    """
    row = toolchain.find_target("host")
    check_module(row, kernels)
    compiler = toolchain.compiler_for(row)

    def make(folder: Path) -> None:
        net, _ = build_object(content, row, kernels)
        toolchain.build_module(net, folder / "net.so")

    from bestdeploy.emit import tvm

    key = (
        *("module", hashlib.sha256(content).hexdigest(), kernels, runtime.isa_names()[0]),
        *(*tvm.PINS.values(), tvm.source_hash(), toolchain.source_hash()),
        *(*compiler.command, compiler.version),
    )
    return toolchain.cached(key, "net.so", make)


def open_module(path: str | Path) -> runtime.Module:
    """Open a model with the code that TVM makes of it: a bundle's own net.so, else one from here.

    Args:
        path: bundle folder, .bstm or .onnx.

    Raises:
        MissingToolError: TVM or a C compiler is missing; the bundle was made without one.
        ArtifactError: the bundle's module is for another machine, or a file cannot be read.
        NativeError: the module is not one of this file.
    """
    folder = Path(path)
    if folder.is_dir() and (folder / "net.so").is_file():
        return runtime.load_module(lowered_bytes(path), folder / "net.so")
    if folder.is_dir() and (folder / "net.o").is_file():
        raise MissingToolError(
            f"`{folder}` has no net.so: no C compiler was found when it was made",
            hint="bestdeploy doctor says how to get one; then compile again",
        )
    content = lowered_bytes(path)
    return runtime.load_module(content, host_module(content))


def _machine(row: toolchain.Target) -> str:
    return "" if row.is_source else row.machine or toolchain.host_machine()


def _build_module(
    work: Path,
    content: bytes,
    row: toolchain.Target,
    kernels: str,
    isa: str | None,
    say: Callable[[str], None],
) -> ModuleFacts:
    """Write net.o."""
    say(f"compiling the network for {row.name} with TVM")
    net, facts = build_object(content, row, kernels, isa)
    with _writing(work):
        (work / "net.o").write_bytes(net)
    return facts


def _compiler(row: toolchain.Target, backend: str) -> str:
    """Return the version of the compiler; "" where there is none and the bundle needs none."""
    try:
        return toolchain.compiler_for(row).version
    except MissingToolError:
        if row.is_source or backend == "tvm":
            return ""
        raise


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a bundle, None where the folder is not one of ours."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError):
        return None
    ours = isinstance(manifest, dict) and manifest.get("kind") == MANIFEST_KIND
    files = manifest.get("files") if ours else None
    whole = isinstance(files, dict) and all(isinstance(facts, dict) for facts in files.values())
    return manifest if whole else None


# ----------------------------------------------------------------------------- output folder


def _check_output(folder: Path, force: bool) -> None:
    """Refuse to overwrite what is not ours, and places where no folder can be put."""
    try:
        place, here = folder.resolve(), Path.cwd()
        if place.exists() and not place.is_dir():
            raise OutputError(f"`{folder}` is a file, expected a folder", hint="choose another -o")
        if place == here or place in here.parents or place.is_mount():
            raise OutputError(
                f"`{folder}` cannot be replaced: it is in use as the current folder or a mount",
                hint=f"choose a folder in it: -o {folder / 'bundle'}",
            )
        if place.is_dir() and not force:
            _check_replaceable(folder)
        above = next(p for p in place.parents if p.exists())
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise OutputError(
                f"cannot write `{folder}`: `{above}` is no folder you may write to",
                hint="choose a folder you may write to with -o",
            )
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise cannot_write(folder, error) from error


def _check_replaceable(folder: Path) -> None:
    manifest = read_manifest(folder)
    hint = "choose another folder with -o, or add --force to replace it"
    if manifest is None:
        if any(folder.iterdir()):
            raise OutputError(f"`{folder}` is not empty and not a bundle of bestdeploy", hint=hint)
        return
    files = manifest.get("files")
    ours = {"manifest.json", *(files if isinstance(files, dict) else ())}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name not in ours and (path.is_symlink() or not path.is_dir()):
            raise OutputError(f"`{path}` is not of the bundle and would be deleted", hint=hint)


# ----------------------------------------------------------------------------- contents


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Name the user's folder, not the work folder, in what goes wrong."""
    try:
        yield
    except OSError as error:
        raise cannot_write(folder, error) from error


def _fill(
    work: Path, content: bytes, row: toolchain.Target, name: str, has_module: bool, can_link: bool
) -> None:
    """Write everything but README.txt, manifest.json and net.o."""
    made: list[tuple[str, Path | str, bool]]
    if row.is_source:
        made = [(file, text, False) for file, text in _source_files(content, name).items()]
    else:
        pieces = toolchain.pieces(static=not has_module)
        if not can_link:
            pieces = tuple(piece for piece in pieces if piece.name.startswith("include/"))
        made = [(p.name, p.make(row), p.executable) for p in pieces]
    (work / "model.bstm").write_bytes(content)
    for file, piece, executable in made:
        target = work / file
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(piece, Path):
            shutil.copyfile(piece, target)
        else:
            target.write_text(piece, "utf-8", newline="\n")
        target.chmod(0o755 if executable else 0o644)
    if has_module and can_link:
        toolchain.build_module((work / "net.o").read_bytes(), work / "net.so", row)


def _source_files(content: bytes, name: str) -> dict[str, str]:
    from bestdeploy.emit import c

    model = runtime.load(content, isa="scalar")  # firmware runs the portable kernels
    names = model.meta.get("class_names")
    if not isinstance(names, list) or len(names) != model.classes:
        names = [str(k) for k in range(model.classes)]
    facts = c.ModelFacts(
        model_bytes=model.model_bytes,
        arena_bytes=model.arena_bytes,
        frame_shape=tuple(model.input_shape),
        n_golden=model.n_golden,
        class_names=tuple(map(str, names)),
    )
    return c.source_bundle(toolchain.find_sources(), content, facts, name)


def _check_golden(
    work: Path, row: toolchain.Target, module: ModuleFacts | None
) -> tuple[str, int, str]:
    """Run the golden vectors as the device would; return outcome, their number, emulator."""
    n_golden = runtime.load(work / "model.bstm").n_golden
    if n_golden == 0:
        return "none", 0, ""
    emulator = toolchain.find_emulator(row)
    if emulator is None:
        return "not run: no emulator", n_golden, ""
    if module is not None:
        return _check_module_golden(work, row, module, emulator, n_golden)
    with tempfile.TemporaryDirectory() as folder:
        if row.is_source:
            if not toolchain.compilers_for(row):
                return "not run: no C compiler", n_golden, ""
            program = Path(folder) / "main"
            toolchain.build_files([work / "main.c", work / "bst.c"], program)
            command = [str(program)]
        else:
            command = [*emulator, f"{work}/bin/bst_run", f"{work}/model.bstm", "--golden"]
        outcome = _run_golden(command, row)
    if outcome == "passed" and not row.is_source and toolchain.runs_natively(row):
        runtime.load(work / "model.bstm", library=work / "lib" / "libbst.so").verify_golden()
    return outcome, n_golden, Path(emulator[0]).name if emulator else ""


def _check_module_golden(
    work: Path,
    row: toolchain.Target,
    module: ModuleFacts,
    emulator: tuple[str, ...],
    n_golden: int,
) -> tuple[str, int, str]:
    if not (work / "net.so").is_file():
        return "not run: no C compiler", n_golden, ""
    if emulator:
        root = toolchain.system_root(row)
        if root is None:
            return "not run: no C library for the emulator", n_golden, ""
        emulator = (*emulator, "-L", str(root))
    elif module.isa not in runtime.isa_names():
        return f"not run: this machine has no {module.isa}", n_golden, ""
    program = [f"{work}/bin/bst_run", f"{work}/model.bstm", "--golden"]
    outcome = _run_golden([*emulator, *program, "--module", f"{work}/net.so"], row)
    return outcome, n_golden, Path(emulator[0]).name if emulator else ""


def _run_golden(command: list[str], row: toolchain.Target) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"not run: {error}"
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no text"]
        text = next((line for line in lines if line.startswith("error: ")), lines[-1])
        raise VerificationError(
            f"the golden vectors fail on target {row.name} (exit {done.returncode}): "
            f"{text.removeprefix('error: ')}",
            where=" ".join(command),
            hint="nothing was written; report this with the output of `bestdeploy doctor --json`",
        )
    return "passed"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _describe(
    work: Path, source: Path, row: toolchain.Target, n_golden: int, facts: dict[str, str]
) -> dict[str, int]:
    """Write README.txt and manifest.json; return the size of every file."""
    model = runtime.load(work / "model.bstm", isa="scalar")  # sizes that no machine changes
    height, width, channels = model.input_shape[-3:]
    if row.is_source:
        text = _source_readme(model, row, facts["golden"])
    elif facts["backend"] == "tvm":
        text = _module_readme(model, row, facts)
    else:
        text = _readme(model, row, facts["golden"])
    (work / "README.txt").write_text(text, "utf-8")
    paths = sorted(p for p in work.rglob("*") if p.is_file())
    files = {p.relative_to(work).as_posix(): p for p in paths}
    manifest = {
        "kind": MANIFEST_KIND,
        "schema_version": MANIFEST_VERSION,
        "bestdeploy": __version__,
        "target": row.name,
        "source": {
            "name": source.name,
            "sha256": _sha256(source) if source.is_file() else None,
        },
        "model": {
            "frame_steps": _frame_steps(model),
            "height": height,
            "width": width,
            "channels": channels,
            "classes": model.classes,
            "time_steps": model.n_steps,
            "logit_shift": model.logit_shift,
            "golden_vectors": n_golden,
            "model_bytes": model.model_bytes,
            "arena_bytes": model.arena_bytes,
        },
        **facts,
        "files": {
            name: {"sha256": _sha256(path), "bytes": path.stat().st_size}
            for name, path in files.items()
        },
    }
    (work / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    return {name: path.stat().st_size for name, path in files.items()}


def _frame_steps(model: runtime.Model) -> int:
    """Return the images in a frame: 1, or T where every time step has its own."""
    return model.input_shape[0] if len(model.input_shape) == 4 else 1


def _frame_text(model: runtime.Model) -> str:
    shape = " x ".join(map(str, model.input_shape))
    return f"raw uint8, {shape}, channel last, {math.prod(model.input_shape)} bytes each"


def _readme(model: runtime.Model, row: toolchain.Target, golden: str) -> str:
    height, width, channels = model.input_shape[-3:]
    pixels = {1: "gray", 3: "rgb24"}.get(channels, "rgb24")
    stream = f"""
    ffmpeg -i clip.mp4 -vf scale={width}:{height} -f rawvideo -pix_fmt {pixels} - \\
        | ssh user@device bst/bin/bst_run bst/model.bstm - --json"""
    return f"""\
bestdeploy {__version__}: a binary spiking transformer for {row.summary} (target {row.name})

Copy this folder to the device and prove that it computes the right numbers there:

    scp -r . user@device:bst
    ssh user@device bst/bin/bst_run bst/model.bstm --golden

Golden vectors on the machine that made this bundle: {golden}.

Run frames ({_frame_text(model)}):

    ./bin/bst_run model.bstm frames.raw{stream if _frame_steps(model) == 1 else ""}

Measure it:

    ./bin/bst_bench model.bstm                # --threads N shares each frame between N threads

Memory of a run: {model.model_bytes} bytes for the prepared model (portable kernels; for others
bst_model_bytes tells), {model.arena_bytes} bytes per session of one thread, and the file itself.
Nothing is allocated while frames run.

Your own program: the header include/bst.h starts with the complete life of a model. With CMake,
-DCMAKE_PREFIX_PATH=<this folder> and

    find_package(bst CONFIG REQUIRED)
    target_link_libraries(app PRIVATE bst::bst_static)    # or bst::bst, the shared library

else, with PKG_CONFIG_PATH=<this folder>/lib/pkgconfig:

    cc app.c $(pkg-config --cflags --libs bst) -o app     # shared: put lib/ on the run path
    cc app.c $(pkg-config --cflags bst) lib/libbst.a -pthread -o app

Where ONNX Runtime (1.17 or later) is at home already, lib/libbst_ort.so runs the model.onnx that
this bundle was compiled from with the same kernels, as custom ops. Register it with the session
options: register_custom_ops_library(path) in Python, RegisterCustomOpsLibrary_V2 in C. Set before,
the session config entry bestdeploy.threads says how many of the session's threads share a layer.

The folder may be moved. manifest.json lists the SHA-256 of every file.
"""


def _module_readme(model: runtime.Model, row: toolchain.Target, facts: dict[str, str]) -> str:
    linked = bool(facts["compiler"])
    needs = "" if facts["isa"] == "scalar" else f" (its own code needs {facts['isa']})"
    run = """\
Copy this folder to the device and prove that it computes the right numbers there:

    scp -r . user@device:bst
    ssh user@device bst/bin/bst_run bst/model.bstm --golden --module bst/net.so

Run and measure:

    ./bin/bst_run model.bstm frames.raw --module net.so
    ./bin/bst_bench model.bstm --module net.so

Python with numpy and tvm_ffi alone, no tvm: see emit/tvm of bestdeploy for the tensors of

    module = tvm_ffi.load_module("net.so")
    module.sizes(file, sizes); module.prepare(file, weights)
    module.main(frame, weights, arena, raw)
"""
    link = f"""\
There was no C compiler for {row.name}: net.so, libraries and programs are missing. Compile again
where `bestdeploy doctor` finds one.
"""
    return f"""\
bestdeploy {__version__}: a binary spiking transformer for {row.summary} (target {row.name}),
compiled by TVM{needs}

    net.o        the network as machine code, kernels: {facts["kernels"]}
    model.bstm   its weights, checksum and golden vectors

Golden vectors on the machine that made this bundle: {facts["golden"]}.

{run if linked else link}
Frames: {_frame_text(model)}.

Your own program: include/bst.h, section "Module"; with dlopen and net.so, or with net.o in it:

    cc app.c net.o -Iinclude lib/libbst.a -pthread -o app

manifest.json lists the SHA-256 of every file.
"""


def _source_readme(model: runtime.Model, row: toolchain.Target, golden: str) -> str:
    return f"""\
bestdeploy {__version__}: a binary spiking transformer as C source (target {row.name})

    bst.c, bst.h   the runtime: C11, no C library, no allocation, no floating point on the way
    model.h        the model as a constant array (it may stay in flash), sizes, class names
    main.c         an example: runs the golden vectors and compares every raw logit

On a machine with a C library, as it is:

    cc -std=c11 -O3 main.c bst.c -o demo && ./demo

Golden vectors on the machine that made this bundle: {golden}.

In firmware, compile bst.c with -ffreestanding -DBST_FREESTANDING (GCC and Clang): it then brings
its own memcpy, memmove, memset and memcmp, has no error sentences and no thread-local variables,
and runs the portable kernels. 64-bit division and multiplication come from the compiler's own
library (libgcc or compiler-rt) where the processor has none. main.c asks the board for one
function, board_print. Frames are {_frame_text(model)}.

RAM: MODEL_BYTES for the prepared model and MODEL_ARENA_BYTES per session, see model.h; a 32-bit
processor needs a little less. `bestdeploy run <this folder> image.png` uses model.bstm, which
holds the same bytes as model.h. manifest.json lists the SHA-256 of every file.
"""
