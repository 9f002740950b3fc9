"""Files are written whole, together, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from bestdeploy.errors import OutputError
from bestdeploy.files import replaced_folder, work_folder, write_file, write_files


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


def test_a_folder_takes_the_place_of_the_old_one(tmp_path):
    place = tmp_path / "deep" / "folder"
    for text in ("first", "second"):
        with replaced_folder(place) as work:
            (work / text).write_text(text)
            assert not (place / text).exists()
        assert [p.name for p in place.iterdir()] == [text]
    assert [p.name for p in place.parent.iterdir()] == ["folder"]


def test_a_folder_that_fails_leaves_the_old_one(tmp_path):
    place = tmp_path / "folder"
    place.mkdir()
    (place / "old").write_text("x")
    with pytest.raises(ZeroDivisionError), replaced_folder(place) as work:
        (work / "new").write_text("y")
        1 / 0  # noqa: B018
    assert [p.name for p in place.iterdir()] == ["old"]
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_folder_in_an_impossible_place_is_an_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(OutputError, match="file/folder"),
        replaced_folder(tmp_path / "file" / "folder"),
    ):
        raise AssertionError("nothing can be written there")


def interrupt_after(monkeypatch, name):
    """Let a signal arrive just after Path.<name> did its work, before it returns."""
    original = getattr(Path, name)

    def interrupted(self, *args, **kwargs):
        original(self, *args, **kwargs)
        if self.name.startswith("."):
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, name, interrupted)


@pytest.mark.parametrize("name", ["mkdir", "chmod"])
def test_an_interrupt_while_a_work_folder_is_made_leaves_nothing(tmp_path, monkeypatch, name):
    interrupt_after(monkeypatch, name)
    with pytest.raises(KeyboardInterrupt), replaced_folder(tmp_path / "folder"):
        raise AssertionError("the interrupt comes first")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_a_file_is_made_leaves_nothing(tmp_path, monkeypatch):
    interrupt_after(monkeypatch, "open")
    with pytest.raises(KeyboardInterrupt):
        write_files({tmp_path / "a": b"1", tmp_path / "b": b"2"})
    assert list(tmp_path.iterdir()) == []


def test_a_work_folder_goes_unless_it_was_renamed(tmp_path):
    with work_folder(tmp_path / "entry") as work:
        (work / "x").write_text("x")
    assert list(tmp_path.iterdir()) == []
    with work_folder(tmp_path / "entry") as work:
        work.rename(tmp_path / "entry")
    assert [p.name for p in tmp_path.iterdir()] == ["entry"]
