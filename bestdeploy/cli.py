"""The command line: parses, calls `bestdeploy.deploy`, prints.

stdout is the result, stderr everything else. Exit codes: 0 ok, 1 internal error, 2 usage, 3 missing
tool or extra, 4 unsupported model or op, 5 verification failed, 6 budget failed, 7 bad input file
or data, 8 cannot write output, 130 interrupted (Ctrl-C or SIGTERM). Everything heavy is imported
inside the commands.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from bestdeploy import __version__
from bestdeploy._output import (
    duration,
    message,
    n_bytes,
    print_json,
    print_table,
    printable,
    say,
)
from bestdeploy.errors import (
    BestDeployError,
    BudgetError,
    MissingToolError,
    OutputError,
    UsageError,
)

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
    typer.Option("--data", help="Frames: image, folder, .npy, .npz or IDX file."),
]
Setting = Annotated[
    list[str] | None, typer.Option("--set", metavar="K=V", help="A setting; repeatable.")
]
Config = Annotated[Path | None, typer.Option("--config", help="TOML file with settings.")]

INTERRUPTED = 130
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_EXTRAS = {
    "torch": "export",
    "onnx": "export",
    "onnx_ir": "export",
    "onnxscript": "export",
    "onnxruntime": "export",
    "safetensors": "export",
    "tvm": "tvm",
    "ziglang": "cross",
}


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
    data: Data = None,
    dump_passes: Annotated[
        Path | None, typer.Option("--dump-passes", help="Folder for the graph after every pass.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Turn a checkpoint into ONNX files; verify them."""
    from bestdeploy import deploy

    report = deploy.export(
        checkpoint,
        output,
        family=family,
        config=config,
        settings=_settings(settings),
        data=data,
        dump_passes=dump_passes,
        progress=say,
    )
    for warning in report.warnings:
        message("warning", warning)
    if as_json:
        print_json("export", report)
    else:
        rows = [(f"{name}", f"{100 * rate:.2f} %") for name, rate in report.firing_rates]
        print_table(("neuron", "firing rate"), rows)
        print()
        for key, value in report.parity.items():
            print(f"{key}: {value}")
        print_table(
            ("file", "path", "size"),
            [(name, path, n_bytes(path.stat().st_size)) for name, path in report.files.items()],
        )
    say(f"exported in {report.seconds:.1f} s")
    message("next", f"bestdeploy compile {output}")


@app.command()
def compile(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="model.onnx or a .bstm.")],
    target: Annotated[str, typer.Option("--target", help="See `bestdeploy targets`.")] = "host",
    backend: Annotated[str, typer.Option("--backend", help="c or tvm.")] = "c",
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

    report = deploy.compile(model, target, backend, output, force=force, progress=say)
    if as_json:
        print_json("compile", report)
    else:
        print_table(
            ("file", "size"),
            [(f"{report.folder}/{name}", n_bytes(size)) for name, size in report.files.items()],
        )
        where = f" under {report.emulator}" if report.emulator else ""
        outcome = {"none": "the model holds none"}.get(report.golden, report.golden + where)
        print(f"golden vectors ({report.n_golden}): {outcome}")
    if report.golden.startswith("not run"):
        message("warning", f"the bundle was not executed ({report.golden})")
        message("hint", "apt install qemu-user-static")
    if report.target == "host":
        message("next", f"bestdeploy run {report.folder} image.png")
    else:
        message("next", f"scp -r {report.folder} user@device:bst   (see README.txt inside)")


# ----------------------------------------------------------------------------- run, verify, bench


@app.command()
def run(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help=".bstm, .onnx or bundle.")],
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE...", help="Image, folder, .npy, .npz, IDX or -.")
    ],
    engine: Annotated[str, typer.Option("--engine", help="c, ort, std, tvm or reference.")] = "c",
    top: Annotated[int, typer.Option("--top", min=1, help="Classes per frame.")] = 5,
    threads: Annotated[int, typer.Option("--threads", min=1)] = 1,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Frames at most.")] = None,
    as_json: Json = False,
) -> None:
    """Classify images, arrays or raw frames."""
    from bestdeploy._run import open_engine, predict

    opened = open_engine(model, engine, threads)
    frames: list[dict[str, Any]] = []
    times: list[float] = []
    n_labels = n_right = 0
    for p in predict(opened, sources, top=top, limit=limit):
        times.append(p.microseconds)
        if p.label is not None:
            n_labels += 1
            n_right += p.top[0] == p.label
        if as_json:
            frames.append(
                {
                    "frame": p.name,
                    "top": p.top,
                    "logits": p.logits,
                    "raw": p.raw,
                    "label": p.label,
                    "us": round(p.microseconds, 1),
                }
            )
        else:
            names = opened.class_names
            best = ", ".join(
                f"{k}{f' {names[k]}' if k < len(names) else ''} ({p.logits[k]:.4f})" for k in p.top
            )
            print(printable(f"{p.name}: {best}"))
    accuracy = n_right / n_labels if n_labels else None
    if as_json:
        print_json(
            "run",
            {"engine": engine, "frames": frames, "n_labels": n_labels, "top1": accuracy},
        )
    elif accuracy is not None:
        print(f"top-1: {100 * accuracy:.2f} % ({n_right} of {n_labels})")
    middle = sorted(times)[len(times) // 2] if times else 0.0
    say(f"{len(times)} frames, engine {engine}, {duration(middle)} per frame (median)")


@app.command()
def verify(
    a: Annotated[Path, typer.Argument(metavar="A", help="Checkpoint, .onnx, .bstm or bundle.")],
    against: Annotated[Path, typer.Option("--against", metavar="B", help="The other form.")],
    data: Data = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="PKG.MOD:FACTORY", help="Torch module for a checkpoint."),
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option("--budget", metavar="NAME=LIMIT", help="A limit; repeatable. Exit 6 above."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Frames at most.")] = None,
    config: Config = None,
    settings: Setting = None,
    as_json: Json = False,
) -> None:
    """Compare two forms of one model, spike by spike."""
    from bestdeploy import deploy

    try:
        report = deploy.verify(
            a,
            against,
            data=data,
            model=model,
            budget=_budget(budget),
            limit=limit,
            config=config,
            settings=_settings(settings),
        )
    except BudgetError as error:
        if error.report is not None:
            _print_verified(error.report, as_json)
        raise
    _print_verified(report, as_json)
    # Equality of bits is defined between the integer forms; a checkpoint is judged by the budget.
    both_integer = report.n_raw_different is not None
    if both_integer and not report.exact:
        message("error", f"{a} and {against} differ, they must give identical integers")
        if report.first_divergence:
            message("where", ", ".join(f"{k} {v}" for k, v in report.first_divergence.items()))
        raise typer.Exit(5)


def _print_verified(report: Any, as_json: bool) -> None:
    if as_json:
        print_json("verify", report)
    else:
        _print_parity(report)


def _print_parity(report: Any) -> None:
    if report.layers:
        print_table(
            ("layer", "neuron-steps", "flips", "flips per million", "smallest margin"),
            [
                (r.name, r.n_neuron_steps, r.n_flips, float(r.flips_per_million), r.min_margin)
                for r in report.layers
            ],
        )
        print()
    first, second = report.forms
    rows: list[tuple[str, Any]] = [
        ("forms", f"{first} | {second}"),
        ("frames", report.n_frames),
        (
            "raw logits that differ",
            "-" if report.n_raw_different is None else report.n_raw_different,
        ),
        ("largest logit difference", f"{report.max_logit_difference:.3g}"),
        ("top-1 agreement", f"{100 * report.top1_agreement:.2f} %"),
    ]
    if report.top1 is not None:
        values = report.top1.values() if isinstance(report.top1, dict) else report.top1
        rows.append(("top-1", " | ".join(f"{100 * v:.2f} %" for v in values if v is not None)))
    if report.first_divergence:
        text = ", ".join(f"{k} {v}" for k, v in report.first_divergence.items())
        rows.append(("first divergence", text))
    if report.layers:
        flips = sum(r.n_flips for r in report.layers)
        rows.append(("spike flips", f"{flips} of {sum(r.n_neuron_steps for r in report.layers)}"))
    exact = "yes" if report.exact else "no"
    if report.n_raw_different is None:
        exact = "not defined against a float model"
    rows.append(("exact", exact))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(printable(f"{name.ljust(width)}  {value}"))


@app.command()
def bench(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help=".bstm, .onnx or bundle.")],
    float_model: Annotated[
        Path | None, typer.Option("--float", help="The float network; default model.float.onnx.")
    ] = None,
    against: Annotated[
        str, typer.Option("--against", help="Competitors, separated by commas.")
    ] = "onnxruntime",
    threads: Annotated[int, typer.Option("--threads", min=1, help="Of the competitor.")] = 1,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="Time to measure.")] = 3.0,
    as_json: Json = False,
) -> None:
    """Measure latency against the float network."""
    from bestdeploy import deploy
    from bestdeploy._environment import cpu_name

    names = [name.strip() for name in against.split(",") if name.strip()]
    report = deploy.bench(model, float_model, names, threads, seconds=seconds, progress=say)
    if as_json:
        print_json("bench", report)
        return
    print_table(
        ("engine", "threads", "median", "p90", "p99", "min", "times ours", "model"),
        [
            (
                row.name,
                row.threads,
                *(duration(t) for t in (row.median_us, row.p90_us, row.p99_us, row.min_us)),
                f"{row.ratio:.2f}",
                row.model,
            )
            for row in report.rows
        ],
    )
    golden = f"{report.n_golden} golden vectors ok" if report.n_golden else "no golden vectors"
    print(f"{cpu_name()}, kernels {report.isa}, {report.n_rounds} interleaved rounds, {golden}")


# ----------------------------------------------------------------------------- inspect and others


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help=".bstm, .onnx or bundle.")],
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Show steps, constants, memory, firing rates."""
    from bestdeploy import deploy

    found = deploy.inspect(file, data)
    if as_json:
        print_json("inspect", found)
    elif found["kind"] == "onnx":
        print_table(("op", "nodes"), found["ops"].items())
        print(f"weights {n_bytes(found['weight_bytes'])}, file {n_bytes(found['file_bytes'])}")
        for key, value in found["metadata"].items():
            print(printable(f"{key}: {value if len(str(value)) <= 200 else '... (see --json)'}"))
    else:
        _print_bstm(found)
    if found.get("damaged_files"):
        message("error", f"files differ from the manifest: {', '.join(found['damaged_files'])}")
        raise typer.Exit(7)


def _print_bstm(found: dict[str, Any]) -> None:
    rows = []
    for step in found["steps"]:
        outputs = " ".join(f"{o['kind']} {'x'.join(map(str, o['shape']))}" for o in step["outputs"])
        rate = step["firing_rate"]
        rows.append(
            (
                step["name"],
                step["op"],
                outputs,
                step["binary_weights"],
                n_bytes(step["constant_bytes"]),
                None if rate is None else f"{100 * rate:.2f} %",
            )
        )
    print_table(
        ("step", "op", "output [T, H, W, C]", "1-bit weights", "constants", "firing rate"), rows
    )
    model, memory, constants = found["model"], found["memory"], found["constants"]
    by_type = ", ".join(f"{k} {n_bytes(v)}" for k, v in constants["bytes_by_type"].items())
    print()
    print(f"input      uint8 {model['input_shape']}, {model['classes']} classes")
    print(f"time steps {model['time_steps']}, stream 2^-{model['frac_bits']}")
    print(f"constants  {constants['n']}: {by_type}")
    print(f"file       {memory['file_bytes']} bytes, {model['golden_vectors']} golden vectors")
    print(f"buffer 1   {memory['model_bytes']} bytes (prepared model, one per model)")
    print(f"buffer 2   {memory['arena_bytes']} bytes (arena, one per session)")


@app.command()
def targets(as_json: Json = False) -> None:
    """List targets, their compilers and emulators."""
    from bestdeploy import toolchain

    rows = []
    for target in toolchain.TARGETS:
        try:
            compiler = toolchain.compiler_for(target).version
        except MissingToolError as error:
            compiler = f"missing: {error.hint}"
        emulator = toolchain.find_emulator(target)
        runs = "missing" if emulator is None else (emulator[0] if emulator else "this machine")
        rows.append(
            {
                "name": target.name,
                "aliases": target.aliases,
                "summary": target.summary,
                "compiler": compiler,
                "runs_on": runs,
            }
        )
    if as_json:
        print_json("targets", rows)
    else:
        print_table(
            ("target", "also", "what", "compiler", "runs on"),
            [
                (r["name"], " ".join(r["aliases"]), r["summary"], r["compiler"], r["runs_on"])
                for r in rows
            ],
        )


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what is missing here and how to get it."""
    from bestdeploy._environment import diagnose

    findings = diagnose()
    broken = [f.item for f in findings if f.required and f.state != "ok"]
    if as_json:
        print_json("doctor", {"findings": findings, "usable": not broken})
    else:
        print_table(
            ("item", "state", "found", "fix"),
            [
                (f.item, f.state + (" (required)" if f.item in broken else ""), f.detail, f.fix)
                for f in findings
            ],
        )
    if broken:
        message("error", f"required and missing: {', '.join(broken)}")
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
        with _terminable():
            result = app(args=words, prog_name="bestdeploy", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BaseException as error:
        if debug and not isinstance(error, SystemExit):
            traceback.print_exc()
        return _report(error)
    if result == INTERRUPTED:  # typer has caught the KeyboardInterrupt
        message("error", "interrupted")
    return result if isinstance(result, int) else 0


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM unwind as Ctrl-C does, so that nothing temporary is left."""

    def stop(number: int, frame: Any) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough, cleaning up goes on
        raise KeyboardInterrupt

    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if ours:
        signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _silence_output() -> None:
    """Send what is still buffered for stdout nowhere: Python writes it out when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _report(error: BaseException) -> int:
    """Print the lines for an exception; return its exit code."""
    if isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError):
        error = error.__context__  # typer turns it into exit 1
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        message("error", "interrupted")
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):  # the reader of our output is gone
        _silence_output()
        return 0
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        if error.filename is None:
            _silence_output()
        _lines(f"cannot write {error.filename or 'the output'}: {error.strerror}", None, None)
        return OutputError.exit_code
    if isinstance(error, BestDeployError):
        _lines(str(error), error.where, error.hint)
        return error.exit_code
    if hasattr(error, "format_message"):  # typer's own: unknown option, missing argument, ...
        text = error.format_message()
        if text:
            context = getattr(error, "ctx", None)
            path = context.command_path if context is not None else "bestdeploy"
            _lines(text.rstrip("."), None, f"{path} --help")
        return int(getattr(error, "exit_code", 2))
    root = (getattr(error, "name", None) or "").partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and root in _EXTRAS:
        _lines(f"`{root}` is not installed", None, f"pip install 'bestdeploy[{_EXTRAS[root]}]'")
        return MissingToolError.exit_code
    _lines(
        f"this is a bug in bestdeploy {__version__}: {type(error).__name__}: {error}",
        None,
        "run it again with --debug and report the traceback with `bestdeploy doctor --json`",
    )
    return 1


def _lines(text: str, where: str | None, hint: str | None) -> None:
    message("error", text)
    if where:
        message("where", where)
    if hint:
        message("hint", hint)


if __name__ == "__main__":
    sys.exit(main())
