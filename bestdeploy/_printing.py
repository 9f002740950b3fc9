"""What the commands print for people: one function per report, results on stdout.

`say_...` functions print on stderr.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bestdeploy._output import duration, message, n_bytes, plain, print_table, printable, say

if TYPE_CHECKING:
    from bestdeploy._bench import BenchReport
    from bestdeploy._bundle import CompileReport
    from bestdeploy._environment import Finding
    from bestdeploy._export import ExportReport
    from bestdeploy._run import Prediction, ProfileReport, RunReport
    from bestdeploy._verify import VerifyReport

__all__ = [
    "frame_facts",
    "how_to_execute",
    "place",
    "print_accuracy",
    "print_benched",
    "print_compiled",
    "print_diagnosis",
    "print_exported",
    "print_frame_line",
    "print_prediction",
    "print_profile",
    "print_profile_line",
    "print_targets",
    "print_verified",
    "say_events",
]


def print_exported(report: ExportReport) -> None:
    """Print what an export did, found and wrote."""
    print_table(
        ("pass", "equal in", "changes", "nodes", "after", "constants", "after"),
        [
            (
                p["name"],
                "bits" if p["kind"] == "exact" else p["kind"],
                p["changes"],
                p["nodes_before"],
                p["nodes_after"],
                n_bytes(p["bytes_before"]),
                n_bytes(p["bytes_after"]),
            )
            for p in report.passes
        ],
    )
    print()
    print_table(
        ("setting", "value", "from"),
        [(s["name"], _short(s["value"]), s["source"]) for s in report.settings],
    )
    print()
    print_table(
        ("neuron", "computed by", "firing rate"),
        [
            (name, report.neuron_rules.get(name, "-"), f"{100 * rate:.2f} %")
            for name, rate in report.firing_rates
        ],
    )
    print(f"neuron rule: {report.neuron_rule}")
    print()
    print_table(
        ("not packed into bits", "stored as", "why"),
        [(row["layer"], row["stored_as"], row["why"]) for row in report.unpacked],
    )
    print()
    for key, value in report.parity.items():
        print(f"{key}: {'-' if value is None else value}")
    print()
    print_table(
        ("file", "path", "size"),
        [(name, path, n_bytes(path.stat().st_size)) for name, path in report.files.items()],
    )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _code(size: int | None) -> str | None:
    return None if size is None else n_bytes(size)


def print_compiled(report: CompileReport) -> None:
    """Print a bundle's files and whether it was proved by running."""
    print_table(
        ("file", "size", "code"),
        [
            (f"{report.folder}/{name}", n_bytes(size), _code(report.text.get(name)))
            for name, size in report.files.items()
        ],
    )
    where = f" under {report.emulator}" if report.emulator else ""
    outcome = {"none": "the model holds none"}.get(report.golden, report.golden + where)
    print(f"golden vectors ({report.n_golden}): {outcome}")
    if report.module is not None:
        m = report.module
        print(
            f"net.o: kernels {m.kernels}, isa {m.isa}, {n_bytes(m.text_bytes)} of code, "
            f"built in {m.seconds:.1f} s"
        )


def how_to_execute(report: CompileReport) -> str:
    """Return a command that brings what a bundle's golden vectors could not be run without."""
    from bestdeploy import toolchain

    target = toolchain.find_target(report.target)
    if "C library" in report.golden:
        return f"apt install {target.packages}"
    if "compiler" in report.golden:
        return f"apt install {target.packages or 'gcc'}, or pip install 'bestdeploy[cross]'"
    if "emulator" in report.golden:
        return "apt install qemu-user-static"
    return "run bst_run --golden on the device"


def print_prediction(prediction: Prediction, names: Sequence[str]) -> None:
    """Print the best classes of one frame, by name where the model names them."""
    best = ", ".join(
        f"{k}{f' {names[k]}' if k < len(names) else ''} ({prediction.logits[k]:.4f})"
        for k in prediction.top
    )
    print(printable(f"{prediction.name}: {best}"), flush=prediction.name.startswith("-["))


def frame_facts(prediction: Prediction) -> dict[str, Any]:
    """Return one frame of the JSON document of `run`."""
    return {
        "frame": prediction.name,
        "top": prediction.top,
        "logits": prediction.logits,
        "raw": prediction.raw,
        "label": prediction.label,
        "us": round(prediction.microseconds, 1),
        "n_saturated": prediction.n_saturated,
    }


def print_frame_line(index: int, prediction: Prediction) -> None:
    """Print the JSON line that `bst_run` prints for a frame: same keys, same order."""
    line = {
        "frame": index,
        "top": prediction.top[0],
        "logits": [float(f"{value:.9g}") for value in prediction.logits],
        "raw": prediction.raw.tolist(),
        "us": round(prediction.microseconds, 1),
    }
    print(json.dumps(line), flush=True)


def print_accuracy(report: RunReport) -> None:
    """Print top-1 where frames had labels."""
    if report.n_labels:
        share = 100 * report.n_right / report.n_labels
        print(f"top-1: {share:.2f} % ({report.n_right} of {report.n_labels})")


def print_profile(report: ProfileReport) -> None:
    """Print what every step did with a frame on average, and all together."""
    print()
    print_table(
        (
            *("step", "op", "time", "share", "spikes in", "spikes out", "rate"),
            *("SOPs", "SOPs/s", "of roofline"),
        ),
        [
            (
                row.name,
                row.op,
                duration(row.us),
                f"{100 * row.share:.1f} %",
                _amount(row.spikes_in),
                _amount(row.spikes_out),
                None if row.rate is None else f"{100 * row.rate:.2f} %",
                _amount(row.sops),
                f"{row.sops_per_second:.3g}" if row.sops else None,
                f"{100 * row.of_roofline:.2f} %" if row.sops else None,
            )
            for row in (*report.rows, report.total)
        ],
    )
    of = "1 thread" if report.threads == 1 else f"{report.threads} threads"
    print(
        f"per frame, averages of {report.n_frames}; roofline {report.roofline:.3g} lane additions/s"
        f" ({report.isa}, {of}, measured here)"
    )


def _amount(count: float) -> str | None:
    """Return a number of events, without decimals from 100 on; None for none."""
    if not count:
        return None
    return f"{count:.0f}" if count >= 100 or count == int(count) else f"{count:.1f}"


def print_profile_line(report: ProfileReport) -> None:
    """Print the profile as the last JSON line of a run that prints lines."""
    print(json.dumps({"profile": plain(report)}), flush=True)


def say_events(events: dict[str, Any] | None) -> None:
    """Say on stderr how event recordings were binned and how many counts were saturated."""
    if events and events["n_recordings"]:
        say(
            f"{events['n_recordings']} recordings binned by number of events into "
            f"{events['n_steps']} steps (the last one takes the remainder)"
        )
    if events and events["n_saturated"]:
        message(
            "warning",
            f"{events['n_saturated']} event counts above 255 became 255, in "
            f"{events['n_frames_saturated']} frames (--strict-events refuses them)",
        )


def place(divergence: dict[str, Any]) -> str:
    """Return a first divergence as one line."""
    return ", ".join(f"{key} {value}" for key, value in divergence.items())


def print_verified(report: VerifyReport) -> None:
    """Print a line per layer and what the comparison came to."""
    if report.layers:
        print_table(
            ("layer", "neuron-steps", "flips", "per million", "least margin", "largest margin"),
            [
                (
                    r.name,
                    r.n_neuron_steps,
                    r.n_flips,
                    float(r.flips_per_million),
                    r.min_margin,
                    r.max_margin,
                )
                for r in report.layers
            ],
        )
        print()
    rows = _parity_rows(report)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(printable(f"{name.ljust(width)}  {value}"))


def _parity_rows(report: VerifyReport) -> list[tuple[str, Any]]:
    first, second = report.forms
    has_raw = report.n_raw_different is not None
    rows: list[tuple[str, Any]] = [
        ("forms", f"{first} | {second}"),
        ("frames", report.n_frames),
        ("raw logits that differ", report.n_raw_different if has_raw else "-"),
        ("largest logit difference", f"{report.max_logit_difference:.3g}"),
        ("top-1 agreement", f"{100 * report.top1_agreement:.2f} %"),
    ]
    if report.top1 is not None:
        rows.append(("top-1", " | ".join(f"{100 * v:.2f} %" for v in report.top1.values())))
    if report.golden is not None:
        rows += [
            ("golden vectors", f"{n_equal} of {report.golden.n} equal in {name}")
            for name, n_equal in report.golden.n_equal.items()
        ]
    if report.first_divergence:
        rows.append(("first divergence", place(report.first_divergence)))
    if report.layers:
        flips = sum(r.n_flips for r in report.layers)
        rows.append(("spike flips", f"{flips} of {sum(r.n_neuron_steps for r in report.layers)}"))
    exact = "yes" if report.exact else "no"
    return [*rows, ("exact", exact if has_raw else "not defined against a float model")]


def print_benched(report: BenchReport, cpu: str) -> None:
    """Print one row per engine, and on what and where it was measured."""
    print_table(
        (
            "engine",
            "threads",
            "median",
            "p90",
            "p99",
            "cpu",
            "times ours",
            "95 %",
            "cpu ratio",
            "answer",
            "our bits",
        ),
        [
            (
                f"{row.name}:{row.variant}" if row.variant else row.name,
                row.threads,
                *(duration(t) for t in (row.median_us, row.p90_us, row.p99_us, row.cpu_us)),
                f"{row.ratio:.2f}",
                f"{row.ratio_low:.2f}..{row.ratio_high:.2f}",
                f"{row.cpu_ratio:.2f}",
                "-" if row.answer is None else row.answer.mark,
                "yes" if row.is_exact else "no",
            )
            for row in report.rows
        ],
    )
    print()
    print_table(
        ("engine", "version", "file", "load", "memory", "logits moved", "at most by"),
        [
            (
                row.name,
                row.version,
                n_bytes(row.model_bytes),
                duration(row.load_ms * 1e3),
                None if row.memory_bytes is None else n_bytes(row.memory_bytes),
                None if row.answer is None else f"{row.answer.n_moved} of {row.answer.n_frames}",
                None if row.answer is None else f"{row.answer.max_logit_difference:.2g}",
            )
            for row in report.rows
        ],
    )
    print()
    golden = f"{report.n_golden} golden vectors ok" if report.n_golden else "no golden vectors"
    print(printable(f"{cpu}, kernels {report.isa}, {golden}"))
    rate = "" if report.firing_rate is None else f", firing rate {100 * report.firing_rate:.1f} %"
    print(printable(f"{report.n_rounds} interleaved rounds on {report.n_frames} frames "
                    f"({report.frames}){rate}"))  # fmt: skip
    if report.reference:
        print(f"answers compared with {report.reference}")


def print_targets(rows: Sequence[dict[str, Any]]) -> None:
    """Print what can be built for, with what, and what a bundle holds."""
    print_table(
        ("target", "also", "triple", "compilers", "runs on"),
        [
            (
                r["name"],
                " ".join(r["aliases"]),
                r["triple"] or "-",
                ", ".join(c["name"] for c in r["compilers"]) or f"none: {r['get_a_compiler']}",
                r["runs_on"] or "no emulator: apt install qemu-user-static",
            )
            for r in rows
        ],
    )
    print()
    for row in rows:
        print(f"{row['name']}: {row['summary']}")
    bundles: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        bundles.setdefault(tuple(row["bundle"]), []).append(row["name"])
    for files, names in bundles.items():
        print(f"\nbundle of {', '.join(names)}:")
        for file in ("manifest.json", "README.txt", "model.bstm", *files):
            print(f"  {file}")


def print_diagnosis(findings: Sequence[Finding], broken: Sequence[str]) -> None:
    """Print what is here and what is missing; `broken` are the required items among these."""
    print_table(
        ("item", "state", "found", "fix"),
        [
            (f.item, f.state + (" (required)" if f.item in broken else ""), f.detail, f.fix)
            for f in findings
        ],
    )
