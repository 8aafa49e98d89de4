"""Files are written whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from singleshot.errors import ConfigError, printable
from singleshot.files import atomic_folder, atomic_write, numbered_folder, try_folder


def test_it_appears_whole_with_the_mode_of_any_new_file(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("x")
    with atomic_write(tmp_path / "a" / "b.txt") as temporary:
        assert temporary.suffix == ".txt"
        temporary.write_text("hello")
        assert not (tmp_path / "a" / "b.txt").exists()
    assert (tmp_path / "a" / "b.txt").read_text() == "hello"
    assert (tmp_path / "a" / "b.txt").stat().st_mode == plain.stat().st_mode
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.txt"]


def test_a_failure_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cannot write there"), atomic_write(tmp_path / "file" / "below.txt"):
        pass


def test_printable_stays_on_one_line_and_short() -> None:
    text = printable("a\nb\x1b[31m\u202e" + "x" * 1000)
    assert "\n" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert len(text) < 300
    assert os.linesep not in text


def test_a_folder_is_tried_and_nothing_is_left(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("new", "new/er/est", "x/../../y", "."):
        try_folder(Path(name))
    assert list(tmp_path.iterdir()) == []
    assert not (tmp_path.parent / "y").exists()
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / ("n" * 300), Path("nul\0")):
        with pytest.raises(ConfigError, match="cannot write there") as caught:
            try_folder(path)
        assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_fault_of_the_disk_names_the_file_whoever_wrote(tmp_path: Path) -> None:
    for fault in (OSError(errno.ENOSPC, "No space left on device"), RuntimeError("io: No space left on device (28)")):
        with (
            pytest.raises(OSError, match=r"No space left on device.*'.*there'") as caught,
            atomic_write(tmp_path / "there"),
        ):
            raise fault
        assert caught.value.errno == errno.ENOSPC
        with pytest.raises(OSError, match=r"'.*folder'"), atomic_folder(tmp_path / "folder") as folder:
            (folder / "some").touch()
            raise fault
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match=r"^other$"), atomic_write(tmp_path / "there"):
        raise ValueError("other")


def test_the_disk_has_a_durable_file_before_its_name_and_then_the_name(tmp_path: Path, monkeypatch) -> None:
    """What a power failure must find: the old file or the new one, never a name without its bytes."""
    path, seen = tmp_path / "state", []

    def fsync(handle: int) -> None:
        seen.append((Path(f"/proc/self/fd/{handle}").readlink().is_dir(), path.read_text()))

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("counts processes by /proc")
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", fsync)
    with atomic_write(path, durable=True) as temporary:
        temporary.write_text("new")
    assert seen == [(False, "old"), (True, "new")]


def test_nobody_gets_the_numbered_folder_of_another(tmp_path: Path, monkeypatch) -> None:
    """Also of one that makes it in the same moment."""
    mkdir = Path.mkdir

    def after_another(path: Path, *args: bool, **options: bool) -> None:
        if path.name == "train-2" and not path.is_dir():
            mkdir(path)
        mkdir(path, *args, **options)

    monkeypatch.setattr(Path, "mkdir", after_another)
    assert [numbered_folder(tmp_path / "runs", "train").name for _ in range(2)] == ["train-1", "train-3"]
