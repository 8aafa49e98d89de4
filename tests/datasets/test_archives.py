"""Archives in place of folders: unpacked once, with the guards of `fetch`, whole or not at all."""

from __future__ import annotations

import io
import logging
import os
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from singleshot.cli.data_check import _default_out
from singleshot.datasets import archives, open_dataset, open_source
from singleshot.errors import ConfigError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "singleshot" / "archives"


@pytest.fixture
def files(voc_set) -> dict[str, bytes]:
    """Name -> contents of a small VOC set."""
    return {p.relative_to(voc_set).as_posix(): p.read_bytes() for p in voc_set.rglob("*") if p.is_file()}


def pack(path: Path, files: dict[str, bytes], top: str = "") -> Path:
    if path.name.lower().endswith(".zip"):
        with zipfile.ZipFile(path, "w") as zipped:
            for name, data in files.items():
                zipped.writestr(top + name, data)
        return path
    mode = {"gz": "w:gz", "tgz": "w:gz", "bz2": "w:bz2", "xz": "w:xz"}.get(path.name.rpartition(".")[2], "w")
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(top + name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    ("name", "top"),
    [
        *(("a.zip", "set/"), ("A.ZIP", ""), ("a.tar", "x/y/"), ("a.tar.gz", ""), ("a.tgz", "./s/")),
        *(("a.tar.bz2", ""), ("a.tar.xz", "s/")),
    ],
)
def test_an_archive_is_its_folder(tmp_path, files, voc_set, cache, caplog, name, top):
    path = pack(tmp_path / name, {**files, "._x.xml": b"", ".DS_Store": b"x"}, top)
    caplog.set_level(logging.INFO)
    data, direct = open_dataset(path), open_dataset(voc_set)
    assert list(data.image_ids) == list(direct.image_ids)
    assert data.boxes_px.tolist() == direct.boxes_px.tolist()
    assert data.sample(0).image.shape == (48, 64, 3)
    assert all(Path(one).is_relative_to(cache) for one in data.names)
    (said,) = [one for one in caplog.messages if "unpacked into" in one]
    assert said.startswith(f"{path}: ")
    before = {p: p.stat().st_mtime_ns for p in cache.rglob("*")}
    open_source(path).read(None)
    assert {p: p.stat().st_mtime_ns for p in cache.rglob("*")} == before  # nothing is unpacked again


def test_a_changed_archive_is_unpacked_anew(tmp_path, files):
    path = pack(tmp_path / "a.zip", files)
    first = archives.unpacked(path)
    pack(path, {**files, "new.txt": b"x"})
    assert (archives.unpacked(path) / "new.txt").is_file()
    assert not (first / "new.txt").exists()


def test_a_folder_that_is_a_split_is_not_stepped_into(tmp_path, files):
    boxes = {f"train/{name.rpartition('/')[2]}": data for name, data in files.items() if "Sets" not in name}
    assert open_source(pack(tmp_path / "a.zip", boxes)).splits == ("train",)


def test_names_that_macos_packs_without_their_mark(tmp_path):
    pack(tmp_path / "a.zip", {"Größe 猫.txt": b"x", "b.txt": b""})
    data = bytearray((tmp_path / "a.zip").read_bytes())
    for at in (data.find(b"PK\3\4") + 7, data.find(b"PK\1\2") + 9):
        data[at] &= ~8
    (tmp_path / "a.zip").write_bytes(data)
    assert (archives.unpacked(tmp_path / "a.zip") / "Größe 猫.txt").is_file()


def special(name: str, kind: bytes, size: int = 0, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, link
    return info


def tar_with(path: Path, info: tarfile.TarInfo, body: bytes = b"", headers: dict[str, str] | None = None) -> Path:
    info.pax_headers = headers or {}
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("ok.txt"))
        tar.addfile(info, io.BytesIO(body))
    return path


@pytest.mark.parametrize(
    ("member", "headers", "said"),
    [
        (special("a", tarfile.SYMTYPE, link="ok.txt"), {}, "holds a link"),
        (special("../a", tarfile.REGTYPE), {}, "names within its folder"),
        (special("/a", tarfile.REGTYPE), {}, "names within its folder"),
        (special("a", tarfile.FIFOTYPE), {}, "holds a device"),
        (special("a", tarfile.GNUTYPE_SPARSE), {}, "a sparse file"),
        (special("a", tarfile.REGTYPE, 512), {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}, "a sparse file"),
        (special("a", tarfile.GNUTYPE_LONGNAME, 2**17), {}, "a header of 131072 bytes"),
        (special("a", tarfile.REGTYPE), {"comment": "x" * 2**17}, "a header of"),
        (special("ok.txt/b", tarfile.REGTYPE), {}, "cannot be written"),
    ],
)
def test_hostile_tars_are_one_line_and_leave_nothing(tmp_path, cache, one_line, member, headers, said):
    path = tar_with(tmp_path / "a.tar.gz", member, b"0" * member.size, headers)
    message = one_line(open_source, path)
    assert said in message
    assert message.endswith("unpack it yourself and give the folder")
    assert not [p for p in cache.rglob("*") if p.name != ".lock" and p.parent != cache]


def damage(path: Path, spoil) -> Path:
    path.write_bytes(spoil(path.read_bytes()))
    return path


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
@pytest.mark.parametrize(
    "spoil",
    [lambda data: b"", lambda data: b"<html>" * 99, lambda data: data[: len(data) // 2]],
    ids=["empty", "html", "cut"],
)
def test_damaged_archives_are_one_line_and_leave_nothing(tmp_path, cache, one_line, files, name, spoil):
    path = damage(pack(tmp_path / name, files), spoil)
    message = one_line(open_source, path)
    assert message.startswith(f"{path}: ")
    assert not [p for p in cache.rglob("*") if p.name != ".lock" and p.parent != cache]


def test_passwords_links_and_bombs_in_zips(tmp_path, one_line, monkeypatch):
    path = pack(tmp_path / "a.zip", {"a.txt": b"x"})
    data = bytearray(path.read_bytes())
    for at in (data.find(b"PK\3\4") + 6, data.find(b"PK\1\2") + 8):
        data[at] |= 1
    path.write_bytes(data)
    assert "holds a file with a password (a.txt)" in one_line(open_source, path)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as zipped:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        zipped.writestr(info, "/etc/passwd")
    assert "holds a link (link)" in one_line(open_source, tmp_path / "b.zip")
    with zipfile.ZipFile(tmp_path / "c.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("a", b"\0" * 10**6)
    monkeypatch.setattr(archives, "_LEAST_BOUND", 1000)
    assert "unpacks to more than" in one_line(open_source, tmp_path / "c.zip")
    monkeypatch.setattr(archives, "_MAX_FILES", 0)
    assert "more than 0 files" in one_line(open_source, pack(tmp_path / "d.zip", {"a": b""}))
    assert "holds no files" in one_line(open_source, pack(tmp_path / "e.zip", {}))


def test_what_is_left_of_a_killed_run_goes_away(tmp_path, files, cache):
    path = pack(tmp_path / "a.zip", files)
    left = cache / archives._key(path) / ".part-1" / "x"
    left.mkdir(parents=True)
    archives.unpacked(path)
    assert not left.parent.exists()


def test_two_processes_unpack_once(tmp_path, files, cache):
    path = pack(tmp_path / "a.tar.gz", {**files, **{f"n/{i}": b"x" * 1000 for i in range(2000)}})
    code = (
        "import logging, sys; logging.basicConfig(level=20);"
        "from singleshot.datasets.archives import unpacked; print(unpacked(sys.argv[1]))"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code, path], stdout=-1, stderr=-1, text=True) for _ in range(3)]
    done = [run.communicate() for run in runs]
    assert len({out for out, _ in done}) == 1
    assert sum("unpacked into" in said for _, said in done) == 1


def test_what_is_not_read_is_said(tmp_path, one_line, files):
    for name in ("a.rar", "a.7z", "a.tar.zst", "a.json.gz"):
        (tmp_path / name).write_bytes(b"x")
        assert f"{name}: not an archive that is read (want .zip, " in one_line(open_source, tmp_path / name)
    assert "download it" in one_line(open_source, "https://host.invalid/a.zip")
    assert "no such file" in one_line(open_source, tmp_path / "none.zip")
    (tmp_path / "folder.zip").mkdir()
    assert "empty folder" in one_line(open_source, tmp_path / "folder.zip")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "shards.json").write_text("{}")
    shard = pack(tmp_path / "s" / "train-000000.tar", files)
    assert f"one of several shards; give their folder, {tmp_path / 's'}" in one_line(open_source, shard)


def test_a_folder_of_archives_says_what_to_give(tmp_path, one_line, files):
    (tmp_path / "x").mkdir()
    path = pack(tmp_path / "x" / "a.zip", files)
    assert f"a.zip is an archive; give it, {path}, or unpack it here" in one_line(open_source, tmp_path / "x")
    pack(tmp_path / "x" / "b.rar.tgz", files)
    assert "a.zip and 1 more are archives; unpack them here" in one_line(open_source, tmp_path / "x")


def test_a_cache_that_cannot_be_written(tmp_path, files, monkeypatch):
    path = pack(tmp_path / "a.zip", files)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="set XDG_CACHE_HOME") as caught:
        open_source(path)
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert archives.unpacked(path).is_relative_to(tmp_path / "home" / ".cache")
    assert not Path("relative").exists()


def test_the_copy_of_an_archive_has_its_name():
    assert _default_out(f"x{os.sep}cats.tar.gz") == "cats-fixed"
    assert _default_out("cats.v2.zip") == "cats.v2-fixed"
    assert _default_out("labels.json") == "labels-fixed"
    assert _default_out("a.b/") == "a.b-fixed"
