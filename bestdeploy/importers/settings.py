"""Settings that the weights cannot say: where they come from and how they are checked.

Nothing is guessed. A setting comes from `--set KEY=VALUE`, else from the `--config` TOML file,
else from the `args` of the checkpoint; when none has it, the export stops and names every missing
key at once.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bestdeploy.errors import InputError, UnsupportedModelError, UsageError

UNPUBLISHED = "no code is published that says it, give what was trained"


@dataclass(frozen=True)
class Setting:
    """One setting of a family.

    Attributes:
        name: its key in `--set`, `--config` and the model's metadata.
        parse: turns a value of any source into the right type, or raises ValueError.
        expected: what `parse` accepts, in words.
        aliases: other keys under which checkpoints hold it.
        default: used when no source has it; settings without one are required.
        usual: what the published code uses, shown in the hint.
        implied: gives the value that the settings before this one imply, or None; asked when no
            source has it.
    """

    name: str
    parse: Callable[[Any], Any]
    expected: str
    aliases: tuple[str, ...] = ()
    default: Any = None
    required: bool = True
    usual: str | None = None
    implied: Callable[[Mapping[str, Any]], Any] | None = None


def wants_ema(overrides: Mapping[str, Any] | None, stated: Mapping[str, Any]) -> bool:
    """Tell whether `--set` or `--config` asks for the averaged weights of a checkpoint.

    Asked before the file is read, so never of the file itself.
    """
    tables = {"--set": overrides or {}, "--config": stated}
    asked = {source: {k: v for k, v in t.items() if k == EMA.name} for source, t in tables.items()}
    return bool(resolve((EMA,), asked, family="any").values[EMA.name])


class Resolved(NamedTuple):
    """Settings by name, and which source each came from ("default" where none had it)."""

    values: dict[str, Any]
    origins: dict[str, str]


def choice(*names: str) -> Callable[[Any], str]:
    """Return a parser that accepts the given words."""

    def parse(value: Any) -> str:
        if value not in names:
            raise ValueError(value)
        return str(value)

    return parse


def number(low: float, high: float) -> Callable[[Any], float]:
    """Return a parser for a finite number in [low, high]."""

    def parse(value: Any) -> float:
        if isinstance(value, bool):
            raise ValueError(value)
        result = float(value)
        if not low <= result <= high:
            raise ValueError(value)
        return result

    return parse


def integer(low: int, high: int) -> Callable[[Any], int]:
    """Return a parser for a whole number in [low, high]."""

    def parse(value: Any) -> int:
        if isinstance(value, bool) or float(value) != int(float(value)):
            raise ValueError(value)
        if not low <= int(float(value)) <= high:
            raise ValueError(value)
        return int(float(value))

    return parse


def one_of(*allowed: int) -> Callable[[Any], int]:
    """Return a parser for one of the given whole numbers."""

    def parse(value: Any) -> int:
        found = integer(min(allowed), max(allowed))(value)
        if found not in allowed:
            raise ValueError(value)
        return found

    return parse


def boolean(value: Any) -> bool:
    """Accept true and false."""
    if isinstance(value, bool):
        return value
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if str(value).lower() not in words:
        raise ValueError(value)
    return words[str(value).lower()]


def numbers(value: Any) -> tuple[float, ...]:
    """Accept a list of finite numbers, or one written as `[0.1, 0.2]` or `0.1,0.2`."""
    if isinstance(value, str):
        value = [part for part in value.strip("[]() ").split(",") if part.strip()]
    if isinstance(value, int | float):
        value = [value]
    result = tuple(number(-1e6, 1e6)(v) for v in value)
    if not result:
        raise ValueError(value)
    return result


def names(value: Any) -> list[str]:
    """Accept a list of words, or one written as `cat,dog`."""
    parts = value.split(",") if isinstance(value, str) else list(value)
    if not parts or not all(isinstance(p, str) and p.strip() and p.isprintable() for p in parts):
        raise ValueError(value)
    return [p.strip() for p in parts]


def image_size(value: Any) -> tuple[int, int]:
    """Accept one size or (height, width)."""
    if isinstance(value, str):
        value = value.strip("[]() ").replace("x", ",").split(",")
    sizes = [value] if isinstance(value, int | float) else list(value)
    if len(sizes) not in (1, 2):
        raise ValueError(value)
    parsed = [integer(1, 4096)(v) for v in sizes]
    return parsed[0], parsed[-1]


EMA = Setting("ema", boolean, "true or false", default=False, required=False)
"""Take `state_dict_ema`, the weights averaged over training, where a checkpoint holds both."""


def read_config(path: str | Path | None) -> dict[str, Any]:
    """Read the settings of a TOML file: its `[model]` table where there is one, else all of it.

    Raises:
        InputError: unreadable or not TOML.
    """
    if path is None:
        return {}
    try:
        table = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as e:
        raise InputError(
            f"cannot read `{path}`: {e.strerror}", where=str(path), hint="check --config"
        ) from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise InputError(
            f"`{path}` is not a TOML file: {e}",
            where=str(path),
            hint='one setting per line: tau = 2.0, variant = "official"',
        ) from e
    if "model" not in table:
        return table
    if not isinstance(table["model"], dict):
        raise InputError(
            f"`{path}`: model={table['model']!r}, expected a table [model]",
            where=str(path),
            hint="put the settings below a line [model], or without any table",
        )
    return {**{k: v for k, v in table.items() if k == "family"}, **table["model"]}


def resolve(
    schema: tuple[Setting, ...],
    sources: Mapping[str, Mapping[str, Any]],
    *,
    family: str,
) -> Resolved:
    """Take every setting from the first source that has it.

    Args:
        schema: the family's settings.
        sources: name of the source -> its values, strongest first.
        family: named in errors.

    Raises:
        UnsupportedModelError: a required setting is in no source.
        UsageError: a value is not what the setting expects, or `--set` has an unknown key.
    """
    known = {alias for s in schema for alias in (s.name, *s.aliases)}
    for source in ("--set", "--config"):
        for key in sources.get(source, {}):
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                guess = f"did you mean {near[0]}? " if near else ""
                raise UsageError(
                    f"{source} {key}: family `{family}` has no such setting",
                    hint=f"{guess}known settings: {', '.join(s.name for s in schema)}",
                )
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    missing: list[Setting] = []
    for setting in schema:
        found = _find(setting, sources)
        if found is not None:
            values[setting.name] = _parse(setting, *found)
            origins[setting.name] = found[0]
            continue
        implied = None if setting.implied is None else setting.implied(values)
        if implied is None and setting.required:
            missing.append(setting)
            continue
        values[setting.name] = setting.default if implied is None else implied
        origins[setting.name] = "default"
    if missing:
        names = ", ".join(f"`{s.name}`" for s in missing)
        usual = " ".join(f"--set {s.name}={s.usual or '...'}" for s in missing)
        published = "the published code uses" if any(s.usual for s in missing) else UNPUBLISHED
        expected = "; ".join(f"{s.name}: {s.expected}" for s in missing)
        raise UnsupportedModelError(
            f"the checkpoint does not say {names} and nothing is guessed ({expected})",
            where=f"family {family}",
            hint=f"{published}: {usual}",
        )
    return Resolved(values, origins)


def _is_unset(value: Any, source: str) -> bool:
    """Training scripts store options that nobody gave as None or as an empty text."""
    return value is None or (value == "" and not source.startswith("--"))


def _find(
    setting: Setting, sources: Mapping[str, Mapping[str, Any]]
) -> tuple[str, str, Any] | None:
    for source, table in sources.items():
        for key in (setting.name, *setting.aliases):
            if not _is_unset(table.get(key), source):
                return source, key, table[key]
    return None


def _parse(setting: Setting, source: str, key: str, value: Any) -> Any:
    try:
        return setting.parse(value)
    except (ValueError, TypeError, OverflowError) as e:
        error = UsageError if source.startswith("--") else UnsupportedModelError
        raise error(
            f"{key}={value!r} (from {source}): must be {setting.expected}",
            where=f"setting {setting.name}",
            hint=f"override it with --set {setting.name}={setting.usual or '...'}",
        ) from e
