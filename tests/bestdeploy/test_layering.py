"""The floors of the house: imports go downwards only, heavy packages live in one room each."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "bestdeploy"

FLOORS = (
    ("errors",),
    ("files", "ir"),
    ("ops",),
    ("stages",),
    ("importers", "passes", "program"),
    ("compact",),
    ("lower",),
    ("emit", "toolchain"),
    (
        "runtime",
        "onnxruntime",
        "onnxruntime_int8",
        "openvino",
        "torch_peer",
        "images",
        "report",
        "_environment",
        "_device",
    ),
    ("_bundle",),
    ("_forms", "_summary"),
    ("_comparison",),
    ("_run", "_bench", "_inspect", "_export", "_verify"),
    ("plots",),
    ("deploy", "_output"),
    ("_printing", "_inspect_printing", "_failure"),
    ("cli",),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

# package -> the rooms that may import it, and whether only inside functions
ROOMS = {
    "torch": {"importers", "_verify", "torch_peer"},
    "tvm": {"emit"},
    "onnxruntime": {"onnxruntime", "onnxruntime_int8"},
    "openvino": {"openvino"},
    "matplotlib": {"plots"},
    "expelliarmus": {"images"},
    "typer": {"cli", "_failure"},
}


def modules(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield (dotted name, inside a function or under TYPE_CHECKING) for every import."""

    def walk(node: ast.AST, inside: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            deeper = inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                deeper = True
            if isinstance(child, ast.Import):
                yield from ((alias.name, inside) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: relative import"
                yield from ((f"{child.module}.{a.name}", inside) for a in child.names)
            else:
                yield from walk(child, deeper)

    yield from walk(ast.parse(path.read_text()), False)


@pytest.mark.parametrize("path", modules(PACKAGE), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_downwards(path):
    here = room(path)
    if here == "__init__":
        assert not list(imported(path))
        return
    assert here in FLOOR_OF, f"{here} stands on no floor: add it to FLOORS"
    for name, _ in imported(path):
        parts = name.split(".")
        if parts[0] != "bestdeploy" or parts[1] in ("__version__", here):
            continue
        there = parts[1]
        assert there in FLOOR_OF, f"{here} imports {name}, which stands on no floor"
        assert FLOOR_OF[there] < FLOOR_OF[here], f"{here} may not import {there}"


@pytest.mark.parametrize("path", modules(PACKAGE), ids=lambda p: str(p.relative_to(ROOT)))
def test_heavy_packages_stay_in_their_rooms(path):
    for name, inside in imported(path):
        package = name.split(".")[0]
        if package in ROOMS:
            assert room(path) in ROOMS[package], f"{path.name} imports {package}"
            assert inside or package == "typer", f"{path.name}: import {package} in a function"
        assert package != "training", "bestdeploy and training meet in checkpoint files only"


@pytest.mark.parametrize("path", modules(ROOT / "training"), ids=lambda p: p.name)
def test_training_does_not_import_bestdeploy(path):
    assert not [n for n, _ in imported(path) if n.split(".")[0] == "bestdeploy"]
