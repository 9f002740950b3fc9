"""What `inspect` prints: the table of layers, totals, sizes; everything on stdout.

Numbers are rounded for reading here; `--json` has all of them.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bestdeploy._output import n_bytes, print_table, printable

__all__ = ["amount", "print_inspected", "print_published"]

Found = Mapping[str, Any]
Line = tuple[str, str]


def amount(value: float | None, digits: int = 4) -> str:
    """Return a number for people: 932.7 M, 1.33 k, 17."""
    if value is None:
        return "-"
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.{digits}g} {unit}"
    return f"{value:.{digits}g}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) if shape else "?"


def _print_lines(lines: Iterator[Line]) -> None:
    """Print names and values, aligned."""
    rows = list(lines)
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        print(printable(f"{name.ljust(width)}  {value}"))


# ----------------------------------------------------------------------------- layers


_HELD = ("op", "in -> out", "bits", "weights", "MACs/step", "MACs", "mults")
_DONE = ("rate in", "rate out", "SOPs", "rate x MACs", "avoided")
_WIDTH = 160  # columns that all of it takes


def _layer_table(layers: Sequence[Found]) -> None:
    """Print a row per layer; on a terminal that is too narrow, what it does in a second table."""
    names = [row["name"] for row in layers]
    held = [_held_cells(row) for row in layers]
    if not any(row.get("activity") for row in layers):
        print_table(("layer", *_HELD), [(n, *h) for n, h in zip(names, held, strict=True)])
        return
    done = [_done_cells(row) for row in layers]
    if sys.stdout.isatty() and shutil.get_terminal_size().columns < _WIDTH:
        print_table(("layer", *_HELD), [(n, *h) for n, h in zip(names, held, strict=True)])
        print()
        print_table(("layer", *_DONE), [(n, *d) for n, d in zip(names, done, strict=True)])
        return
    rows = [(n, *h, *d) for n, h, d in zip(names, held, done, strict=True)]
    print_table(("layer", *_HELD, *_DONE), rows)


def _held_cells(row: Found) -> tuple[str, ...]:
    macs = row["macs"] or None
    return (
        row["op"],
        f"{_shape(row['input_shape'])} -> {_shape(row['output_shape'])}",
        str(row["weight_bits"] or "-"),
        str(row["n_weights"] or "-"),
        amount(macs),
        amount(row["total_macs"] if macs else None),
        "-" if row["multiplications"] is None else amount(row["multiplications"]),
    )


def _done_cells(row: Found) -> tuple[str, ...]:
    activity = row["activity"]
    sops = activity.get("sops_per_frame")
    return (
        _percent(activity["firing_rate_in"]),
        _percent(activity["firing_rate_out"]),
        amount(sops),
        amount(activity.get("rate_times_macs_per_frame")),
        _percent(None if sops is None else 1 - sops / row["total_macs"]),
    )


# ----------------------------------------------------------------------------- totals


def _work_lines(work: Found) -> Iterator[Line]:
    t, real, literature = work["n_steps"], work["real_macs"], work["real_macs_literature"]
    per_step, per_frame = amount(work["macs_per_step"]), amount(work["spike_macs"])
    yield "MACs on spikes", f"{per_step} per step, {per_frame} per frame (T = {t})"
    text = f"{amount(real)} per frame (first layer and classifiers)"
    if literature != real:
        text += f"; {amount(literature)} where the first layer is counted T times"
    yield "MACs on real numbers", text
    yield "S-ACE", f"{amount(work['s_ace'])} (sum of MACs T b_w b_s of the layers on spikes)"
    if not work["n_frames"]:
        yield "SOPs, energy", "not recorded: give frames with --data"


def _activity_table(work: Found, constants: Found) -> None:
    """Print both kinds of SOPs, and what follows from each."""
    rows = [
        ("SOPs", amount(work["sops_counted"]), amount(work["sops_rate"])),
        ("NS-ACE = SOPs b_w b_s", amount(work["ns_ace_counted"]), amount(work["ns_ace_rate"])),
        (
            "MACs avoided",
            *(
                _percent(1 - work[key] / work["spike_macs"]) if work["spike_macs"] else "-"
                for key in ("sops_counted", "sops_rate")
            ),
        ),
        (
            "energy",
            f"{work['energy_uj_counted']:.4g} uJ",
            f"{work['energy_uj_literature']:.4g} uJ",
        ),
        ("spikes that meet in attention", amount(work["pairs"]), "-"),
    ]
    title = f"mean of {work['n_frames']} frames"
    print_table((title, "spike by spike", "rate x MACs (literature)"), rows)
    print(
        f"energy = {constants['mac']:g} pJ x MACs on real numbers + {constants['ac']:g} pJ x SOPs "
        "(45 nm); the literature counts the first layer T times"
    )


def _parameter_lines(parameters: Found) -> Iterator[Line]:
    kinds = ("binary", "conv0", "norm", "heads", "scales", "other")
    names = {"norm": "batch norm", "scales": "lambda"}
    parts = [f"{parameters[k]} {names.get(k, k)}" for k in kinds if parameters[k]]
    yield "parameters", f"{parameters['total']}: {', '.join(parts)}"
    if parameters["paper_mib"] is not None:
        yield (
            "paper size",
            (f"{parameters['paper_mib']:.2f} MiB (1-bit weights, fp16 conv0, batch norm, heads)"),
        )
    yield "fp32, fp16", f"{n_bytes(parameters['fp32_bytes'])}, {n_bytes(parameters['fp16_bytes'])}"


def _size_lines(sizes: Found, parameters: Found | None) -> Iterator[Line]:
    deployed = sizes.get("bstm_file_bytes", sizes["file_bytes"] if "n_constants" in sizes else None)
    yield "file", f"{sizes['file_bytes']} bytes"
    if "weight_bytes_by_type" in sizes:
        parts = [f"{k} {n_bytes(v)}" for k, v in sizes["weight_bytes_by_type"].items()]
        yield "weights in the file", ", ".join(parts) or "none"
    if deployed is None:
        return
    if "bstm_file_bytes" in sizes:
        yield "as .bstm", f"{deployed} bytes"
    if parameters is not None:
        full, half = (parameters[k] / deployed for k in ("fp32_bytes", "fp16_bytes"))
        yield "compression", f"{full:.1f} x of fp32, {half:.1f} x of fp16 (whole .bstm)"
    parts = [f"{k} {n_bytes(v)}" for k, v in sizes["section_bytes"].items()]
    yield "sections", ", ".join(parts)
    parts = [f"{k} {n_bytes(v)}" for k, v in sizes["constant_bytes_by_type"].items()]
    yield "constants", f"{sizes['n_constants']}: {', '.join(parts)}"
    if sizes["model_bytes"] is None:
        yield "buffers", "not known here: there is no compiler for the runtime that says it"
        return
    kernels = f"{sizes['kernels']} kernels"
    yield "buffer 1", f"{sizes['model_bytes']} bytes (prepared model, one per model; {kernels})"
    yield "buffer 2", f"{sizes['arena_bytes']} bytes (arena, one per session; more with threads)"


# ----------------------------------------------------------------------------- checkpoint


def _setting_lines(settings: Found) -> Iterator[Line]:
    found = settings["found"]
    given = [f"{k}={_value(v['value'])}" for k, v in found.items() if v["from"] != "default"]
    usual = [f"{k}={_value(v['value'])}" for k, v in found.items() if v["from"] == "default"]
    yield "settings found", ", ".join(given) or "none"
    yield "by default", ", ".join(x for x in usual if not x.endswith("=None")) or "none"
    missing = [x["name"] for x in settings["missing"]]
    yield "settings missing", ", ".join(missing) or "none: ready to export"
    for name, text in settings["unusable"].items():
        yield f"not usable: {name}", text
    hints = " ".join(f"--set {x['name']}={x['usual'] or '...'}" for x in settings["missing"])
    if hints:
        published = any(x["usual"] for x in settings["missing"])
        yield "published code uses" if published else "no published code, give", hints


def _value(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _check_lines(found: Found) -> Iterator[Line]:
    checks, net = found["checks"], found["skeleton"]
    if net is not None:
        heads = net["heads"] or "not in the weights"
        yield (
            "shapes say",
            (
                f"T {net['n_steps']}, depth {net['depth']}, D {net['dim']}, heads {heads}, "
                f"{net['classes']} classes, {net['channels']} input channels"
            ),
        )
    if found["has_ema"]:
        yield "averaged weights", "there too (state_dict_ema): --set ema=true takes them"
    if checks["tensors_not_finite"]:
        yield "not finite", ", ".join(checks["tensors_not_finite"][:5])
    if checks["lambda_range"] is not None:
        low, high = checks["lambda_range"]
        yield "lambda", f"{low:.4g} .. {high:.4g}, {checks['lambda_not_positive']} not positive"
    if checks["gamma_zero"] or checks["gamma_negative"]:
        yield "gamma", f"{checks['gamma_zero']} zero, {checks['gamma_negative']} negative"


# ----------------------------------------------------------------------------- all together


def print_inspected(found: Found) -> None:
    """Print the answer of `deploy.inspect`."""
    print(printable(f"{found['path']}: {found['what']}"))
    if found["layers"]:
        print()
        _layer_table(found["layers"])
    print()
    _print_lines(_facts(found))
    work = found.get("work")
    if work and work["n_frames"]:
        print()
        _activity_table(work, found["energy_constants_pj"])
    print()
    _print_lines(_holdings(found))


def _facts(found: Found) -> Iterator[Line]:
    """Say what the network is and what it costs."""
    if "model" in found:
        model = found["model"]
        shape = _shape(model["input_shape"])
        yield "input", f"uint8 {shape}, {model['classes']} classes, T = {model['time_steps']}"
        yield "stream", f"2^-{model['frac_bits']}, {model['golden_vectors']} golden vectors"
    if found["kind"] == "checkpoint":
        yield from _check_lines(found)
        if found["settings"] is not None:
            yield from _setting_lines(found["settings"])
        if found.get("layers_need"):
            yield "no layers without", ", ".join(found["layers_need"])
    if found.get("work"):
        yield from _work_lines(found["work"])
    if "total_macs" in found:
        yield from _onnx_lines(found)
    if found.get("pruned"):
        cut, of = found["pruned"]["cut"], found["pruned"]["of"]
        yield "pruned", f"{cut} of {of} channels and heads, in {found['pruned']['layers']} layers"
    events = found.get("events")
    if events:
        yield "events", ", ".join(f"{k} {v}" for k, v in events.items())


def _holdings(found: Found) -> Iterator[Line]:
    """Say what it holds: parameters and bytes."""
    parameters = found.get("parameters")
    if parameters is not None:
        yield from _parameter_lines(parameters)
    yield from _size_lines(found["sizes"], parameters)
    for name, size in found.get("files", {}).items():
        yield name, "unknown size" if size is None else f"{size} bytes"


def _onnx_lines(found: Found) -> Iterator[Line]:
    yield "ops", ", ".join(f"{name} {n}" for name, n in found["ops"].items())
    unknown = found["n_layers_of_unknown_shape"]
    text = f"{amount(found['total_macs'])} per frame"
    if found["n_nodes_in_functions"]:
        text += f", without {found['n_nodes_in_functions']} nodes inside functions"
    yield "MACs", text + (f", without {unknown} layers of unknown shape" if unknown else "")


# ----------------------------------------------------------------------------- published


def print_published(found: Found) -> None:
    """Print what `deploy.published` gives."""
    print("sizes: 1 bit per binary weight, fp16 conv0, batch norm and both heads, MiB")
    print_table(
        ("dataset", "model", "parameters", "MiB", "printed", "agrees", "T", "MACs/step", "MACs",
         "conv0 and heads"),
        [
            (
                row["dataset"],
                row["model"],
                row["parameters"],
                f"{row['size_mib']:.4f}",
                row["printed_mib"],
                _yes(row["size_agrees"]),
                row["time_steps"],
                amount(row["spike_macs_per_step"]),
                amount(row["spike_macs"]),
                amount(row["real_macs"]),
            )
            for row in found["models"]
        ],
    )  # fmt: skip
    print("\nNS-ACE = SOPs b_w b_s")
    print_table(
        ("model", "SOPs", "b_w", "b_s", "NS-ACE", "before rounding", "printed", "agrees"),
        [
            (
                row["model"],
                f"{row['sops_g']:.2f} G",
                row["weight_bits"],
                row["spike_bits"],
                f"{row['ns_ace_g']:.2f} G",
                f"{row['ns_ace_low_g']:.2f} .. {row['ns_ace_high_g']:.2f} G",
                f"{row['printed_g']} G",
                _yes(row["agrees"]),
            )
            for row in found["ns_ace"]
        ],
    )
    print("\nBESTformer 8-512: two printed NS-ACE, what each means for the firing rate")
    print_table(
        ("printed in", "NS-ACE", "read as", "dense MACs", "firing rate", "likely"),
        [
            (
                row["where"],
                f"{row['ns_ace_g']:.2f} G",
                f"T = {row['time_steps']}",
                amount(row["dense_macs"]),
                f"{100 * row['implied_firing_rate']:.1f} %",
                _yes(row["likely"]),
            )
            for row in found["readings"]
        ],
    )
    _print_qsd(found["qsd"])


def _print_qsd(found: Found) -> None:
    """Print what QSD-Transformer claims and what it means."""
    print("\nQSD-Transformer, 4-bit weights: its Param (M) counts them as float32 numbers")
    print_table(
        ("model", "4-bit weights", "as float32, M", "printed", "agrees", "packed MiB"),
        [
            (
                row["model"],
                row["weights"],
                f"{row['float_equivalents_m']:.3f}",
                row["printed_m"],
                _yes(row["agrees"]),
                f"{row['packed_mib']:.2f}",
            )
            for row in found["models"]
        ],
    )
    print(
        f"printed size ratio {found['printed_size_ratio']}: 55.4 M / 6.8 M = "
        f"{found['size_ratio']:.2f}; the same weights in float32 take "
        f"{found['file_ratio']:.1f} times the bytes\n"
        f"printed energy ratio {found['printed_energy_ratio']}: 52.4 mJ / 8.7 mJ = "
        f"{found['energy_ratio']:.2f}, both as the papers print them"
    )


def _yes(value: bool) -> str:
    return "yes" if value else "no"
