"""Labels changed in place: nothing else in the files changes, and nothing is lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from singleshot.api.label import LabelOptions, open_labels
from singleshot.api.label_store import FOLDER, LabelStore, RefusedError, Shown, StaleError, WantedObject
from singleshot.datasets import open_source
from singleshot.datasets.editing.yolo_list import with_name
from singleshot.datasets.sources import Source
from singleshot.errors import ConfigError, DataError

VOC = """<?xml version="1.0"?>
<annotation verified="yes">
\t<filename>a.png</filename>
\t<size><width>64</width><height>48</height><depth>3</depth></size>
\t<object>
\t\t<name> cat </name><pose>Left</pose><difficult>1</difficult>
\t\t<bndbox><xmin> 2.5 </xmin><ymin>3</ymin><xmax>20</xmax><ymax>30</ymax></bndbox>
\t\t<attributes><attribute><name>coat</name><value>a &lt; b</value></attribute></attributes>
\t</object>
\t<!-- <object> of a comment -->
\t<object><name>dog</name><bndbox><xmin>12</xmin><ymin>3</ymin><xmax>40</xmax><ymax>30</ymax></bndbox></object>
\t<object>
\t\t<name>cat</name><polygon><pt><x>1</x><y>1</y></pt><pt><x>9</x><y>7</y></pt></polygon>
\t</object>
</annotation>
"""
YOLO = "0 0.5 0.500 0.25 0.5\r\n\r\n1 .1 .1 .5 .1 .5 .5\r\n0\t0.25 0.25 0.1 0.1 "
COCO = """{"info": {"version": 1.50, "é": "\\u00e9"},
 "images": [{"id": 20, "file_name": "a.png", "width": 64, "height": 48}, {"id": 10, "file_name": "b.png"}],
 "annotations": [
  {"id": 5, "image_id": 20, "category_id": 7, "bbox": [1.0, 2, 10, 10], "area": 60.0,
   "segmentation": [[1, 2, 11, 2, 11, 12]], "extra": {"a":  1e3}},
  {"id": 6, "image_id": 10, "category_id": 3, "bbox": [1, 2, 10, 10], "area": 100, "iscrowd": 0},
  {"id": 8, "image_id": 20, "category_id": 3, "bbox": [5, 5, 20, 10], "iscrowd": 1,
   "segmentation": {"size": [48, 64], "counts": [245, 10, 2817]}},
  {"id": 9, "image_id": 20, "category_id": 3, "bbox": [1, 2, 20, 10], "score": 0.50}
 ], "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]}
"""
FORMS = ("voc", "yolo", "coco")
LABEL = {"voc": "Annotations/a.xml", "yolo": "labels/a.txt", "coco": "instances_train.json"}


def write_set(form: str, root: Path, write_image: Callable[..., None]) -> Path:
    """A set with images a.png, with the objects above, and b.png."""
    images = {"voc": "JPEGImages", "yolo": "images", "coco": "."}[form]
    for name in ("a.png", "b.png"):
        write_image(root / images / name, 64, 48)
    texts = {LABEL[form]: {"voc": VOC, "yolo": YOLO, "coco": COCO}[form]}
    if form == "yolo":
        texts |= {"classes.txt": "cat\ndog\n"}
    for name, text in texts.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(text.encode())
    return root


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def folder(form: str, tmp_path: Path, write_image) -> Path:
    return write_set(form, tmp_path / "set", write_image)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, write_image) -> dict[str, Path]:
    return {form: write_set(form, tmp_path_factory.mktemp("sets") / form, write_image) for form in FORMS}


def open_store(folder: Path, **options: Any) -> LabelStore:
    return open_labels(LabelOptions(str(folder), **options)).store


def wanted(shown: Shown) -> list[WantedObject]:
    return [WantedObject(obj.number, obj.name, obj.box) for obj in shown.objects]


def test_saving_what_is_there_leaves_the_file_to_the_byte(form: str, folder: Path) -> None:
    label = folder / LABEL[form]
    before, store = label.read_bytes(), open_store(folder)
    shown = store.show(0)
    assert len(shown.objects) == 3
    assert store.save(0, shown.version, wanted(shown)) == shown
    assert label.read_bytes() == before
    assert not (folder / FOLDER / "backups").exists()


def test_each_object_by_its_class_and_box(form: str, folder: Path) -> None:
    shown = open_store(folder).show(0)
    found = [(obj.name, tuple(round(float(v), 6) for v in obj.box), bool(obj.fixed)) for obj in shown.objects]
    assert found == {
        "voc": [("cat", (1.5, 2, 20, 30), False), ("dog", (11, 2, 40, 30), False), ("cat", (1, 1, 9, 7), True)],
        "yolo": [("cat", (24, 12, 40, 36), False), ("dog", (6.4, 4.8, 32, 24), False),
                 ("cat", (12.8, 9.6, 19.2, 14.4), False)],
        "coco": [("cat", (1, 2, 11, 12), False), ("dog", (5, 5, 25, 15), True), ("dog", (1, 2, 21, 12), False)],
    }[form]  # fmt: skip


CHANGED = {
    # the first object becomes a dog, 3 px wider to the right
    "voc": (" cat ", " dog ", "<xmax>20<", "<xmax>23<"),
    "yolo": ("0 0.5 0.500 0.25 0.5\r", "1 0.5234375 0.500 0.296875 0.5\r"),
    "coco": (
        '"category_id": 7, "bbox": [1.0, 2, 10, 10], "area": 60.0',
        '"category_id": 3, "bbox": [1, 2, 13, 10], "area": 78',
        "[[1, 2, 11, 2, 11, 12]]", "[[1, 2, 14, 2, 14, 12]]",
    ),
}  # fmt: skip
DELETED = {
    "voc": VOC[VOC.index("\n\t<object>\n\t\t<name> cat") : VOC.index("\n\t<!--")],
    "yolo": "0 0.5 0.500 0.25 0.5\r\n",
    "coco": COCO[COCO.index('{"id": 5') : COCO.index('{"id": 6')],
}
ADDED = {
    "voc": (
        "</polygon>\n\t</object>",
        "\n\t<object>\n\t\t<name>dog</name>\n\t\t<difficult>0</difficult>\n\t\t<bndbox>\n\t\t\t<xmin>3</xmin>"
        "\n\t\t\t<ymin>4</ymin>\n\t\t\t<xmax>34</xmax>\n\t\t\t<ymax>27</ymax>\n\t\t</bndbox>\n\t</object>",
    ),
    "yolo": ("0.25 0.25 0.1 0.1 ", "\r\n1 0.28125 0.3125 0.5 0.5\r\n"),
    "coco": (
        '"score": 0.50}',
        ',\n  {"id": 10, "image_id": 20, "category_id": 3, "bbox": [2, 3, 32, 24], "area": 768, "iscrowd": 0}',
    ),
}


def test_one_change_is_one_change_in_the_file(form: str, folder: Path) -> None:
    label = folder / LABEL[form]
    before, store = label.read_bytes().decode(), open_store(folder)
    shown = store.show(0)
    first, *others = wanted(shown)
    x0, y0, x1, y1 = first.box
    after = store.save(0, shown.version, [WantedObject(0, "dog", (x0, y0, x1 + 3, y1)), *others])
    parts = CHANGED[form]
    for old, new in zip(parts[::2], parts[1::2], strict=True):
        assert before.count(old) == 1
        before = before.replace(old, new)
    assert label.read_bytes().decode() == before
    assert after.objects[0].name == "dog"
    assert after.objects[0].box == pytest.approx((x0, y0, x1 + 3, y1))
    assert after.objects[1:] == shown.objects[1:]


def test_one_deletion_and_one_addition(form: str, folder: Path) -> None:
    label = folder / LABEL[form]
    before, store = label.read_bytes().decode(), open_store(folder)
    shown = store.show(0)
    shown = store.save(0, shown.version, wanted(shown)[1:])
    assert before.count(DELETED[form]) == 1
    assert label.read_bytes().decode() == (before := before.replace(DELETED[form], ""))
    shown = store.save(0, shown.version, [*wanted(shown), WantedObject(None, "dog", (2.0, 3.0, 34.0, 27.0))])
    old, new = ADDED[form]
    assert label.read_bytes().decode() == before.replace(old, old + new)
    assert shown.objects[-1].box == (2, 3, 34, 27)
    assert len(shown.objects) == 3


def test_all_goes_and_comes(form: str, folder: Path) -> None:
    store = open_store(folder)
    shown = store.save(0, store.show(0).version, [])
    assert shown.objects == []
    shown = store.save(0, shown.version, [WantedObject(None, "cat", (2.0, 3.0, 34.0, 27.0))])
    assert [(obj.name, obj.box) for obj in shown.objects] == [("cat", (2, 3, 34, 27))]
    if form == "coco":
        assert [row["id"] for row in json.loads((folder / LABEL[form]).read_bytes())["annotations"]] == [6, 7]
    (image,) = (image for image in open_source(folder).read().images if image.path.endswith("a.png"))
    assert [obj.name for obj in image.objects] == ["cat"]


SIDES = st.tuples(st.integers(0, 60), st.integers(0, 44), st.integers(2, 30), st.integers(2, 30))
STEPS = st.lists(st.tuples(st.sampled_from(("move", "class", "delete", "add")), st.integers(0, 5), SIDES), max_size=6)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=8)
@given(steps=STEPS)
def test_any_edit_is_what_the_readers_read(form: str, folders: dict[str, Path], steps: list[Any]) -> None:
    """Against a plain list of objects to which the same is done; the other image, and what is hidden, stay."""
    folder = folders[form]
    label, text = folder / LABEL[form], {"voc": VOC, "yolo": YOLO, "coco": COCO}[form]
    label.write_bytes(text.encode())
    store = open_store(folder)
    shown, other = store.show(0), store.show(1)
    model = wanted(shown)
    fixed = {obj.number for obj in shown.objects if obj.fixed}
    for what, at, (x, y, width, height) in steps:
        box = (float(x), float(y), float(min(x + width, 64)), float(min(y + height, 48)))
        if what == "add":
            model.append(WantedObject(None, "cat", box))
        elif at < len(model) and what == "delete":
            del model[at]
        elif at < len(model) and what == "class":
            model[at] = model[at]._replace(name="dog")
        elif at < len(model) and model[at].number not in fixed:
            model[at] = model[at]._replace(box=box)
    store.save(0, shown.version, model)
    if label.read_bytes() == text.encode():
        assert model == wanted(shown)
    (image,) = (image for image in open_source(folder).read().images if image.path.endswith("a.png"))
    scale = np.array([64, 48, 64, 48]) if image.relative else 1
    assert [obj.name for obj in image.objects] == [one.name for one in model]
    if model:
        found, want = np.array([obj.box for obj in image.objects]) * scale, np.array([one.box for one in model])
        np.testing.assert_allclose(found, want, atol=1e-6)
    assert store.show(1) == other
    hidden = {
        "voc": ("verified=", "<!-- <object> of a comment -->"),
        "yolo": (),
        "coco": ("1.50", '"\\u00e9"', '"id": 6'),
    }
    assert all(part in label.read_text() for part in hidden[form])


def test_before_the_first_change_a_file_is_kept(form: str, folder: Path) -> None:
    before = (folder / LABEL[form]).read_bytes()
    (folder / LABEL[form]).chmod(0o640)
    store = open_store(folder)
    shown = store.show(0)
    for _ in range(3):
        shown = store.save(0, shown.version, wanted(shown)[1:])
    (kept,) = (path for path in (folder / FOLDER / "backups").rglob("*") if path.is_file())
    assert kept.read_bytes() == before
    assert kept.relative_to(folder / FOLDER / "backups").parts[1:] == tuple(LABEL[form].split("/"))
    assert (folder / LABEL[form]).stat().st_mode & 0o777 == 0o640
    assert len(open_source(folder).read().images) == {"voc": 1, "yolo": 2, "coco": 2}[form]  # the copies are no labels


def test_what_was_changed_elsewhere_is_not_overwritten(form: str, folder: Path) -> None:
    store, label = open_store(folder), folder / LABEL[form]
    shown = store.show(0)
    text = label.read_bytes()
    changed = {"voc": (b"dog", b"cow"), "yolo": (b".1 .1", b".2 .1"), "coco": (b"[1, 2, 20", b"[1, 2, 21")}[form]
    label.write_bytes(text.replace(*changed))
    with pytest.raises(StaleError):
        store.save(0, shown.version, [])
    assert label.read_bytes() == text.replace(*changed)
    if form != "coco":
        label.unlink()
        with pytest.raises(StaleError):
            store.save(0, shown.version, [])
        assert not label.exists()


def test_another_image_of_a_coco_file_may_change_in_the_meantime(tmp_path: Path, write_image) -> None:
    folder = write_set("coco", tmp_path, write_image)
    store, another = open_store(folder), open_store(folder)
    shown = store.show(0)
    another.save(1, another.show(1).version, [WantedObject(None, "cat", (1.0, 1.0, 9.0, 9.0))])
    store.save(0, shown.version, wanted(shown)[:1])
    rows = json.loads((folder / LABEL["coco"]).read_bytes())["annotations"]
    assert [(row["id"], row["image_id"]) for row in rows] == [(5, 20), (10, 10)]


def test_a_class_that_only_another_file_of_the_set_has(tmp_path: Path, write_image) -> None:
    folder = write_set("coco", tmp_path, write_image)
    write_image(folder / "c.png", 64, 48)
    other = {"images": [{"id": 1, "file_name": "c.png"}], "annotations": [], "categories": [{"id": 1, "name": "cow"}]}
    (folder / "instances_val.json").write_text(json.dumps(other))
    store = open_store(folder)
    assert "cow" in store.classes
    store.save(2, store.show(2).version, [WantedObject(None, "cow", (1.0, 1.0, 9.0, 9.0))])
    (row,) = json.loads((folder / "instances_val.json").read_bytes())["annotations"]
    assert row == {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 8, 8], "area": 64, "iscrowd": 0}
    assert (folder / LABEL["coco"]).read_text() == COCO
    shown = store.show(0)
    store.save(0, shown.version, [*wanted(shown), WantedObject(None, "cow", (1.0, 1.0, 9.0, 9.0))])
    first = json.loads((folder / LABEL["coco"]).read_bytes())
    assert first["categories"] == [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}, {"id": 1, "name": "cow"}]
    assert first["annotations"][-1]["category_id"] == 1  # as the other file has it
    assert [obj.name for obj in store.show(0).objects] == [*(obj.name for obj in shown.objects), "cow"]


def test_a_class_more(form: str, folder: Path) -> None:
    """All else stays to the byte, and the readers read it."""
    store = open_store(folder)
    before = (folder / LABEL[form]).read_bytes()
    store.add_class(" wild boar ")
    assert store.classes[-1] == "wild boar"
    assert (folder / LABEL[form]).read_bytes() == before
    for name, why in (
        ("wild boar", "there already"),
        (" ", "want 1 to"),
        ("a\nb", "one line"),
        ("x" * 300, "want 1 to"),
    ):
        with pytest.raises(RefusedError, match=why):
            store.add_class(name)
    shown = store.show(0)
    new = [WantedObject(None, "wild boar", (1.0, 1.0, 9.0, 9.0))]
    store.save(0, shown.version, [shown.objects[0]._replace(name="wild boar"), *wanted(shown)[1:], *new])
    again = open_store(folder)
    assert again.classes == store.classes
    assert [obj.name for obj in again.show(0).objects] == [
        "wild boar",
        *(o.name for o in shown.objects[1:]),
        "wild boar",
    ]
    assert open_source(str(folder)).read(None).class_names == store.classes or form == "voc"
    if form == "coco":
        assert json.loads((folder / LABEL["coco"]).read_bytes())["categories"][-1] == {"id": 8, "name": "wild boar"}


def test_classes_of_the_command_line_are_added_to_a_set(form: str, folder: Path) -> None:
    classes = open_store(folder).classes
    assert open_store(folder, classes=("dog,cow",)).classes == (*classes, "cow")
    if form == "yolo":
        assert (folder / "classes.txt").read_text() == "cat\ndog\ncow\n"
        assert [path.read_text() for path in folder.glob(f"{FOLDER}/backups/*/classes.txt")] == ["cat\ndog\n"]


def test_classes_are_not_added_to_a_set_that_another_process_labels(form: str, folder: Path) -> None:
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with open_store(folder).held():
        with pytest.raises(ConfigError, match="being labelled already"):
            open_store(folder, classes=("cow",))
        assert all(path.read_bytes() == text for path, text in files.items())


@pytest.mark.parametrize("taken", ['"category_id": 8, "bbox": [5', '"category_id": 8.0, "bbox": [5'])
def test_an_id_that_annotations_use_already_is_given_to_no_new_class(tmp_path: Path, write_image, taken: str) -> None:
    folder = write_set("coco", tmp_path, write_image)
    text = COCO.replace('"category_id": 3, "bbox": [5', taken)
    (folder / LABEL["coco"]).write_text(text)
    store = open_store(folder, classes=("cow",))
    shown = store.show(0)
    assert "cow" not in [obj.name for obj in shown.objects]
    with pytest.raises(DataError, match="has no category 'cow', and 8, the id for it, is taken"):
        store.save(0, shown.version, [*wanted(shown), WantedObject(None, "cow", (1.0, 1.0, 9.0, 9.0))])
    assert (folder / LABEL["coco"]).read_text() == text


YAMLS = {
    "names: [cat, dog]\nnc: 2\n": 'names: [cat, dog, "cow"]\nnc: 3\n',
    "nc: 2 # two\nnames: ['cat', \"dog\"] # all\n": 'nc: 3 # two\nnames: [\'cat\', "dog", "cow"] # all\n',
    "names:\n- cat\n- dog # barks\ntrain: images\n": 'names:\n- cat\n- dog # barks\n- "cow"\ntrain: images\n',
    "train: images\nnames:\n  - cat\n  - dog": 'train: images\nnames:\n  - cat\n  - dog\n  - "cow"',
    "names:\r\n  0: cat\r\n  1: dog\r\nnc: 2\r\n": 'names:\r\n  0: cat\r\n  1: dog\r\n  2: "cow"\r\nnc: 3\r\n',
    "names: {0: cat, 1: dog}\n": 'names: {0: cat, 1: dog, 2: "cow"}\n',
    "names: {1: cat, 2: dog}\n": 'names: {1: cat, 2: dog, 3: "cow"}\n',
    "names: [\n  cat,\n  dog,\n]\n": 'names: [\n  cat,\n  dog, "cow",\n]\n',
    "é: ü\nnames: [cat, dog]\n": 'é: ü\nnames: [cat, dog, "cow"]\n',
}


@pytest.mark.parametrize("text", YAMLS)
def test_a_class_more_in_a_yaml(text: str) -> None:
    assert with_name(text.encode(), "cow", "data.yaml", ("cat", "dog")).decode() == YAMLS[text]


@pytest.mark.parametrize(
    ("data", "path", "why"),
    [
        (b"cat\ndog\nelk\n", "classes.txt", "other class names than it had"),
        (b"names: [cat]\n", "data.yaml", "other class names than it had"),
        ("cat\ndog\n".encode("utf-16"), "classes.txt", "is not UTF-8"),
        (b"names: {a: cat, b: dog}\n", "data.yaml", "keys that are no numbers"),
        (b"names: &a [cat, dog]\nx: *a\n", "data.yaml", "uses an alias"),
    ],
)
def test_lists_that_are_not_changed(data: bytes, path: str, why: str) -> None:
    with pytest.raises(DataError, match=why):
        with_name(data, "cow", path, ("cat", "dog"))


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("cat\ndog", "cat\ndog\ncow\n"),
        ("\ufeffcat\r\ndog\r\n", "\ufeffcat\r\ndog\r\ncow\r\n"),
        ("cat\ndog\n\n", "cat\ndog\ncow\n\n"),
    ],
)
def test_a_class_more_in_a_list(text: str, after: str) -> None:
    assert with_name(text.encode(), "cow", "obj.names", ("cat", "dog")).decode() == after


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (WantedObject(9, "cat", (1.0, 1.0, 9.0, 9.0)), "object 9 is not there"),
        (WantedObject(0, "cow", (1.0, 1.0, 9.0, 9.0)), "'cow' is not one"),
        (WantedObject(None, "cat", (1.0, 1.0, float("nan"), 9.0)), "not finite"),
        (WantedObject(None, "cat", (1.0, 1.0, 1.5, 9.0)), "less than a pixel"),
        (WantedObject(None, "cat", (70.0, 1.0, 90.0, 9.0)), "outside its image"),
        (WantedObject(0, "cat", (9.0, 9.0, 1.0, 1.0)), "less than a pixel"),
    ],
)
def test_what_cannot_be_saved_changes_nothing(form: str, folder: Path, wrong: WantedObject, why: str) -> None:
    store, before = open_store(folder), (folder / LABEL[form]).read_bytes()
    shown = store.show(0)
    with pytest.raises(RefusedError, match=why):
        store.save(0, shown.version, [*wanted(shown)[1:], wrong])
    assert (folder / LABEL[form]).read_bytes() == before


def test_a_box_that_an_outline_makes_stays(tmp_path: Path, write_image) -> None:
    for form, at in (("voc", 2), ("coco", 1)):
        store = open_store(write_set(form, tmp_path / form, write_image))
        shown = store.show(0)
        objects = wanted(shown)
        objects[at] = objects[at]._replace(box=(1.0, 1.0, 9.0, 9.5))
        with pytest.raises(RefusedError, match="its box stays"):
            store.save(0, shown.version, objects)
        objects[at] = WantedObject(at, "dog", shown.objects[at].box)
        assert store.save(0, shown.version, objects).objects[at].name == "dog"


def test_rows_that_cannot_be_read_and_flags_stay_with_their_rows(tmp_path: Path, write_image) -> None:
    folder = write_set("yolo", tmp_path, write_image)
    (folder / "labels/a.txt").write_text("0 .5 .5 .2 .2\nnot a row\n7 .5 .5 .1 .1\n1 .3 .3 .1 .1\n")
    flags = "label,object,difficult,crowd\nlabels/a.txt,0,1,0\n labels/b.txt,3,1,0\nlabels/a.txt,3,0,1\n"
    (folder / "singleshot-flags.csv").write_text(flags)
    store = open_store(folder)
    shown = store.show(0)
    assert [obj.number for obj in shown.objects] == [0, 3]
    store.save(0, shown.version, wanted(shown)[1:])
    assert (folder / "labels/a.txt").read_text() == "not a row\n7 .5 .5 .1 .1\n1 .3 .3 .1 .1\n"
    after = "label,object,difficult,crowd\n labels/b.txt,3,1,0\nlabels/a.txt,2,0,1\n"
    assert (folder / "singleshot-flags.csv").read_text() == after


def test_an_image_without_a_label_gets_one(tmp_path: Path, write_image) -> None:
    for form, label in (("voc", "Annotations/b.xml"), ("yolo", "labels/b.txt")):
        folder = write_set(form, tmp_path / form, write_image)
        store = open_store(folder)
        shown = store.show(1)
        assert not shown.labelled
        assert shown.objects == []
        shown = store.save(1, shown.version, [])  # nothing to find, which is more than no label
        assert shown.labelled
        shown = store.save(1, shown.version, [WantedObject(None, "dog", (2.0, 3.0, 34.0, 27.0))])
        (image,) = (image for image in open_source(folder).read().images if image.path.endswith("b.png"))
        assert image.file == str(folder / label)
        assert [obj.name for obj in image.objects] == ["dog"]


def test_sizes_that_the_label_states_otherwise(tmp_path: Path, write_image) -> None:
    folder = write_set("voc", tmp_path, write_image)
    label = folder / LABEL["voc"]
    label.write_text(VOC.replace("<width>64</width><height>48<", "<width>32</width><height>24<"))
    store = open_store(folder)
    shown = store.show(0)
    assert shown.objects[1].box == (22, 4, 80, 60)
    objects = wanted(shown)
    objects[1] = objects[1]._replace(box=(22.0, 4.0, 60.0, 60.0))
    store.save(0, shown.version, objects)
    assert "<xmin>12</xmin><ymin>3</ymin><xmax>30</xmax><ymax>30</ymax>" in label.read_text()
    label.write_text(VOC.replace("<width>64</width><height>48<", "<width>48</width><height>64<"))
    store = open_store(folder)
    shown = store.show(0)
    with pytest.raises(RefusedError, match="48 x 64 pixels"):
        store.save(0, shown.version, [])


def test_a_new_set(tmp_path: Path, write_image) -> None:
    for form in ("voc", "yolo"):
        folder = tmp_path / form
        write_image(folder / "a.png", 64, 48)
        with pytest.raises(DataError, match="no data set"):
            open_store(folder)
        with pytest.raises(ConfigError, match="needs its classes"):
            open_store(folder, form=form)
        store = open_store(folder, form=form, classes=("dog,cat",))
        assert not store.show(0).labelled
        with pytest.raises(ConfigError, match="has dog, cat"):
            open_store(folder, form=form, classes=("cow",))
        store = open_store(folder, form=form)  # started again before anything was labelled
        store.save(0, store.show(0).version, [WantedObject(None, "cat", (2.0, 3.0, 34.0, 27.0))])
        raw = open_source(folder).read()
        assert raw.class_names == ("dog", "cat")
        assert [obj.name for obj in raw.images[0].objects] == ["cat"]
        assert open_store(folder, form=form).classes == ("dog", "cat")
        with pytest.raises(ConfigError, match="labels already"):
            open_store(folder, form={"voc": "yolo", "yolo": "voc"}[form], classes=("cat",))


def test_forms_that_are_not_written_in_place(tmp_path: Path, write_image, one_line) -> None:
    write_image(tmp_path / "a.png", 64, 48)
    (tmp_path / "labels.csv").write_text("filename,xmin,ymin,xmax,ymax,class\na.png,1,2,30,40,cat\n")
    message = one_line(open_store, tmp_path)
    assert f"singleshot data convert {tmp_path} DIR --to voc" in message
    copy = tmp_path.with_name(f"{tmp_path.name}-copy")  # nor is one of them copied for it
    assert one_line(open_store, tmp_path, out=str(copy)) == message
    assert not copy.exists()
    folder = write_set("yolo", tmp_path / "yolo", write_image)
    (folder / "classes.txt").unlink()
    assert "has no list of class names" in one_line(open_store, folder, classes=("cow",))
    other = write_set("voc", tmp_path / "voc", write_image)
    with pytest.raises(ConfigError, match="--classes: class name"):
        open_store(other, classes=("a\a",))


def test_a_copy_is_labelled_in_place_of_the_set(form: str, folder: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    store = open_store(folder, out=str(tmp_path / "copy"))
    store.save(0, store.show(0).version, [])
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert {path.name for path in (tmp_path / "copy").rglob("*.png")} == {"a.png", "b.png"}
    with pytest.raises(ConfigError, match="not empty"):
        open_store(folder, out=str(tmp_path / "copy"))
    with pytest.raises(ConfigError, match="lies in"):
        open_store(folder, out=str(folder / "copy"))


def test_labels_of_a_set_that_is_copied_are_read_once(form: str, folder: Path, tmp_path: Path, monkeypatch) -> None:
    """The copy is opened as one that is read anew."""
    reads = []
    read = Source.read_as_written
    monkeypatch.setattr(Source, "read_as_written", lambda self, *args: reads.append(self) or read(self, *args))
    copied = open_store(folder, out=str(tmp_path / "copy"))
    assert len(reads) == 1
    anew = open_store(tmp_path / "copy")
    assert [copied.show(i) for i in (0, 1)] == [anew.show(i) for i in (0, 1)]
    assert copied.classes == anew.classes


def test_a_copy_for_a_named_file_has_the_images(tmp_path: Path, write_image) -> None:
    folder = write_set("coco", tmp_path / "set", write_image)
    (folder / "annotations").mkdir()
    label = (folder / LABEL["coco"]).rename(folder / "annotations" / LABEL["coco"])
    store = open_store(label, out=str(tmp_path / "copy"))
    store.save(0, store.show(0).version, [])
    assert label.read_text() == COCO
    assert len(json.loads((tmp_path / "copy/annotations" / LABEL["coco"]).read_bytes())["annotations"]) == 1


def test_a_label_file_with_a_mark(tmp_path: Path, write_image) -> None:
    for form in FORMS:
        folder = write_set(form, tmp_path / form, write_image)
        label = folder / LABEL[form]
        label.write_bytes(b"\xef\xbb\xbf" + label.read_bytes().removeprefix(b"\n"))
        store = open_store(folder)
        shown = store.show(0)
        objects = wanted(shown)
        objects[0] = objects[0]._replace(name="dog")
        after = store.save(0, shown.version, objects)
        assert [obj.name for obj in after.objects][:2] == ["dog", "dog"]
        assert label.read_bytes().startswith(b"\xef\xbb\xbf")


def test_nothing_outside_the_folder_is_written(tmp_path: Path, write_image) -> None:
    folder = write_set("yolo", tmp_path / "set", write_image)
    outside = tmp_path / "outside.txt"
    outside.write_text("0 .5 .5 .5 .5\n")
    store = open_store(folder)
    shown = store.show(1)
    (folder / "labels/b.txt").symlink_to(outside)  # while it is open
    with pytest.raises(DataError, match="leads out"):
        store.save(1, shown.version, [])
    assert outside.read_text() == "0 .5 .5 .5 .5\n"
    shutil.move(folder / "labels", tmp_path / "labels")
    (folder / "labels").symlink_to(tmp_path / "labels")
    with pytest.raises(DataError, match="leads out"):
        store.show(0)


def test_progress_is_kept(form: str, folder: Path) -> None:
    store = open_store(folder)
    store.look(1, looked=True)
    assert open_store(folder).looked == {1}
    store.look(1, looked=False)
    assert open_store(folder).looked == frozenset()
    with store.held(), pytest.raises(ConfigError, match="being labelled already"), open_store(folder).held():
        pass
    (folder / FOLDER / "progress.json").write_text("[")
    with pytest.raises(DataError, match="no list of images"):
        open_store(folder)
