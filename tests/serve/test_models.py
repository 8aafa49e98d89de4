"""Model files: their names, their copies, and when they have changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from singleshot.errors import CheckpointError, ConfigError
from singleshot.serve.models import HalfWrittenError, ModelCopies, named_models, take_all


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "best.onnx"
    path.write_bytes(b"one")
    return path


@pytest.fixture
def copies(file: Path):
    made = ModelCopies({"best": file})
    yield made
    made.close()


def test_a_model_is_called_as_its_file_or_as_is_said(file: Path, tmp_path: Path) -> None:
    odd = tmp_path / "a=b.onnx"
    odd.write_bytes(b"x")
    assert named_models([str(file), f"cats={file}", str(odd)]) == {"best": file, "cats": file, "a=b": odd}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["best.onnx", "best.onnx"], "a second model called best"),
        (["best.onnx", "best=best.onnx"], "a second model called best"),
        (["=best.onnx"], "no name"),
        (["a\nb=best.onnx"], "no name"),
        (["absent.onnx"], "no such file"),
        (["x=."], "is a folder"),
    ],
)
def test_names_that_do_not_do(file: Path, monkeypatch, given: list[str], says: str) -> None:
    monkeypatch.chdir(file.parent)
    with pytest.raises((ConfigError, CheckpointError), match=says):
        named_models(given)


def test_a_copy_stays_as_it_was_taken(file: Path, copies: ModelCopies) -> None:
    (path,) = take_all({"best": file}, copies).values()
    file.write_bytes(b"two")
    assert Path(path).read_bytes() == b"one"
    assert Path(path).name == "best.onnx"
    again = copies.take("best")
    assert Path(again).read_bytes() == b"two"
    copies.drop(path)
    assert not Path(path).exists()
    assert Path(again).exists()


def test_what_belongs_to_a_file_is_copied_and_watched_too(tmp_path: Path) -> None:
    for name in ("m.xml", "m.bin", "m.json", "n.bin"):
        (tmp_path / name).write_bytes(name.encode())
    copies = ModelCopies({"m": tmp_path / "m.xml"})
    folder = Path(copies.take("m")).parent
    assert sorted(path.name for path in folder.iterdir()) == ["m.bin", "m.json", "m.xml"]
    copies.changed()
    (tmp_path / "m.bin").write_bytes(b"other weights")
    assert copies.changed() == []
    assert copies.changed() == ["m"]
    copies.close()
    assert not folder.exists()


def test_a_file_counts_as_changed_once_it_has_stopped_changing(file: Path, copies: ModelCopies) -> None:
    copies.take("best")
    assert copies.changed() == copies.changed() == []
    for size in (10, 20, 30):  # being written
        file.write_bytes(bytes(size))
        assert copies.changed() == []
    assert copies.changed() == ["best"]
    copies.take("best")
    assert copies.changed() == copies.changed() == []
    file.unlink()
    assert copies.changed() == copies.changed() == []  # gone is not new
    file.write_bytes(b"x")
    assert [copies.changed(), copies.changed()] == [[], ["best"]]


def test_a_file_of_the_same_size_and_time_is_seen_by_its_place(file: Path, copies: ModelCopies, tmp_path: Path) -> None:
    copies.take("best")
    stat = file.stat()
    new = tmp_path / "new"
    new.write_bytes(b"two")
    os.utime(new, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    new.replace(file)
    copies.changed()
    assert copies.changed() == ["best"]


def test_a_file_that_changes_while_it_is_copied_is_not_taken(file: Path, copies: ModelCopies, monkeypatch) -> None:
    import shutil

    def copy(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes())
        source.write_bytes(b"more than before")

    monkeypatch.setattr(shutil, "copyfile", copy)
    with pytest.raises(HalfWrittenError, match="is being written"):
        copies.take("best")


def test_nowhere_to_copy_to_is_said(file: Path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(file.parent / "absent"))
    with pytest.raises(ConfigError, match="TMPDIR"):
        ModelCopies({"best": file})
