"""Unpacking what somebody else packed."""

from __future__ import annotations

import errno
import hashlib
import io
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from singleshot.datasets.fetch.unpack import content_checksum, unpack_archive


def written(path: Path, body: bytes) -> Path:
    path.write_bytes(body)
    return path


def tree_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


MEMBERS = {"top/in/a.txt": b"a", "./top/in/deep/b.txt": b"bb", "top/._a.txt": b"m", "other/c.txt": b"c"}


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.zip"])
def test_members_are_moved_or_left_out(
    tmp_path: Path, name: str, tar_of: Callable[..., bytes], zip_of: Callable[..., bytes]
) -> None:
    mode = "w:gz" if name.endswith("gz") else "w"
    path = written(tmp_path / name, zip_of(MEMBERS) if name.endswith("zip") else tar_of(dict(MEMBERS), mode))
    into = tmp_path / "into"
    done = unpack_archive(path, (("top/in/", "here/"), ("top/", "")), into, 1000)
    assert tree_of(into) == {"here/a.txt": b"a", "here/deep/b.txt": b"bb"}
    assert done == (2, 3)
    assert all(p.stat().st_mode & 0o111 == 0 for p in into.rglob("*.txt"))


def test_lists_are_joined_other_files_replaced(tmp_path: Path, tar_of: Callable[..., bytes]) -> None:
    into = tmp_path / "into"
    for i, ending in enumerate((b"", b"\n")):
        body = tar_of({"t/ImageSets/Main/train.txt": b"%d" % i + ending, "t/x": b"%d" % i})
        unpack_archive(written(tmp_path / f"{i}.tar", body), (("t/", ""),), into, 1000, joined="ImageSets/")
    assert tree_of(into) == {"ImageSets/Main/train.txt": b"0\n1\n", "x": b"1"}


def special(name: str, kind: bytes, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (special("/etc/x", tarfile.REGTYPE), "want names within"),
        (special("a/../../x", tarfile.REGTYPE), "want names within"),
        (special("..", tarfile.DIRTYPE), "want names within"),
        (special("a\\..\\x", tarfile.REGTYPE), "want names within"),
        (special("C:/x", tarfile.REGTYPE), "want names within"),
        (special("a\nb", tarfile.REGTYPE), "want names within"),
        (special("a", tarfile.SYMTYPE, "/etc/passwd"), "holds a link"),
        (special("a", tarfile.SYMTYPE, "inside"), "holds a link"),
        (special("a", tarfile.LNKTYPE, "ok.txt"), "holds a link"),
        (special("a", tarfile.CHRTYPE), "holds a device"),
        (special("a", tarfile.BLKTYPE), "holds a device"),
        (special("a", tarfile.FIFOTYPE), "holds a device"),
        (special("a", tarfile.REGTYPE, size=2000), "more than 1000 bytes"),
    ],
)
def test_malicious_tar_members_are_refused(
    tmp_path: Path, one_line: Callable[..., str], member: tarfile.TarInfo, said: str, tar_of: Callable[..., bytes]
) -> None:
    path = written(tmp_path / "x.tar", tar_of({"ok.txt": b"x", "bad": member}))
    before = set(tmp_path.rglob("*"))
    assert said in one_line(unpack_archive, path, (("", ""),), tmp_path / "into", 1000)
    assert {p for p in tmp_path.rglob("*") if (tmp_path / "into") not in (p, *p.parents)} == before
    assert not any(p.is_symlink() for p in tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("name", "mode", "said"),
    [
        ("/etc/x", 0, "want names within"),
        ("a/../../x", 0, "want names within"),
        ("a\\b", 0, "want names within"),
        ("c:x", 0, "want names within"),
        ("link", stat.S_IFLNK | 0o777, "holds a link"),
        ("pipe", stat.S_IFIFO | 0o777, "holds a device"),
    ],
)
def test_malicious_zip_members_are_refused(
    tmp_path: Path, one_line: Callable[..., str], name: str, mode: int, said: str, zip_of: Callable[..., bytes]
) -> None:
    path = written(tmp_path / "x.zip", zip_of({"ok.txt": b"x", name: b"/etc/passwd"}, {name: mode}))
    assert said in one_line(unpack_archive, path, (("", ""),), tmp_path / "into", 1000)
    assert not any(p.is_symlink() for p in tmp_path.rglob("*"))


def test_a_zip_bomb_is_refused_by_what_it_declares(
    tmp_path: Path, one_line: Callable[..., str], zip_of: Callable[..., bytes]
) -> None:
    path = written(tmp_path / "x.zip", zip_of({"a": b"\0" * 100_000, "b": b"\0" * 100_000}))
    assert path.stat().st_size < 1000
    assert "more than 150000 bytes" in one_line(unpack_archive, path, (("", ""),), tmp_path / "into", 150_000)
    assert sum(map(len, tree_of(tmp_path / "into").values())) <= 150_000


def test_a_zip_bomb_that_lies_writes_no_more_than_it_declares(
    tmp_path: Path, one_line: Callable[..., str], zip_of: Callable[..., bytes]
) -> None:
    body = zip_of({"a": b"\0" * 100_000})
    lying = body.replace((100_000).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    assert lying != body
    one_line(unpack_archive, written(tmp_path / "x.zip", lying), (("", ""),), tmp_path / "into", 1000)
    assert sum(map(len, tree_of(tmp_path / "into").values())) <= 1000


def test_too_many_files_are_refused(tmp_path: Path, one_line: Callable[..., str], tar_of: Callable[..., bytes]) -> None:
    path = written(tmp_path / "x.tar", tar_of({f"{i}": b"" for i in range(11)}))
    assert "more than 10 files" in one_line(unpack_archive, path, (("", ""),), tmp_path / "into", 1000, max_files=10)


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("x.tar", lambda good: b""),
        ("x.tar", lambda good: b"<html>not found</html>" * 100),
        ("x.tar", lambda good: good[:2000]),
        ("x.tar.gz", lambda good: good[:-20]),
        ("x.tar.gz", lambda good: good[:40] + b"!!!!" + good[44:]),
        ("x.zip", lambda good: b""),
        ("x.zip", lambda good: b"PK\3\4 no"),
        ("x.zip", lambda good: good.replace(good[31:40], b"\xff" * 9)),
        ("x.zip", lambda good: good[:-30]),
    ],
)
def test_broken_archives_end_in_one_line(
    tmp_path: Path,
    one_line: Callable[..., str],
    name: str,
    spoil: Callable[[bytes], bytes],
    tar_of: Callable[..., bytes],
    zip_of: Callable[..., bytes],
) -> None:
    members = {"a": b"x" * 3000}
    good = zip_of(members) if name.endswith("zip") else tar_of(members, "w:gz" if name.endswith("gz") else "w")
    message = one_line(unpack_archive, written(tmp_path / name, spoil(good)), (("", ""),), tmp_path / "into", 100_000)
    assert "cannot be unpacked" in message or "broken" in message


def test_a_file_where_a_folder_is_wanted_ends_in_one_line(
    tmp_path: Path, one_line: Callable[..., str], tar_of: Callable[..., bytes]
) -> None:
    path = written(tmp_path / "x.tar", tar_of({"a": b"x", "a/b": b"y"}))
    assert "cannot be written" in one_line(unpack_archive, path, (("", ""),), tmp_path / "into", 1000)


def test_the_content_checksum_is_that_of_sha256sum_lines(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").write_bytes(b"1")
    (tmp_path / "b.x").write_bytes(b"2")
    lines = "".join(f"{hashlib.sha256(body).hexdigest()}  {name}\n" for name, body in (("b.x", b"2"), ("b/c", b"1")))
    assert content_checksum(tmp_path) == hashlib.sha256(lines.encode()).hexdigest()


def test_a_full_disk_ends_in_one_line(
    tmp_path: Path, one_line: Callable[..., str], tar_of: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "x.tar", tar_of({"a": b"x"}))

    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", lambda self, mode: Full())
    assert "disk is full" in one_line(unpack_archive, path, (("", ""),), tmp_path / "into", 1000)
