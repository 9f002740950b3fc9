"""The public Python API: export, compile, run, verify, bench, inspect.

    from bestdeploy import deploy

    deploy.export("ckpt.pt", "model.onnx", settings={"variant": "official"})
    deploy.compile("model.onnx", target="arm", output="bundle")
    for prediction in deploy.run("bundle", "photos/"):
        print(prediction.name, prediction.top[0])

Each function does what the command of the same name does, and raises `BestDeployError` where the
command prints `error:`. Importing this module costs nothing: every function imports what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bestdeploy.errors import UsageError

if TYPE_CHECKING:
    from bestdeploy._bench import BenchReport
    from bestdeploy._bundle import CompileReport
    from bestdeploy._export import ExportReport
    from bestdeploy._run import Prediction
    from bestdeploy._verify import VerifyReport

__all__ = ["bench", "compile", "export", "export_module", "inspect", "published", "run", "verify"]

Source = str | Path | Sequence[str | Path]
Progress = Callable[[str], None]


def export(
    checkpoint: Any,
    output: str | Path = "model.onnx",
    family: str | None = None,
    config: str | Path | None = None,
    settings: Mapping[str, str] | None = None,
    data: Source | None = None,
    dump_passes: str | Path | None = None,
    progress: Progress | None = None,
    *,
    strict_events: bool = False,
    verifying: Callable[[int, int | None], None] | None = None,
    example_input: Any = None,
) -> ExportReport:
    """Turn a checkpoint into model.onnx, model.std.onnx and model.float.onnx, and verify them.

    Args:
        checkpoint: .pt, .pth or .safetensors file, or a torch module of known parts in evaluation
            mode (`importers/traced/classes.py` lists them).
        output: where model.onnx goes; the other two lie beside it.
        family: model family; None = found from the checkpoint.
        config: TOML file with settings.
        settings: single settings, they win over the file and the checkpoint.
        data: frames to verify on; None = 16 built-in structured images.
        dump_passes: folder that receives the graph after every pass.
        progress: called with a sentence before every long step.
        strict_events: refuse event counts above 255 in `data` instead of taking them as 255.
        verifying: called with the number of frames verified, and of all where it is known.
        example_input: what a module's forward takes, float [B, C, H, W]; not for files.

    Raises:
        UsageError: one of the three files is the checkpoint itself.
    """
    from bestdeploy._export import export as implementation
    from bestdeploy._export import output_files

    from_file = isinstance(checkpoint, str | Path)
    for file in output_files(output).values():
        if from_file and _is_same_file(file, checkpoint):
            raise UsageError(
                f"the export would overwrite the checkpoint `{checkpoint}` with `{file}`",
                hint="choose another output with -o",
            )
    return implementation(
        checkpoint,
        output,
        family=family,
        config=config,
        settings=dict(settings or {}),
        data=data,
        strict_events=strict_events,
        dump_passes=dump_passes,
        progress=progress,
        verifying=verifying,
        example_input=example_input,
    )


def export_module(
    module: Any, example_input: Any, output: str | Path = "model.onnx", **kwargs: Any
) -> ExportReport:
    """Export a torch module made of known parts, which is `bestdeploy.export`.

    Args:
        module: in evaluation mode; its forward takes `example_input` and returns logits [B, K].
        example_input: float [B, C, H, W], normalised as `settings` say.
        output: as in `export`.
        kwargs: the other arguments of `export`; settings are `mean`, `std`, `weight_bits`,
            `class_names`.

    Raises:
        UnsupportedModelError: a layer uses what is not supported; it is named.
        UsageError: a setting is missing, or the module is in training mode.
    """
    return export(module, output, example_input=example_input, **kwargs)


def _is_same_file(a: str | Path, b: str | Path) -> bool:
    try:
        return Path(a).samefile(b)
    except OSError:  # one of them does not exist
        return False


def compile(
    model: str | Path,
    target: str = "host",
    backend: str = "c",
    output: str | Path | None = None,
    *,
    kernels: str = "auto",
    isa: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> CompileReport:
    """Compile model.onnx (or a .bstm) into a bundle for a device, and check it by running it.

    Args:
        model: model.onnx of `export`, or a .bstm.
        target: a name of `bestdeploy.toolchain.TARGETS`; "c" gives C source for firmware.
        backend: "c", or "tvm", which adds net.o and, where a compiler is found, net.so.
        output: folder of the bundle; None = build/<model>/<target>.
        kernels: who computes convolutions in a module of TVM: "tir" (TVM), "extern" (the C
            kernels), or "auto", the faster one of the target.
        isa: instruction set of TVM's code; None = this machine's best for the target "host", what
            every machine of the target has for others.
        force: replace a folder that is not a bundle, or that holds files of others.
        progress: called with a sentence before every long step.

    Raises:
        MissingToolError: no compiler for the target, or no TVM.
        UnsupportedModelError: a model, or a target of TVM, that cannot be compiled.
        VerificationError: the golden vectors fail.
        OutputError: the folder cannot be written, or is not ours.
    """
    from bestdeploy._bundle import compile_bundle

    return compile_bundle(
        model, target, backend, output, kernels=kernels, isa=isa, force=force, progress=progress
    )


def run(
    model: str | Path,
    sources: Source,
    engine: str = "c",
    *,
    top: int = 5,
    threads: int = 1,
    limit: int | None = None,
    isa: str | None = None,
    strict_events: bool = False,
) -> Iterator[Prediction]:
    """Yield a prediction for every frame of the sources.

    Args:
        model: .bstm, .onnx or bundle folder.
        sources: see `bestdeploy.images`.
        engine: "c", "ort" (model.onnx in ONNX Runtime), "std" (model.std.onnx), "tvm",
            "reference".
        top: number of classes in `Prediction.top`.
        threads: threads of the engine.
        limit: stop after this many frames.
        isa: instruction set of the C kernels; None = the best here.
        strict_events: refuse event counts above 255 instead of taking them as 255.
    """
    from bestdeploy._run import open_engine, predict

    names = [sources] if isinstance(sources, str | Path) else list(sources)
    opened = open_engine(model, engine, threads, isa)
    return predict(opened, names, top=top, limit=limit, strict_events=strict_events)


def verify(
    a: str | Path,
    against: str | Path | None = None,
    data: Source | None = None,
    model: str | None = None,
    budget: Mapping[str, float] | None = None,
    limit: int | None = None,
    config: str | Path | None = None,
    settings: Mapping[str, str] | None = None,
    *,
    golden: bool = False,
    strict_events: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
) -> VerifyReport:
    """Compare two forms of one model (checkpoint, .onnx, .bstm, bundle), spike by spike.

    Args:
        a: first form.
        against: second form; None = the golden vectors in `a`, with `golden`.
        data: frames; None = the golden ones with `golden`, else 16 built-in structured images.
        model: "pkg.mod:factory" of a torch module that evaluates a checkpoint.
        budget: limits by name; BudgetError, which holds the report, when one is exceeded.
        limit: number of frames to compare at most.
        config: TOML file with settings, where a checkpoint needs them.
        settings: single settings.
        golden: hold every integer form against the golden vectors that the export stored.
        strict_events: refuse event counts above 255 instead of taking them as 255.
        progress: called with the number of frames done, and of all where it is known.
    """
    from bestdeploy._verify import verify as implementation

    return implementation(
        a,
        against,
        data=data,
        model=model,
        budget=dict(budget) if budget else None,
        limit=limit,
        golden=golden,
        strict_events=strict_events,
        config=config,
        settings=dict(settings or {}),
        progress=progress,
    )


def bench(
    model: str | Path,
    float_model: str | Path | None = None,
    against: Sequence[str] = ("onnxruntime",),
    threads: int = 1,
    *,
    data: Source | None = None,
    limit: int = 200,
    seconds: float = 3.0,
    plot: str | Path | None = None,
    progress: Progress | None = None,
) -> BenchReport:
    """Measure the latency of one frame in the C runtime and in competitors, interleaved.

    Every engine runs in a process of its own and is compared with the float network's logits; what
    the numbers mean is in docs/benchmarks.md.

    Args:
        model: .bstm, .onnx or bundle folder.
        float_model: the float network; None = model.float.onnx beside the model.
        against: competitors: "onnxruntime", "onnxruntime-int8", "openvino", "openvino-f32" (never
            bfloat16), "torch", and our network by TVM, "tvm-tir" and "tvm-extern". Where an engine
            has several ways to run a network ("torch:eager", "onnxruntime-int8:dynamic-u8s8") its
            bare name takes the fastest here.
        threads: threads for one frame, of every engine that can use them.
        data: frames; None = the golden ones of the file, else built-in ones.
        limit: frames of `data` at most.
        seconds: length of the measurement, opening and choosing variants not counted.
        plot: .png or .svg to draw the result into.
        progress: called with a sentence before every long step.

    Raises:
        UsageError: an unknown competitor or variant, absurd threads.
        MissingToolError: a competitor, or matplotlib for the plot, is not installed.
        InputError: no float network, or it takes other frames.
        ArtifactError: a competitor refuses the float network or fails.
        VerificationError: a golden vector differs.
        OutputError: the plot cannot be written.
    """
    from bestdeploy._bench import bench_model

    if plot is not None:
        from bestdeploy import plots

        plots.check(plot)
    report = bench_model(
        model,
        float_model,
        against,
        threads,
        data=data,
        limit=limit,
        seconds=seconds,
        progress=progress,
    )
    if plot is not None:
        plots.latency(report, str(model), plot)
    return report


def inspect(
    path: str | Path,
    data: Source | None = None,
    *,
    limit: int | None = None,
    energy: str | None = None,
    config: str | Path | None = None,
    settings: Mapping[str, str] | None = None,
    strict_events: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
) -> dict[str, Any]:
    """Describe a checkpoint, .onnx, .bstm or bundle: layers, work, firing rates, SOPs, sizes.

    Args:
        path: the file or folder.
        data: frames whose spikes are counted; None = dense work only.
        limit: frames at most.
        energy: picojoule per operation, "mac=..,ac=.."; None = the usual "mac=4.6,ac=0.9".
        config: TOML file with settings of a checkpoint.
        settings: single settings of a checkpoint.
        strict_events: refuse event counts above 255 instead of taking them as 255.
        progress: called with the frames done, and the frames there are (None = unknown).

    Raises:
        UsageError: an option about frames without `data`, or settings of what is no checkpoint.
    """
    from bestdeploy import report
    from bestdeploy._inspect import Request, inspect_file

    prices = report.Energy.parse(energy or "")
    about_frames = {"--limit": limit, "--energy": energy, "--strict-events": strict_events}
    for option, value in about_frames.items():
        if value and not data:
            raise UsageError(
                f"{option} is about frames, and there is no --data", hint="give frames with --data"
            )
    request = Request(
        data=[data] if isinstance(data, str | Path) else data,
        limit=limit,
        strict_events=strict_events,
        energy=prices,
        settings=dict(settings or {}),
        config=config,
        progress=progress or (lambda _done, _total: None),
    )
    return inspect_file(path, request)


def published() -> dict[str, Any]:
    """Return sizes, parameters, dense work and NS-ACE of the published models, beside the papers'.

    Everything that a formula gives is computed; only what a paper prints is typed in.
    """
    from bestdeploy.report.published import published as implementation

    return implementation()
