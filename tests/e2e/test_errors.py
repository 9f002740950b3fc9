"""Every error that a user can meet, produced by a real command on real files.

The table is `error_table.CASES`; places that no command reaches are in `error_table.INTERNAL` with
the reason. A new `raise` that is in neither fails here: add a row to one of the files of the table.
"""

from __future__ import annotations

import fnmatch
import io
import platform
import shlex
import sys
import types

import pytest
from error_table import CASES, INTERNAL
from error_table.definition import sites
from error_table.shared import shared_files

from bestdeploy import cli

SITES = tuple(sites())


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A checkpoint, its exports, bundles and sources, which the cases refer to by name."""
    folder = tmp_path_factory.mktemp("shared")
    shared_files(folder)
    return folder


def matches(line: str, pattern: str) -> bool:
    """Compare a line with a text in which only `*` is special."""
    return fnmatch.fnmatchcase(line, pattern.replace("[", "[[]").replace("?", "[?]"))


def lines_of(err: str) -> dict[str, str]:
    """Return the text of the `error:`, `where:` and `hint:` lines."""
    found: dict[str, str] = {}
    for line in err.splitlines():
        kind, colon, text = line.partition(": ")
        if colon and kind in ("error", "where", "hint"):
            found.setdefault(kind, text)
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_error(case, shared, tmp_path, monkeypatch, capsys):
    if case.needs:
        pytest.importorskip(case.needs, reason=f"{case.needs} is not installed")
    if case.machine not in ("", platform.machine()):
        pytest.skip(f"an error on {case.machine}")
    for package in case.hidden:
        monkeypatch.setitem(sys.modules, package, None)
    for file in shared.iterdir():
        (tmp_path / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    for name, value in case.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(case.stdin)))
    case.make(tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())
    code = cli.main(shlex.split(case.words))
    err = capsys.readouterr().err
    found = lines_of(err)
    assert code == case.code, err
    assert "Traceback" not in err and "bug in bestdeploy" not in err
    assert matches(found["error"], case.says), found["error"]
    assert matches(found["hint"], case.hint), found["hint"]
    assert ("where" in found) == (case.where is not None), err
    assert case.where is None or matches(found["where"], case.where), found["where"]
    after = {p.name for p in tmp_path.iterdir()} - {"cache"}
    assert sorted(after) == before, "something was half-written"


def test_every_error_is_in_the_table():
    """Each place that makes an error has a case, or is listed as internal with a reason."""
    missing = [
        f"{site.place} (line {site.line}): {site.error}: {site.text}"
        for site in SITES
        if not any(site.is_of(case) for case in CASES)
        and not any(site.is_listed(row) for row in INTERNAL)
    ]
    assert not missing, "no case for\n" + "\n".join(missing)


def test_no_row_is_left_over():
    for row in INTERNAL:
        assert any(site.is_listed(row) for site in SITES), f"{row.site}: there is no such place"
        assert len(row.why) > 10
    for case in CASES:
        if case.site:
            assert any(site.is_of(case) for site in SITES), f"{case.site}: {case.says}"


def test_every_case_has_a_name_of_its_own():
    names = [(case.words, case.says) for case in CASES]
    assert len(set(names)) == len(names)


def test_every_exit_code_is_produced():
    assert {case.code for case in CASES} >= {2, 3, 4, 5, 6, 7, 8}
