"""Class lists as they lie next to public checkpoints."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from singleshot.errors import DataError
from singleshot.thresholds import Thresholds
from singleshot.weights.class_lists import find_class_lists, fit_names, read_class_list, read_rows, with_found_names
from singleshot.weights.class_names import COCO, VOC, coco_by_number, without_background
from singleshot.weights.imported_model import ImportedModel


def model(count, names=None):
    return ImportedModel(SimpleNamespace(num_classes=count), "a source", names, Thresholds())


# ------------------------------------------------------------------------------------------------------- what fits


@pytest.mark.parametrize(
    ("rows", "names", "shortened"),
    [
        (["cat", "dog", "cow"], ("cat", "dog", "cow"), False),
        (["BACKGROUND", "cat", "dog", "cow"], ("cat", "dog", "cow"), True),
        (["__background__", "cat", "dog", "cow"], ("cat", "dog", "cow"), True),
        (["bg", "cat", "dog", "cow"], ("cat", "dog", "cow"), True),
        (["unlabeled", "cat", "dog", "cow"], ("cat", "dog", "cow"), True),
        (["???", "cat", "???", "cow"], ("cat", "unused 2", "cow"), True),
        (["background", "dog", "cow"], ("background", "dog", "cow"), False),  # a class may be called so
        (["cat", "", "dog", "cow"], ("cat", "dog", "cow"), False),
        (["cat", "", "cow"], ("cat", "unused 2", "cow"), False),
        (["0 cat", "1 dog", "2 cow"], ("cat", "dog", "cow"), False),
        (["0cat", "1n/a", "2cow"], ("cat", "unused 2", "cow"), False),
        (["1: cat", "3: cow"], ("cat", "unused 2", "cow"), False),
        (["0 background", "1 cat", "2 dog", "3 cow"], ("cat", "dog", "cow"), True),
        (["1 euro", "2 euro", "5 euro"], ("1 euro", "2 euro", "5 euro"), False),
        (["1 euro", "2 euro", "3 euro"], ("1 euro", "2 euro", "3 euro"), False),
        (["tree", "cat", "dog", "cow"], None, False),
        (["cat", "dog"], None, False),
        (["cat", "cat", "dog"], None, False),
        (["???", "???", "???"], None, False),
        ([], None, False),
    ],
)
def test_entries_that_fit_three_classes(rows, names, shortened):
    assert fit_names(rows, 3) == (names, shortened)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("cat\r\ndog\r\n\r\n", ["cat", "dog"]),
        ("cat,dog, cow\n", ["cat", "dog", "cow"]),
        ('item { id: 1 name: "cat" }\nitem { id: 3 name: "n3" display_name: "cow" }\n', ["cat", "", "cow"]),
        ('item {\n name: "none_of_the_above"\n label: 0\n}\nitem {\n name: "cat"\n label: 1\n}\n',
         ["none_of_the_above", "cat"]),
        ("# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:9,9,9::\n", ["background", "cat"]),
    ],
)  # fmt: skip
def test_the_forms_of_a_list(tmp_path, text, rows):
    path = tmp_path / "labels.txt"
    path.write_text(text)
    assert read_rows(path) == rows
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_rows(path) == rows


def test_a_list_that_is_given_says_what_is_wrong(tmp_path):
    path = tmp_path / "names.txt"
    for text, said in (
        ("cat\ndog\n", "2 names, but the model has 3 classes"),
        ("cat\ncat\ndog\n", "names cat twice"),
        ('item { id: 99999 name: "cat" }', "numbers 99999 to 99999"),
        ("x\n" * 20_000, "20000 lines"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=said):
            read_class_list(path, 3, "--classes")
    with pytest.raises(DataError, match="no such file"):
        read_class_list(tmp_path / "other.txt", 3, "--classes")


def test_a_leading_background_goes_where_the_count_then_fits():
    assert without_background(["Background", "cat"], 1) == ("cat",)
    assert without_background(["background", "cat"], 2) == ("background", "cat")
    assert without_background(["tree", "cat"], 1) == ("tree", "cat")


# ------------------------------------------------------------------------------------------------------ what is found

CALLED = ["labels.txt", "labelmap.txt", "label_map.txt", "voc_labels.txt", "fruit-labels.txt", "classes.txt",
          "object_detection_classes_coco.txt", "obj.names", "label_map.pbtxt", "Labels.TXT"]  # fmt: skip


@pytest.mark.parametrize("name", CALLED)
def test_lists_are_found_by_their_names(tmp_path, name):
    text = 'item { id: 1 name: "cat" }\nitem { id: 2 name: "dog" }' if name.endswith("pbtxt") else "cat\ndog\n"
    (tmp_path / name).write_text(text)
    foreign = with_found_names(model(2), tmp_path / "model.pth")
    assert foreign.class_names == ("cat", "dog")
    assert foreign.names_note == f"class names from {name} next to it"


def test_a_text_of_the_checkpoint_s_own_name_is_its_list(tmp_path):
    (tmp_path / "detect.txt").write_text("apple\nbanana\n")
    (tmp_path / "detect2.txt").write_text("melon\ntomato\n")
    (tmp_path / "labels.txt").write_text("euro\ncent\n")
    assert with_found_names(model(2), tmp_path / "detect.tflite").class_names == ("apple", "banana")


@pytest.mark.parametrize("name", ["notes.txt", "per_class_ap.txt", "requirements.txt", "labels.csv", "graph.prototxt"])
def test_other_texts_are_left_alone(tmp_path, name):
    (tmp_path / name).write_text("cat\ndog\n")
    assert with_found_names(model(2), tmp_path / "model.pth") == model(2)


def test_lists_that_differ_are_named_and_not_taken(tmp_path):
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    (tmp_path / "classes.txt").write_text("background\ncat\ndog\n")
    assert with_found_names(model(2), tmp_path / "model.pth").class_names == ("cat", "dog")
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    foreign = with_found_names(model(2), tmp_path / "model.pth")
    assert foreign.class_names is None
    assert foreign.names_note == "classes.txt and labels.txt next to it fit and differ: none is taken"
    (tmp_path / "model-labels.txt").write_text("owl\nfox\n")  # called as the checkpoint is
    assert with_found_names(model(2), tmp_path / "model.pth").class_names == ("owl", "fox")


def test_a_list_next_to_it_is_worth_more_than_habit_and_less_than_the_file(tmp_path):
    own = tuple(f"kind {i}" for i in range(20))
    (tmp_path / "labels.txt").write_text("\n".join(own))
    assert with_found_names(model(20, VOC), tmp_path / "model.pth").class_names == own
    theirs = tuple(f"file's {i}" for i in range(20))
    assert with_found_names(model(20, theirs), tmp_path / "model.pth").class_names == theirs


def test_a_list_that_does_not_fit_is_named(tmp_path):
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    foreign = with_found_names(model(3), tmp_path / "model.pth")
    assert foreign.names_note == "labels.txt next to it has 2 names for 3 classes: not taken"
    assert foreign.class_names is None


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    (tmp_path / "secret").write_text("cat\ndog\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "labels.txt").symlink_to(tmp_path / "secret")
    assert find_class_lists(tmp_path / "model" / "model.pth", 2) == ([], [])
    (tmp_path / "model" / "labels.txt").unlink()
    (tmp_path / "model" / "labels.txt").write_bytes(b"\xff\xfe\x00")  # nor does one that cannot be read stop anything
    assert find_class_lists(tmp_path / "model" / "model.pth", 2) == ([], [])


@pytest.mark.parametrize("first", ["", "???\n", "unlabeled\n"])
def test_coco_as_it_is_published(tmp_path, first):
    gaps = ["n/a" if name.startswith("unused") else name for name in coco_by_number()]
    (tmp_path / "labelmap.txt").write_text(first + "\n".join(gaps))
    assert with_found_names(model(90), tmp_path / "detect.tflite").class_names == coco_by_number()
    (tmp_path / "labelmap.txt").write_text("\n".join(f"{i}{name}" for i, name in enumerate(gaps)))  # Coral's
    assert with_found_names(model(90), tmp_path / "detect.tflite").class_names == coco_by_number()
    (tmp_path / "labelmap.txt").write_text("\n".join(COCO))
    assert "has 80 names for 90" in with_found_names(model(90), tmp_path / "detect.tflite").names_note
