"""A data set's folder on the disk: names, links and limits."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from singleshot.datasets import available_splits, open_dataset, tree
from singleshot.datasets.tree import LocalTree, open_tree
from singleshot.errors import ConfigError, DataError
from singleshot.images.decode import image_size, read_image
from singleshot.storage import read_limited


@pytest.fixture
def coco_set(tmp_path, coco, write_image, stems):
    root = tmp_path / "my coco"
    images = [{"id": i, "file_name": f"deep er/{stem}.png", "width": 64, "height": 48} for i, stem in enumerate(stems)]
    box = {"id": 1, "image_id": 3, "category_id": 7, "bbox": [1, 2, 3, 4]}
    (root / "annotations").mkdir(parents=True)
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(coco([box], images=images)))
    for stem in stems:
        write_image(root / "train2017" / "deep er" / f"{stem}.png", 64, 48)
    return root


def shapes(data) -> list[tuple[int, ...]]:
    return [data.sample(i).image.shape for i in range(len(data))]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("kind", ["http", "memory"])
@pytest.mark.parametrize("form", ["voc_set", "coco_set"])
def test_remote_folders_read_as_local_ones_in_forked_workers_too(
    request, kind, form, serve_folder, memory, in_a_child, stems
):
    folder = request.getfixturevalue(form)
    address = memory(folder) if kind == "memory" else f"{serve_folder(folder.parent)}/{folder.name}"
    local, remote = open_dataset(folder), open_dataset(address + "/")
    assert available_splits(address) == available_splits(folder) == ("train",)
    assert list(remote.image_ids) == list(local.image_ids)
    assert remote.boxes_px.tolist() == local.boxes_px.tolist()
    assert shapes(remote) == [(48, 64, 3)] * len(stems)
    start = time.monotonic()
    assert in_a_child(lambda: shapes(remote)) == [(48, 64, 3)] * len(stems)
    # What the child does to its copy of the connections must not reach ours.
    assert shapes(remote) == [(48, 64, 3)] * len(stems)
    assert in_a_child(lambda: shapes(open_dataset(address))) == [(48, 64, 3)] * len(stems)
    assert shapes(open_dataset(address)) == [(48, 64, 3)] * len(stems)
    assert time.monotonic() - start < 15


def test_a_remote_file_may_be_named(coco_set, serve_folder, tmp_path, stems):
    (tmp_path / "x").mkdir()
    shutil.move(coco_set, tmp_path / "x" / "my coco")
    address = f"{serve_folder(tmp_path / 'x')}/my%20coco/annotations/instances_train2017.json"
    assert len(open_dataset(address)) == len(stems)


def test_the_folder_may_be_the_servers_own(voc_set, serve_folder, stems):
    assert len(open_dataset(serve_folder(voc_set))) == len(stems)


def test_links_out_of_the_folder_are_refused_however_they_are_reached(local, one_line):
    (local / "file.txt").symlink_to(local.parent / "secret" / "s.txt")
    (local / "folder").symlink_to(local.parent / "secret")
    (local / "sub" / "up").symlink_to("../..")
    # A name that only begins like the root is outside too.
    shutil.copytree(local.parent / "secret", local.parent / "set2")
    (local / "like").symlink_to(local.parent / "set2")
    for at, call in enumerate(
        (
            lambda t: t.find("", "file.txt"),
            lambda t: (t.names(), t.read("file.txt", 99, "x")),
            lambda t: t.names("folder"),
            lambda t: t.find("", "folder/s.txt"),
            lambda t: t.find("folder", "s.txt"),
            lambda t: t.find("sub", "up/secret/s.txt"),
            lambda t: t.find("", "like/s.txt"),
            lambda t: list(t.walk()),
            lambda t: t.read("file.txt", 99, "x"),
            lambda t: t.read("folder/s.txt", 99, "x"),
        )
    ):
        assert "a link that leads out of" in one_line(call, LocalTree(local)), at
    with pytest.raises(DataError, match="leads out"), LocalTree(local).open(LocalTree(local).files()[0], 9, "x"):
        pass


def test_links_within_are_followed(local):
    (local / "file.txt").symlink_to("sub/a.txt")
    (local / "folder").symlink_to("sub")
    found = LocalTree(local)
    assert found.read("file.txt", 9, "x") == b"a"
    assert found.find("", "folder/a.txt") == "folder/a.txt"
    assert sorted(found.walk()) == ["file.txt", "folder/a.txt", "sub/a.txt"]
    assert LocalTree(local / "folder").read("a.txt", 9, "x") == b"a"
    assert [found.is_dir(name) for name in ("sub", "./sub", "folder", "file.txt", "none", "sub/a.txt", "")] == [
        True, True, True, False, False, False, False,
    ]  # fmt: skip


def test_a_folder_below_may_hold_links_to_what_lies_beside_it(local, one_line):
    (local / "other").mkdir()
    (local / "other" / "link.txt").symlink_to("../sub/a.txt")
    (local / "other" / "out.txt").symlink_to("../../secret/s.txt")
    below = LocalTree(local).below("other")
    assert below.read("link.txt", 9, "x") == b"a"
    assert "leads out" in one_line(below.read, "out.txt", 9, "x")
    assert "leads out" in one_line(LocalTree(local / "other").read, "link.txt", 9, "x")


def test_links_in_circles_end(local, one_line):
    (local / "self").symlink_to("self")
    (local / "one").symlink_to("two")
    (local / "two").symlink_to("one")
    found = LocalTree(local)
    assert sorted(found.walk()) == ["one", "self", "sub/a.txt", "two"]
    assert "cannot be" in one_line(read_limited, local / "self", 9, "image")
    (local / "sub" / "again").symlink_to("..")
    (local / "sub" / "more").symlink_to("..")
    assert "folders within folders without end" in one_line(lambda: list(LocalTree(local).walk()))
    with pytest.raises(DataError, match="no data set of a known form"):
        open_dataset(local)


def test_a_hundred_folders_deep(local, one_line):
    deep = local.joinpath(*["d"] * 100)
    deep.mkdir(parents=True)
    (deep / "x.txt").touch()
    assert LocalTree(local).find("", "d/" * 100 + "x.txt") == "d/" * 100 + "x.txt"
    assert "folders within folders without end" in one_line(lambda: list(LocalTree(local).walk()))


@pytest.mark.parametrize(
    "name", ["../secret/s.txt", "/etc/passwd", "\\x", "sub/../../secret/s.txt", "a\0b", "http://h/x", "sub/.."]
)
def test_names_that_leave_are_refused(local, name, one_line):
    assert "leaves the data set's folder" in one_line(LocalTree(local).find, "", name)


@pytest.mark.parametrize("name", ["", ".", "./", "none", "a.txt/b", "sub/a.txt/b", "x" * 5000, "\ud800"])
def test_names_of_nothing_are_not_found(local, name):
    found = LocalTree(local)
    assert found.find("", name) is None
    assert found.find("sub/a.txt", name) is None
    assert not found.is_dir(name)


def test_folders_of_impossible_names_are_empty(local):
    found = LocalTree(local)
    for name in ("a\0b", "\ud800", "none", "sub/a.txt"):
        assert found.names(name) == {}


@pytest.mark.parametrize(
    "name", ["new\nline", 'quote"', "it's", "猫", "tab\t", " blank ", "per%20cent", "back\\slash", "a:b", "\x1b[31m"]
)
def test_names_of_all_kinds_are_found_and_said_on_one_line(tmp_path, voc_xml, write_voc, name, one_line):
    xml = voc_xml([("cat", (1, 1, 5, 5))])
    root = write_voc(tmp_path / name, {name: xml, "b": xml})
    data = open_dataset(root)  # too few to make other splits
    assert sorted(data.image_ids) == sorted([name, "b"])
    (path,) = [path for path in data.names if Path(path).stem == name]
    assert read_image(path).shape == (48, 64, 3)
    (root / "JPEGImages" / f"{name}.png").write_bytes(b"")
    one_line(read_image, path)


def test_names_that_are_no_utf8_are_read(tmp_path, voc_xml, write_voc, one_line):
    xml = voc_xml([("cat", (1, 1, 5, 5))])
    root = write_voc(tmp_path, {"x": xml}, {"train": ["x"]})
    strange = os.fsdecode(b"caf\xe9")
    for folder, suffix in (("Annotations", ".xml"), ("JPEGImages", ".png")):
        (root / folder / f"x{suffix}").rename(root / folder / (strange + suffix))
    (root / "ImageSets" / "Main" / "train.txt").write_bytes(b"caf\xe9\n")
    data = open_dataset(root)
    assert list(data.image_ids) == [strange]
    assert data.sample(0).image.shape == (48, 64, 3)
    Path(data.names[0]).write_bytes(b"")
    one_line(data.sample, 0).encode()


def test_names_that_are_no_utf8_are_read_from_servers(tmp_path, write_image, serve_folder):
    write_image(tmp_path / "x.png", 8, 6)
    (tmp_path / "x.png").rename(tmp_path / os.fsdecode(b"caf\xe9.png"))
    remote = open_tree(serve_folder(tmp_path))
    (name,) = remote.files()
    try:
        assert image_size(remote.path(name)) == (8, 6)
    except DataError as error:  # Python's own server writes such names in a way of its own
        assert "no such image file" in str(error)


def test_pipes_and_devices_are_refused(local, one_line):
    os.mkfifo(local / "pipe.txt")
    (local / "null.txt").symlink_to("/dev/zero")
    found = LocalTree(local)
    assert "pipe.txt" in found.files()
    assert "not a regular file" in one_line(found.read, "pipe.txt", 9, "label")
    assert "leads out" in one_line(found.read, "null.txt", 9, "label")
    assert "not a regular file" in one_line(read_limited, "/dev/zero", 9, "label")
    assert "is a folder" in one_line(read_limited, local, 9, "label")


def test_the_limit_is_on_what_is_read(local, one_line):
    found = LocalTree(local)
    (local / "x").write_bytes(b"0123456789")
    assert found.read("x", 10, "label") == b"0123456789"
    assert "larger than" in one_line(found.read, "x", 9, "label")
    assert found.read("x", 9, "label", most=4) == b"0123"
    with found.open("x", 10, "label") as file:
        assert file.read() == b"0123456789"
    for name, message in (("x", "larger than"), ("none", "no such label file"), ("sub", "is a folder")):
        with pytest.raises(DataError, match=message), found.open(name, 9, "label"):
            pass


def test_folders_that_cannot_be_listed_are_said(local, monkeypatch, one_line):
    real = os.scandir

    def scandir(path):
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = LocalTree(local)
    assert "sub: cannot be listed (Permission denied)" in one_line(found.names, "sub")
    assert "sub: cannot be listed (Permission denied)" in one_line(lambda: list(found.walk()))
    assert found.folders() == ["sub"]


def test_too_many_files_are_refused(local, monkeypatch, one_line):
    for i in range(5):
        (local / f"{i}.txt").touch()
    monkeypatch.setattr(tree, "MAX_FILES", 4)
    assert "more than 4 files" in one_line(lambda: list(LocalTree(local).walk()))


def test_each_folder_is_listed_once(local, monkeypatch):
    calls = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: calls.append(path) or real(path))
    found = LocalTree(local)
    for _ in range(3):
        assert found.find("", "sub/a.txt") == "sub/a.txt"
        assert list(found.walk()) == ["sub/a.txt"]
    assert len(calls) == 2


def test_paths_are_as_the_user_gave_the_root(local, monkeypatch):
    monkeypatch.chdir(local)
    assert [LocalTree(root).path("sub/a.txt") for root in (".", "sub/..", "/", str(local) + "/")] == [
        "sub/a.txt",
        "sub/../sub/a.txt",
        "/sub/a.txt",
        f"{local}/sub/a.txt",
    ]
    assert LocalTree(".").read("sub/a.txt", 9, "x") == b"a"


def test_a_csv_folder_is_read_from_a_server_and_from_memory(
    tmp_path, write_image, serve_folder, memory, one_line, stems
):
    folder = tmp_path / "csv set"
    for stem in stems:
        write_image(folder / "images" / f"{stem}.png", 64, 48)
    rows = ['"{}.png",1,2,30,40,cat\n'.format(stem.replace('"', '""')) for stem in stems]
    (folder / "train.csv").write_text("file,xmin,ymin,xmax,ymax,class\n" + "".join(rows))
    for address in (f"{serve_folder(tmp_path)}/csv%20set", memory(folder)):
        for path in (address, f"{address}/train.csv"):
            data = open_dataset(path)
            assert list(data.image_ids) == list(stems)
            assert shapes(data) == [(48, 64, 3)] * len(stems)
    (folder / "train.csv").write_text("file,xmin,ymin,xmax,ymax,class\n../x.png,1,2,30,40,cat\n")
    assert "leaves the data set's folder" in one_line(open_dataset, f"{serve_folder(tmp_path)}/csv%20set")


# ---------------------------------------------------------------------------------------------- --follow-links


@pytest.fixture
def linked(tmp_path, voc_set, write_image) -> Path:
    """A folder of links to a set that lies elsewhere, one of its images as a link of its own."""
    root = tmp_path / "linked"
    root.mkdir()
    for name in ("Annotations", "ImageSets"):
        (root / name).symlink_to(voc_set / name)
    (root / "JPEGImages").mkdir()
    for image in (voc_set / "JPEGImages").iterdir():
        (root / "JPEGImages" / image.name).symlink_to(image)
    return root


def test_links_that_lead_out_are_followed_where_that_is_asked_for(linked, voc_set, one_line):
    assert "if the folder is your own, give --follow-links to train, eval or data" in one_line(open_dataset, linked)
    found, real = open_dataset(linked, follow_links=True), open_dataset(voc_set)
    assert found.boxes_px.tolist() == real.boxes_px.tolist()
    assert found.sample(0).image.shape == (48, 64, 3)
    assert available_splits(linked, follow_links=True) == available_splits(voc_set)
    # In a folder below, too.
    (linked.parent / "above").mkdir()
    (linked.parent / "above" / "set").symlink_to(linked)
    assert len(open_dataset(linked.parent / "above", follow_links=True)) == len(real)


def test_files_that_all_are_links_are_said(tmp_path, voc_set, one_line):
    root = tmp_path / "flat"
    root.mkdir()
    for file in (*(voc_set / "Annotations").iterdir(), *(voc_set / "JPEGImages").iterdir()):
        (root / file.name).symlink_to(file)
    assert "a link that leads out of" in one_line(open_dataset, root)
    assert len(open_dataset(root, "trainval", follow_links=True))
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "set").symlink_to(voc_set)
    assert "a link that leads out of" in one_line(open_dataset, tmp_path / "one")


def test_names_may_not_lead_out_all_the_same(linked, one_line):
    for name in ("../set/x.png", "/etc/passwd"):
        assert "leaves the data set's folder" in one_line(open_tree(linked, follow_links=True).find, "", name)


def test_circles_over_links_that_lead_out_end(local, tmp_path, one_line):
    away = tmp_path / "away"
    (away / "deep").mkdir(parents=True)
    (away / "x.txt").touch()
    (local / "a").symlink_to(away)
    for name in ("b", "c"):
        (away / name).symlink_to(local)
        (away / "deep" / name).symlink_to(away)
    found = open_tree(local, follow_links=True)
    assert sorted(found.walk(lenient=True)) == ["a/x.txt", "sub/a.txt"]
    assert "folders within folders without end" in one_line(lambda: list(found.walk()))
    assert found.open_folders("a") == ["deep"]


def test_folders_without_end_of_few_links_are_refused(local, monkeypatch, one_line):
    for i in range(12):
        (local / f"d{i}").mkdir()
        for name in ("l", "r"):
            (local / f"d{i}" / name).symlink_to(f"../d{i + 1}")
    (local / "d12").mkdir()
    monkeypatch.setattr(tree, "_MAX_FOLDERS", 1000)
    assert "more than 1000 folders" in one_line(lambda: list(LocalTree(local).walk()))


def test_addresses_have_no_links(memory, voc_set):
    with pytest.raises(ConfigError, match="--follow-links: for folders on this machine"):
        open_tree(memory(voc_set), follow_links=True)


def test_names_that_were_asked_for_are_the_callers_own(tmp_path):
    for name in ("b.JPG", "a.txt", "._a.txt"):
        (tmp_path / name).touch()
    there = LocalTree(tmp_path)
    for suffixes, wanted in (((), ["a.txt", "b.JPG"]), ((".jpg",), ["b.JPG"])):
        there.files("", suffixes).clear()
        assert there.files("", suffixes) == wanted


def test_lists_of_names_are_the_callers_own(tmp_path):
    for name in ("b.txt", "a.TXT", "c.png"):
        (tmp_path / name).touch()
    (tmp_path / "below").mkdir()
    tree = LocalTree(tmp_path)
    for names, wanted in (
        (tree.files, ["a.TXT", "b.txt", "c.png"]),
        (lambda: tree.files("", (".txt",)), ["a.TXT", "b.txt"]),
        (tree.folders, ["below"]),
    ):
        names().clear()
        assert names() == wanted
