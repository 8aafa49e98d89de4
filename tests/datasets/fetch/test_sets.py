"""Whole sets: layout, verification, second runs; and the catalogue."""

from __future__ import annotations

import hashlib
import shutil
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from singleshot.datasets import available_splits, open_dataset
from singleshot.datasets.fetch import FreeSet, fetch_set, find_set, free_sets, show_bytes
from singleshot.datasets.fetch import download as download_module
from singleshot.errors import ConfigError


def voc_files(top: str, stems: dict[str, str], voc_xml: Callable[..., str], image: bytes) -> dict[str, bytes]:
    """Members of a devkit: stems -> split, one object in each image."""
    members = {}
    for stem, split in stems.items():
        members[f"{top}/Annotations/{stem}.xml"] = voc_xml([("cat", (5, 5, 20, 20))], filename=f"{stem}.png").encode()
        members[f"{top}/JPEGImages/{stem}.png"] = image
        key = f"{top}/ImageSets/Main/{split}.txt"
        members[key] = members.get(key, b"") + f"{stem}\n".encode()
    return members


@pytest.fixture
def image(write_image: Callable[[Path, int, int], None], tmp_path: Path) -> bytes:
    write_image(tmp_path / "one.png", 64, 48)
    return (tmp_path / "one.png").read_bytes()


@pytest.fixture
def catalogue(monkeypatch: pytest.MonkeyPatch) -> dict[str, FreeSet]:
    """The catalogue, to be changed by the test."""
    sets = dict(free_sets())
    monkeypatch.setattr("singleshot.datasets.fetch.free_sets", lambda: sets)
    return sets


@pytest.fixture
def tiny(
    site: Any, catalogue: dict[str, FreeSet], voc_xml: Callable[..., str], image: bytes, tar_of: Callable[..., bytes]
) -> FreeSet:
    """voc0712 with its own addresses, moves and joining, but archives of a few images."""
    real = free_sets()["voc0712"]
    contents = [
        voc_files("VOCdevkit/VOC2007", {"000001": "train", "000002": "val"}, voc_xml, image),
        voc_files("VOCdevkit/VOC2007", {"000003": "test"}, voc_xml, image),
        voc_files("VOCdevkit/VOC2012", {"2008_000001": "train", "2008_000002": "val"}, voc_xml, image),
    ]
    archives = []
    for archive, members in zip(real.archives, contents, strict=True):
        body = tar_of(dict(members))
        site.files[archive.address.removeprefix("http://host.robots.ox.ac.uk")] = body
        archives.append(replace(archive, size=len(body), checksum=hashlib.sha256(body).hexdigest()))
    catalogue["voc0712"] = replace(real, archives=tuple(archives), unpacked=100_000)
    return catalogue["voc0712"]


def test_voc0712_becomes_one_folder_that_is_read(site: Any, tiny: FreeSet, tmp_path: Path) -> None:
    out = tmp_path / "new" / "voc"
    done = fetch_set("voc0712", out, site.root)
    assert (done.fresh, done.out, done.kept) == (True, out, ())
    assert done.bytes == sum(p.stat().st_size for p in out.rglob("*") if p.is_file() and p.name != "SOURCE.md")
    counts = {"train": 2, "val": 2, "test": 1}
    assert {split: len(open_dataset(out, split)) for split in ("train", "val", "test")} == counts
    assert sorted(p.name for p in out.parent.iterdir()) == ["voc"]
    source = (out / "SOURCE.md").read_text()
    assert all(archive.checksum in source and archive.address in source for archive in tiny.archives)
    assert (out.stat().st_mode & 0o777) == ((tmp_path / "new").stat().st_mode & 0o777)


def test_a_second_run_does_nothing(site: Any, tiny: FreeSet, tmp_path: Path) -> None:
    fetch_set("voc0712", tmp_path / "voc", site.root)
    before = len(site.asked)
    assert not fetch_set("voc0712", tmp_path / "voc", site.root).fresh
    assert len(site.asked) == before
    with pytest.raises(ConfigError, match="not voc2007 as fetched"):
        fetch_set("voc2007", tmp_path / "voc", site.root)


def test_archives_are_kept_on_request_and_used_again(site: Any, tiny: FreeSet, tmp_path: Path) -> None:
    done = fetch_set("voc0712", tmp_path / "voc", site.root, keep=True)
    assert [p.name for p in done.kept] == [archive.name for archive in tiny.archives]
    assert all(p.is_file() and p.parent == tmp_path / "voc.fetch" for p in done.kept)
    shutil.rmtree(tmp_path / "voc")
    before = len(site.asked)
    (tmp_path / "voc.fetch" / "mine.txt").write_text("mine")
    fetch_set("voc0712", tmp_path / "voc", site.root)
    assert len(site.asked) == before
    assert [p.name for p in (tmp_path / "voc.fetch").iterdir()] == ["mine.txt"]  # what is not ours stays


def test_a_failure_leaves_no_result_and_keeps_what_came(
    site: Any, tiny: FreeSet, tmp_path: Path, one_line: Callable[..., str]
) -> None:
    last = site.files.pop("/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar")
    assert "404" in one_line(fetch_set, "voc0712", tmp_path / "voc", site.root)
    assert not (tmp_path / "voc").exists()
    site.files["/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar"] = last
    site.asked.clear()
    fetch_set("voc0712", tmp_path / "voc", site.root)
    assert [path.rpartition("/")[2] for path, _ in site.asked] == ["VOCtrainval_11-May-2012.tar"]


def test_leftovers_of_a_killed_run_go_away(site: Any, tiny: FreeSet, tmp_path: Path) -> None:
    (tmp_path / "voc.fetch" / "unpacked").mkdir(parents=True)
    (tmp_path / "voc.fetch" / "unpacked" / "half.xml").write_text("half")
    (tmp_path / "voc").mkdir()  # an empty folder is no result
    fetch_set("voc0712", tmp_path / "voc", site.root)
    assert not (tmp_path / "voc" / "half.xml").exists()
    assert not (tmp_path / "voc.fetch").exists()


def test_ctrl_c_keeps_the_part(site: Any, tiny: FreeSet, tmp_path: Path) -> None:
    def stop(what: str, done: int, total: int | None) -> None:
        if done > 100:
            raise KeyboardInterrupt

    site.script = [{"cut": 500}]
    with pytest.raises(KeyboardInterrupt):
        fetch_set("voc0712", tmp_path / "voc", site.root, progress=stop)
    assert (tmp_path / "voc.fetch" / f"{tiny.archives[0].name}.part").stat().st_size == 500
    assert not (tmp_path / "voc").exists()
    fetch_set("voc0712", tmp_path / "voc", site.root)
    assert site.asked[1][1] == "bytes=500-"


def test_a_malicious_archive_leaves_nothing(
    site: Any,
    tiny: FreeSet,
    catalogue: dict[str, FreeSet],
    tmp_path: Path,
    one_line: Callable[..., str],
    tar_of: Callable[..., bytes],
) -> None:
    body = tar_of({"VOCdevkit/VOC2007/../../../evil": b"x"})
    site.files["/pascal/VOC/voc2007/VOCtest_06-Nov-2007.tar"] = body
    bad = replace(tiny.archives[1], size=len(body), checksum=hashlib.sha256(body).hexdigest())
    catalogue["voc0712"] = replace(tiny, archives=(tiny.archives[0], bad))
    assert "want names within" in one_line(fetch_set, "voc0712", tmp_path / "voc", site.root)
    assert not (tmp_path / "voc").exists()
    assert not (tmp_path / "voc.fetch" / "unpacked").exists()
    assert not list(tmp_path.rglob("evil"))


def test_too_little_room_is_said_before_anything_is_asked_for(
    site: Any, tiny: FreeSet, tmp_path: Path, one_line: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda path: usage(10, 0, 10))
    assert "10 bytes free; want 1" in one_line(fetch_set, "voc0712", tmp_path / "voc", site.root)
    assert site.asked == []


def test_two_runs_at_once_are_refused(site: Any, tiny: FreeSet, tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "voc.fetch").mkdir()
    with (tmp_path / "voc.fetch" / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another run"):
            fetch_set("voc0712", tmp_path / "voc", site.root)


@pytest.mark.parametrize("name", ["voc\0", "file", "file/below", "x" * 300])
def test_places_that_cannot_be_used(tiny: FreeSet, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="another --out") as caught:
        fetch_set("voc0712", tmp_path / name, "http://127.0.0.1:1")
    assert "\n" not in str(caught.value)


@pytest.fixture
def github(
    site: Any, catalogue: dict[str, FreeSet], voc_xml: Callable[..., str], image: bytes, zip_of: Callable[..., bytes]
) -> FreeSet:
    """bccd with its own address and moves, a few files, and their content checksum."""
    real = free_sets()["bccd"]
    top = real.archives[0].moves[0][0]
    kept = voc_files("x", {"b1": "train", "b2": "test"}, voc_xml, image)
    members = {top + name.removeprefix("x/"): body for name, body in kept.items()}
    members[f"{top.partition('/')[0]}/LICENSE"] = b"MIT"
    members[f"{top.partition('/')[0]}/scripts/x.py"] = b"left out"
    site.files[real.archives[0].address.removeprefix("https://github.com")] = zip_of(members)
    result = {name.removeprefix("x/"): body for name, body in kept.items()} | {"LICENSE": b"MIT"}
    lines = "".join(f"{hashlib.sha256(result[name]).hexdigest()}  {name}\n" for name in sorted(result))
    catalogue["bccd"] = replace(real, content=hashlib.sha256(lines.encode()).hexdigest())
    return catalogue["bccd"]


def test_a_repository_is_verified_by_its_content(site: Any, github: FreeSet, tmp_path: Path) -> None:
    fetch_set("bccd", tmp_path / "b", site.root)
    assert set(available_splits(tmp_path / "b")) == {"train", "test"}
    assert len(open_dataset(tmp_path / "b", "train")) == 1
    assert (tmp_path / "b" / "LICENSE").read_bytes() == b"MIT"
    assert not (tmp_path / "b" / "scripts").exists()


def test_other_content_is_refused_and_downloaded_anew(
    site: Any, github: FreeSet, catalogue: dict[str, FreeSet], tmp_path: Path, one_line: Callable[..., str]
) -> None:
    catalogue["bccd"] = replace(github, content="0" * 64)
    message = one_line(fetch_set, "bccd", tmp_path / "b", site.root)
    assert "0" * 64 in message and github.content in message and "run it again" in message
    assert not (tmp_path / "b").exists()
    catalogue["bccd"] = github
    assert fetch_set("bccd", tmp_path / "b", site.root).fresh
    assert len(site.asked) == 2


def test_a_broken_repository_archive_is_downloaded_anew(
    site: Any, github: FreeSet, tmp_path: Path, one_line: Callable[..., str]
) -> None:
    address = github.archives[0].address.removeprefix("https://github.com")
    good = site.files[address]
    site.files[address] = b"<html>sign in</html>"
    assert "cannot be unpacked" in one_line(fetch_set, "bccd", tmp_path / "b", site.root)
    site.files[address] = good
    assert fetch_set("bccd", tmp_path / "b", site.root).fresh


# ---------------------------------------------------------------------------------------------- catalogue


@pytest.mark.parametrize("name", list(free_sets()))
def test_each_entry_is_complete(name: str) -> None:
    entry = free_sets()[name]
    assert entry.form in ("voc", "coco") and entry.splits and entry.licence and entry.about
    assert all(archive.checksum for archive in entry.archives) != bool(entry.content)
    names = [archive.name for archive in entry.archives]
    assert len(set(names)) == len(names)
    for archive in entry.archives:
        assert archive.address.startswith(("http://", "https://"))
        assert archive.most >= archive.size > 0 and archive.moves
        for digest in filter(None, (archive.checksum, entry.content)):
            assert len(digest) == 64 and set(digest) <= set("0123456789abcdef")
    assert entry.unpacked > 0.3 * entry.size


@pytest.mark.parametrize(("name", "near"), [("voc07", "voc2007"), ("VOC2007", "voc2007"), ("coco", "coco2017")])
def test_a_misspelt_name_suggests_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean {near}") as caught:
        find_set(name)
    assert "raccoon" in str(caught.value)


def test_a_name_like_no_other_lists_them() -> None:
    with pytest.raises(ConfigError, match="no set of that name; want one of voc2007"):
        find_set("zzzz")


@pytest.mark.parametrize(
    ("count", "shown"), [(1_500_000, "1.5 MB"), (999, "999 bytes"), (1500, "1.5 kB"), (2e13, "20000.0 GB")]
)  # fmt: skip
def test_sizes_are_shown(count: int, shown: str) -> None:
    assert show_bytes(count) == shown
