"""The command line: parses, calls `bestdeploy.deploy`, prints.

stdout is the result, stderr everything else; exit codes are in `_failure`, tables in `_printing`.
Everything heavy is imported inside the commands.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from bestdeploy import __version__, _failure, _printing
from bestdeploy._output import duration, message, print_json, progress_bar, say
from bestdeploy.errors import BudgetError, UsageError

__all__ = ["app", "main"]

app = typer.Typer(
    name="bestdeploy",
    help="Exact deployment of binary spiking transformers on ordinary CPUs.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Data = Annotated[
    list[str] | None,
    typer.Option("--data", help="Frames: image, folder, array, IDX or event file."),
]
StrictEvents = Annotated[
    bool,
    typer.Option("--strict-events", help="Refuse event counts above 255 (else they become 255)."),
]
Setting = Annotated[
    list[str] | None, typer.Option("--set", metavar="K=V", help="A setting; repeatable.")
]
Config = Annotated[Path | None, typer.Option("--config", help="TOML file with settings.")]


def _version(value: bool) -> None:
    if value:
        print(f"bestdeploy {__version__}")
        raise typer.Exit()


@app.callback()
def _global(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks; works after a command too.")
    ] = False,
) -> None:
    """Exact deployment of binary spiking transformers on ordinary CPUs."""


# ----------------------------------------------------------------------------- export, compile


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(metavar="CKPT", help=".pt, .pth or .safetensors.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The other two files go beside it.")
    ] = Path("model.onnx"),
    family: Annotated[
        str | None, typer.Option("--family", help="Model family; found when not given.")
    ] = None,
    config: Config = None,
    settings: Setting = None,
    weight_bits: Annotated[
        int | None,
        typer.Option(
            "--weight-bits",
            help="Bits of a deployed weight, of families with real weights: 1, 2, 3, 4, 8, 16.",
        ),
    ] = None,
    k_bits: Annotated[
        int | None,
        typer.Option("--k-bits", help="Bits of a deployed key of A2OS2A, 1 to 31; all of them."),
    ] = None,
    data: Data = None,
    strict_events: StrictEvents = False,
    dump_passes: Annotated[
        Path | None, typer.Option("--dump-passes", help="Folder for the graph after every pass.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Turn a checkpoint into ONNX files; verify them."""
    from bestdeploy import deploy

    with progress_bar("verifying") as verifying:
        report = deploy.export(
            checkpoint,
            output,
            family=family,
            config=config,
            settings={
                **_settings(settings),
                **_short(weight_bits=weight_bits, k_bits=k_bits),
            },
            data=data,
            strict_events=strict_events,
            dump_passes=dump_passes,
            progress=say,
            verifying=verifying,
        )
    _printing.say_events(report.events)
    for warning in report.warnings:
        message("warning", warning)
    if as_json:
        print_json("export", report)
    else:
        _printing.print_exported(report)
    say(f"exported in {report.seconds:.1f} s")
    message("next", f"bestdeploy compile {output}")


@app.command()
def compile(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="model.onnx or a .bstm.")],
    target: Annotated[str, typer.Option("--target", help="See `bestdeploy targets`.")] = "host",
    backend: Annotated[str, typer.Option("--backend", help="c or tvm.")] = "c",
    kernels: Annotated[
        str, typer.Option("--kernels", help="Convolutions of backend tvm: auto, tir or extern.")
    ] = "auto",
    isa: Annotated[
        str | None, typer.Option("--isa", metavar="NAME", help="Of the code that TVM makes.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder; default build/MODEL/TARGET.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a folder that is not a bundle.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a bundle for a device; check it by running."""
    from bestdeploy import deploy

    report = deploy.compile(
        model, target, backend, output, kernels=kernels, isa=isa, force=force, progress=say
    )
    if as_json:
        print_json("compile", report)
    else:
        _printing.print_compiled(report)
    if report.golden.startswith("not run"):
        message("warning", f"the bundle was not executed ({report.golden})")
        message("hint", _printing.how_to_execute(report))
    if report.target == "host":
        message("next", f"bestdeploy verify {report.folder} --golden")
    elif report.target == "c":
        message("next", f"add bst.c, bst.h and model.h of {report.folder} to your firmware")
    else:
        message("next", f"scp -r {report.folder} user@device:bst   (see README.txt inside)")


# ----------------------------------------------------------------------------- run, verify, bench


@app.command()
def run(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help=".bstm, .onnx or bundle.")],
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE...", help="Image, folder, array, IDX, event file or -."),
    ],
    engine: Annotated[str, typer.Option("--engine", help="c, ort, std, tvm or reference.")] = "c",
    top: Annotated[int, typer.Option("--top", min=1, help="Classes per frame.")] = 5,
    isa: Annotated[
        str | None, typer.Option("--isa", metavar="NAME", help="Kernels of engine c; best here.")
    ] = None,
    threads: Annotated[
        int, typer.Option("--threads", min=1, help="Threads that share each frame.")
    ] = 1,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Frames at most.")] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Time, spikes and SOPs of every step (engine c).")
    ] = False,
    strict_events: StrictEvents = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="One JSON document; for `-` a JSON line per frame, as it comes."
        ),
    ] = False,
) -> None:
    """Classify images, arrays, event recordings or raw frames."""
    from bestdeploy._run import RunReport, open_engine, predict, profiled

    opened = open_engine(model, engine, threads, isa)
    report = RunReport(opened)
    as_lines = as_json and "-" in sources
    frames: list[dict[str, Any]] = []
    with profiled(opened) if profile else contextlib.nullcontext() as profiler:
        for p in predict(opened, sources, top=top, limit=limit, strict_events=strict_events):
            report.add(p)
            if as_lines:
                _printing.print_frame_line(report.n_frames - 1, p)
            elif as_json:
                frames.append(_printing.frame_facts(p))
            else:
                _printing.print_prediction(p, opened.class_names)
    found = profiler.report() if profiler else None
    if as_json and not as_lines:
        more = {"profile": found} if found else {}
        print_json("run", {**report.facts(), **more, "frames": frames})
    elif not as_json:
        _printing.print_accuracy(report)
    if found and as_lines:
        _printing.print_profile_line(found)
    elif found and not as_json:
        _printing.print_profile(found)
    _printing.say_events(report.facts()["events"])
    kernels = f" ({report.engine.isa})" if report.engine.isa else ""
    say(
        f"{report.n_frames} frames, engine {engine}{kernels}, "
        f"{duration(report.median_us)} per frame (median)"
    )


@app.command()
def verify(
    a: Annotated[Path, typer.Argument(metavar="A", help="Checkpoint, .onnx, .bstm or bundle.")],
    against: Annotated[
        Path | None, typer.Option("--against", metavar="B", help="The other form.")
    ] = None,
    data: Data = None,
    golden: Annotated[
        bool, typer.Option("--golden", help="Check the golden vectors stored in A (or in B).")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="PKG.MOD:FACTORY", help="Torch module for a checkpoint."),
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            "--budget",
            metavar="NAME=LIMIT",
            help="A limit, e.g. flips_per_million=50; repeatable. Exit 6 above.",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Frames at most.")] = None,
    strict_events: StrictEvents = False,
    config: Config = None,
    settings: Setting = None,
    as_json: Json = False,
) -> None:
    """Compare two forms of one model, spike by spike."""
    from bestdeploy import deploy

    try:
        with progress_bar("verifying") as progress:
            report = deploy.verify(
                a,
                against,
                data=data,
                model=model,
                budget=_budget(budget),
                limit=limit,
                config=config,
                settings=_settings(settings),
                golden=golden,
                strict_events=strict_events,
                progress=progress,
            )
    except BudgetError as error:
        if error.report is not None:
            _print_verified(error.report, as_json)
        raise
    _print_verified(report, as_json)
    if report.n_raw_different is None and budget is None and not golden:
        message(
            "warning", "one form is no integer model and there is no --budget: nothing was judged"
        )
        message("hint", "--budget flips_per_million=50 --budget top1_agreement=0.99")
    if report.failure:
        message("error", report.failure)
        if report.first_divergence:
            message("where", _printing.place(report.first_divergence))
        message("hint", "verify each against reference:model.onnx: the numpy references are right")
        raise typer.Exit(5)


def _print_verified(report: Any, as_json: bool) -> None:
    if as_json:
        print_json("verify", report)
    else:
        _printing.print_verified(report)
    _printing.say_events(report.events)


@app.command()
def bench(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help=".bstm, .onnx or bundle.")],
    float_model: Annotated[
        Path | None, typer.Option("--float", help="The float network; default model.float.onnx.")
    ] = None,
    against: Annotated[
        str,
        typer.Option(
            "--against",
            metavar="NAME[:VARIANT],...",
            help="onnxruntime, onnxruntime-int8, openvino, openvino-f32, torch, ort (our kernels "
            "in ONNX Runtime), tvm-tir, tvm-extern; several by commas.",
        ),
    ] = "onnxruntime",
    threads: Annotated[int, typer.Option("--threads", min=1, help="For one frame.")] = 1,
    data: Data = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Frames at most.")] = 200,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="Time to measure.")] = 3.0,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="F.png|F.svg", help="Draw the result.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure latency, answers and memory against the float network in other engines."""
    from bestdeploy import deploy
    from bestdeploy._environment import cpu_name

    names = [name.strip() for name in against.split(",") if name.strip()]
    report = deploy.bench(
        model,
        float_model,
        names,
        threads,
        data=data,
        limit=limit,
        seconds=seconds,
        plot=plot,
        progress=say,
    )
    if as_json:
        print_json("bench", report)
    else:
        _printing.print_benched(report, cpu_name())
    for note in report.notes:
        message("note", note)


# ----------------------------------------------------------------------------- inspect and others


@app.command()
def inspect(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="Checkpoint, .onnx, .bstm or bundle."),
    ] = None,
    data: Data = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Frames at most.")] = None,
    energy: Annotated[
        str | None,
        typer.Option("--energy", metavar="mac=PJ,ac=PJ", help="Picojoule; default mac=4.6,ac=0.9."),
    ] = None,
    config: Config = None,
    settings: Setting = None,
    strict_events: StrictEvents = False,
    published: Annotated[
        bool, typer.Option("--published", help="Sizes and NS-ACE of the papers, computed; no FILE.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show layers and sizes; on frames (--data) firing rates, SOPs, NS-ACE, energy."""
    from bestdeploy import _inspect_printing, deploy

    if published:
        if file is not None:
            raise UsageError("--published takes no FILE", hint="bestdeploy inspect --published")
        if any((data, limit, energy, config, settings, strict_events)):
            raise UsageError(
                "--published takes no other option than --json",
                hint="bestdeploy inspect --published",
            )
        literature = deploy.published()
        if as_json:
            print_json("inspect", literature)
        else:
            _inspect_printing.print_published(literature)
        return
    if file is None:
        raise UsageError("there is no FILE to inspect", hint="bestdeploy inspect model.onnx")
    with progress_bar("counting spikes") if data else contextlib.nullcontext() as progress:
        found = deploy.inspect(
            file,
            data,
            limit=limit,
            energy=energy,
            config=config,
            settings=_settings(settings),
            strict_events=strict_events,
            progress=progress,
        )
    if as_json:
        print_json("inspect", found)
    else:
        _inspect_printing.print_inspected(found)
    if found.get("damaged_files"):
        message("error", f"files differ from the manifest: {', '.join(found['damaged_files'])}")
        message("hint", "copy the bundle again, or make it again: bestdeploy compile")
        raise typer.Exit(7)


@app.command()
def targets(as_json: Json = False) -> None:
    """List targets, their compilers and emulators."""
    from bestdeploy._environment import list_targets

    rows = list_targets()
    if as_json:
        print_json("targets", rows)
    else:
        _printing.print_targets(rows)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what is missing here and how to get it."""
    from bestdeploy._environment import diagnose

    findings = diagnose()
    broken = [f.item for f in findings if f.required and f.state != "ok"]
    if as_json:
        print_json("doctor", {"findings": findings, "usable": not broken})
    else:
        _printing.print_diagnosis(findings, broken)
    if broken:
        message("error", f"required and missing: {', '.join(broken)}")
        message("hint", "the column `fix` says how to get it")
        raise typer.Exit(3)


# ----------------------------------------------------------------------------- options


def _settings(pairs: Sequence[str] | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs or ():
        key, separator, value = pair.partition("=")
        if not separator or not key.strip():
            raise UsageError(f"--set {pair} is not of the form KEY=VALUE", hint="--set tau=2")
        found[key.strip()] = value.strip()
    return found


def _short(**given: int | None) -> dict[str, str]:
    """Return options that are short for settings as these settings."""
    return {name: str(value) for name, value in given.items() if value is not None}


def _budget(pairs: Sequence[str] | None) -> dict[str, float] | None:
    found: dict[str, float] = {}
    for pair in ",".join(pairs or ()).split(","):
        if not pair:
            continue
        key, _, value = pair.partition("=")
        try:
            found[key.strip()] = float(value)
        except ValueError:
            raise UsageError(
                f"--budget {pair} is not of the form NAME=NUMBER",
                hint="--budget flips_per_million=50",
            ) from None
    return found or None


# ----------------------------------------------------------------------------- entry


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    end = words.index("--") if "--" in words else len(words)
    debug = "--debug" in words[:end] or bool(os.environ.get("BESTDEPLOY_DEBUG"))
    words = [word for i, word in enumerate(words) if word != "--debug" or i > end] or ["--help"]
    try:
        with _failure.terminable():
            result = app(args=words, prog_name="bestdeploy", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BaseException as error:
        if debug and not isinstance(error, SystemExit):
            traceback.print_exc()
        return _failure.report(error)
    if result == _failure.INTERRUPTED:  # typer has caught the KeyboardInterrupt
        message("error", "interrupted")
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    sys.exit(main())
