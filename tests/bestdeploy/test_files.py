"""Files are written whole, together, or not at all."""

from __future__ import annotations

import pytest

from bestdeploy.errors import OutputError
from bestdeploy.files import write_file, write_files


def test_all_or_none(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(OutputError, match="folder"):
        write_files({tmp_path / "a": b"new", tmp_path / "b": b"new"})
    assert (tmp_path / "a").read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]
    write_files({tmp_path / "a": b"1", tmp_path / "c" / "d": b"2"})
    assert (tmp_path / "a").read_bytes() == b"1"
    assert (tmp_path / "c" / "d").read_bytes() == b"2"


def test_a_file_in_place_of_a_folder(tmp_path):
    write_file(tmp_path / "file", b"x")
    with pytest.raises(OutputError, match="cannot write") as e:
        write_file(tmp_path / "file" / "below", b"y")
    assert e.value.exit_code == 8
