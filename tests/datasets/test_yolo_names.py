"""Names of YOLO's classes that lie elsewhere in the folder that was given."""

from __future__ import annotations

import logging

import pytest

from singleshot.datasets import open_source
from singleshot.datasets.findings import CollectErrors

ROW = "{} 0.5 0.5 0.5 0.5\n"
LABELS = {"set/images/a.png": "", "set/labels/a.txt": ROW.format(0) + ROW.format(1)}
TWO = ("ring", "star")


@pytest.fixture
def read(folder):
    """read(files): class names and the findings of a folder of these files and images."""

    def make(files):
        pictures = [name for name in files if name.endswith(".png")]
        root = folder({name: text for name, text in files.items() if name not in pictures}, pictures)
        problems = CollectErrors()
        return open_source(root).read(None, problems).class_names, problems.findings

    return make


@pytest.mark.parametrize(
    "names",
    [
        {"cfg/obj.names": "ring\nstar\n"},
        {"config/classes.txt": "ring\nstar\n"},
        {"data/custom.names": "ring\nstar\n"},
        {"yolov3/cfg/obj.names": "ring\nstar\n"},
        {"my_classes.txt": "ring\nstar\n"},
        {"config/data.yaml": "train: ../elsewhere/train\nval: ../elsewhere/val\nnc: 2\nnames: [ring, star]\n"},
        # Those of programs have other numbers of names; a copy says the same.
        {"cfg/obj.names": "ring\nstar\n", "cfg/coco.names": "\n".join(f"thing{i}" for i in range(80))},
        {"cfg/obj.names": "ring\nstar\n", "weights/obj.names": "ring\nstar\n"},
        # At least half of them are used.
        {"cfg/obj.names": "ring\nstar\n", "broken/obj.names": "one\n\n\x00", "number/obj.names": "0.5 0.5\n1 1\n"},
    ],
    ids="+".join,
)
def test_the_only_list_that_fits_is_read_and_reported(read, names):
    found, findings = read({**LABELS, **names})
    assert found == TWO
    (finding,) = (one for one in findings if one.kind == "names-elsewhere")
    assert f"/set/{next(iter(names))}, the only list" in finding.message


@pytest.mark.parametrize("names", ["ring\nstar\nleaf\ncross\n", "ring\nstar\nleaf\n"])
def test_a_list_of_which_half_is_used_fits(read, names):
    assert read({**LABELS, "cfg/obj.names": names})[0] == tuple(names.split())


@pytest.mark.parametrize("names", ["ring\n", "\n".join("abcdefghij"), "1\n2\n", "data/a.png\ndata/b.png\n"])
def test_other_lists_are_passed_over(read, names):
    found, findings = read({**LABELS, "cfg/obj.names": names})
    assert found == ("class 0", "class 1")
    assert "names-elsewhere" not in {one.kind for one in findings}


def test_of_several_that_fit_none_is_read_unless_it_is_the_set_s_own(read):
    two = {"cfg/obj.names": "ring\nstar\n", "data/voc.names": "cat\ndog\n"}
    found, findings = read({**LABELS, **two})
    assert found == ("class 0", "class 1")
    (finding,) = (one for one in findings if one.kind == "names-elsewhere")
    assert "several lists of names fit the classes (cfg/obj.names, data/voc.names)" in finding.message
    darknet = {
        "set/train.txt": "/home/me/set/images/a.png\n",
        "cfg/obj.data": "classes = 2\ntrain = set/train.txt\nvalid = set/train.txt\nnames = cfg/obj.names\n",
        "cfg/voc.data": "classes = 2\ntrain = /data/voc/train.txt\nnames = data/voc.names\n",
    }
    assert read({**LABELS, **two, **darknet})[0] == TWO


def test_numbers_that_count_from_1_get_their_names(read):
    rows = {"set/images/a.png": "", "set/labels/a.txt": ROW.format(1) + ROW.format(2)}
    found, findings = read({**rows, "cfg/obj.names": "ring\nstar\n"})
    assert found == TWO
    (finding,) = (one for one in findings if one.kind == "classes-from-1")
    assert finding.file.endswith("/set/set/../cfg/obj.names")


def test_names_next_to_the_labels_come_first_and_nothing_above_is_looked_at(read, folder, caplog):
    assert read({**LABELS, "set/classes.txt": "a\nb\n", "cfg/obj.names": "ring\nstar\n"})[0] == ("a", "b")
    root = folder({"cfg/obj.names": "ring\nstar\n", "other/labels/a.txt": ROW.format(0)}, ["other/images/a.png"])
    caplog.set_level(logging.INFO)
    assert open_source(root / "other").read().class_names == ("class 0",)
