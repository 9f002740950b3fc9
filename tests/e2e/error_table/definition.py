"""What a row of the error table is, and where the package raises its errors."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bestdeploy import errors

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = ROOT / "bestdeploy"
MIN_LITERAL = 5  # letters that a message needs of its own to be told from others

Make = Callable[[Path], object]


def nothing(folder: Path) -> None:
    """Prepare nothing."""


@dataclass(frozen=True)
class Case:
    """One error as a user meets it.

    Attributes:
        words: the command line after `bestdeploy`, run in a folder that holds the shared files.
        code: exit code.
        says: text of the `error:` line; `*` stands for what differs between machines.
        hint: text of the `hint:` line, with `*` too: every error has one.
        where: text of the `where:` line; None where there is none.
        make: writes the files of this case into the folder.
        env: changes of the environment.
        stdin: what is on standard input.
        hidden: packages that are made to be missing.
        needs: a package that the case cannot do without; it is skipped where it is missing.
        machine: the only architecture that shows this error; "" = every one.
        site: "file.py:function" that raises it, where the words of `says` do not tell.
    """

    words: str
    code: int
    says: str
    hint: str
    where: str | None = None
    make: Make = nothing
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: bytes = b""
    hidden: tuple[str, ...] = ()
    needs: str = ""
    machine: str = ""
    site: str = ""

    @property
    def id(self) -> str:
        return f"{self.words[:40]}: {self.says[:40]}"


@dataclass(frozen=True)
class Internal:
    """A place that no command line reaches, and why not.

    Attributes:
        site: "file.py:function".
        starts: first words of its message, "" for all messages of the function.
        why: the reason.
    """

    site: str
    starts: str
    why: str


@dataclass(frozen=True)
class Site:
    """A `SomeError(...)` in the package: `{}` in its text stands for what is put in."""

    place: str
    line: int
    error: str
    text: str

    @functools.cached_property
    def pattern(self) -> re.Pattern[str]:
        return re.compile(".*".join(re.escape(part) for part in self.text.split("{}")), re.DOTALL)

    @property
    def is_telling(self) -> bool:
        return sum(c.isalpha() for c in self.text.replace("{}", "")) >= MIN_LITERAL

    def is_of(self, case: Case) -> bool:
        """Tell whether a case is the error of this place."""
        if case.site:
            return case.site == self.place and bool(self.pattern.fullmatch(case.says))
        return self.is_telling and bool(self.pattern.fullmatch(case.says))

    def is_listed(self, row: Internal) -> bool:
        return row.site == self.place and self.text.startswith(row.starts)


def _text(node: ast.expr) -> str:
    """Return a message with `{}` for every part that is not written there."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    return "{}"


def _names(tree: ast.Module) -> set[str]:
    """Return what the error classes are called in a module: their names, and variables of them."""
    names = set(errors.__all__)
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            parts = {n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)}
            called = any(isinstance(n, ast.Call) for n in ast.walk(node.value))
            if parts & set(errors.__all__) and not called:
                names |= {t.id for t in node.targets if isinstance(t, ast.Name)}
    return names


def sites() -> Iterator[Site]:
    """Yield every place of the package where an error of its own is made."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name == "errors.py":
            continue
        tree = ast.parse(path.read_text("utf-8"))
        names = _names(tree)

        def walk(node: ast.AST, inside: tuple[str, ...]) -> Iterator[Site]:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.FunctionDef | ast.ClassDef):
                    yield from walk(child, (*inside, child.name))
                    continue
                if isinstance(child, ast.Call):
                    made = child.func
                    name = made.attr if isinstance(made, ast.Attribute) else getattr(made, "id", "")
                    if name in names and child.args:  # noqa: B023
                        place = f"{path.relative_to(PACKAGE)}:{'.'.join(inside)}"  # noqa: B023
                        yield Site(place, child.lineno, name, _text(child.args[0]))
                yield from walk(child, inside)

        yield from walk(tree, ())
