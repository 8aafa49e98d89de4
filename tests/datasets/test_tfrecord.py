from __future__ import annotations

import importlib.util
import math
import struct
from pathlib import Path

import numpy as np
import pytest

from singleshot.datasets import available_splits, open_dataset, open_source
from singleshot.datasets.findings import CollectErrors
from singleshot.datasets.readers import tfrecord
from singleshot.datasets.readers.label_map import find_label_map, read_label_map
from singleshot.datasets.tree import open_tree
from singleshot.datasets.writing import write_dataset
from singleshot.images.decode import read_image

_spec = importlib.util.spec_from_file_location("records", Path(__file__).with_name("fuzz") / "records.py")
records = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(records)
example, feature, field, labelled, record_file = (
    getattr(records, name) for name in ("example", "feature", "field", "labelled", "record_file")
)
BOXES = [(8, 6, 16, 24), (32, 0, 64, 48)]
MAP = "item {\n  id: 1\n  name: 'cat'\n}\nitem {\n  id: 2\n  name: 'dog'\n}\n"
TEXT = "image/object/class/text"
TEXTS = {TEXT: [b"dog", b"cat"]}
NUMBERS = {"image/object/class/label": [2, 1]}


@pytest.fixture
def png(folder) -> bytes:
    root = folder({}, ["x.png"])
    data = (root / "x.png").read_bytes()
    (root / "x.png").unlink()
    return data


@pytest.fixture
def made(png):
    """made(name="a.png", boxes, **more keys): a record."""

    def make(more=TEXTS, name="a.png", boxes=BOXES, packed=True) -> bytes:
        return example({**labelled(png, name, 64, 48, boxes), **more}, packed)

    return make


def write(root: Path, files: dict[str, bytes | str | list[bytes]]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        body = record_file(data) if isinstance(data, list) else data.encode() if isinstance(data, str) else data
        (root / name).write_bytes(body)
    return root


@pytest.mark.parametrize("packed", [True, False])
def test_images_and_boxes_are_read_in_place(tmp_path, made, packed):
    flags = {"image/object/difficult": [0, 1], "image/object/group_of": [1, 0], "image/object/area": [12.0, 99.0]}
    body = [made({**TEXTS, **flags}, packed=packed), made({}, "dir\\b", [], packed)]
    source = open_source(write(tmp_path / "set", {"train.tfrecord": body}))
    assert source.form == "tfrecord"
    raw = source.read()
    assert (raw.class_names, raw.declared, raw.made, raw.splits) == (("cat", "dog"), False, False, {"train": [0, 1]})
    assert [(im.ident, im.width, im.height, im.relative) for im in raw.images] == [
        ("a", 64, 48, True),
        ("b", 64, 48, True),
    ]
    first = raw.images[0].objects
    assert [(o.name, o.difficult, o.crowd, o.area) for o in first] == [
        ("dog", False, True, 12),
        ("cat", True, False, 99),
    ]
    data = open_dataset(tmp_path / "set")
    np.testing.assert_allclose(data.boxes_px, BOXES, rtol=1e-6)
    assert data.sample(0).image.shape == (48, 64, 3)
    assert data.names[0].startswith(f"{tmp_path}/set/train.tfrecord#")
    assert read_image(data.names[1]).shape == (48, 64, 3)


def test_the_files_of_another_writer(tmp_path, png):
    """Frames by tensorboard's writer, messages by protobuf from the public definition."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from tensorboard.summary.writer.record_writer import RecordWriter

    file = descriptor_pb2.FileDescriptorProto(name="x.proto", package="x", syntax="proto3")
    types = {"BytesList": 12, "FloatList": 2, "Int64List": 3}
    for name, kind in types.items():
        file.message_type.add(name=name).field.add(name="value", number=1, label=3, type=kind)
    one = file.message_type.add(name="Feature")
    one.oneof_decl.add(name="kind")
    for i, name in enumerate(types, 1):
        one.field.add(name=name.lower(), number=i, label=1, type=11, type_name=f".x.{name}", oneof_index=0)
    many = file.message_type.add(name="Features")
    entry = many.nested_type.add(name="FeatureEntry", options=descriptor_pb2.MessageOptions(map_entry=True))
    entry.field.add(name="key", number=1, label=1, type=9)
    entry.field.add(name="value", number=2, label=1, type=11, type_name=".x.Feature")
    many.field.add(name="feature", number=1, label=3, type=11, type_name=".x.Features.FeatureEntry")
    file.message_type.add(name="Example").field.add(
        name="features", number=1, label=1, type=11, type_name=".x.Features"
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName("x.Example"))()
    for key, values in {**labelled(png, "a.png", 64, 48, BOXES), **NUMBERS}.items():
        name = {bytes: "byteslist", float: "floatlist", int: "int64list"}[type(values[0])]
        getattr(message.features.feature[key], name).value.extend(values)
    with (tmp_path / "a.record").open("wb") as stream:
        writer = RecordWriter(stream)
        for _ in range(3):
            writer.write(message.SerializeToString())
        writer.flush()
    (tmp_path / "label_map.pbtxt").write_text(MAP)
    raw = open_source(tmp_path).read()
    assert [[o.name for o in im.objects] for im in raw.images] == [["dog", "cat"]] * 3
    assert [im.ident for im in raw.images] == ["a", "a-1", "a-2"]
    assert (raw.class_names, raw.declared, raw.made) == (("cat", "dog"), True, True)
    np.testing.assert_allclose(open_dataset(tmp_path, "trainval").boxes_px[:2], BOXES, rtol=1e-6)


def test_shards_folders_and_names(tmp_path, made):
    names = [f"set_train.record-{i:05d}-of-00030" for i in range(30)]
    files = {name: [made(name=f"{i}.png")] for i, name in enumerate(names)}
    root = write(tmp_path / "one", {**files, "set_val-00000-of-00001": [made()], "notes.txt": "x"})
    raw = open_source(root).read()
    assert {split: len(members) for split, members in raw.splits.items()} == {"train": 30, "val": 1}
    assert len(open_dataset(root / names[3])) == 1  # one that is named is read alone
    roboflow = {f"{split}/Cats.tfrecord": [made(NUMBERS)] for split in ("train", "valid")}
    maps = {f"{split}/Cats_label_map.pbtxt": MAP for split in ("train", "valid")}
    root = write(tmp_path / "two", {**roboflow, **maps, "README.txt": "x"})
    assert available_splits(root) == ("train", "valid")
    raw = open_source(root).read()
    assert [[o.name for o in im.objects] for im in raw.images] == [["dog", "cat"]] * 2
    assert len({im.ident for im in raw.images}) == 2
    root = write(tmp_path / "three", {"records/train.tfrec": [made()], "annotations/label_map.pbtxt": MAP})
    assert open_source(root).read("train").class_names == ("cat", "dog")


def test_converted_images_keep_their_names(tmp_path, made):
    root = write(tmp_path / "set", {"train.tfrecord": [made(name="one.png"), made(name="two.jpg")]})
    write_dataset(open_source(root).read(), tmp_path / "out", "coco")
    assert sorted(p.name for p in (tmp_path / "out").rglob("*.png")) == ["one.png", "two.png"]
    again = open_dataset(tmp_path / "out")
    np.testing.assert_allclose(again.boxes_px[:2], BOXES, rtol=1e-6)


# ---------------------------------------------------------------------------------------------- label maps


def test_label_maps_as_people_write_them(tmp_path):
    text = """# a comment { id: 3 }
    item: { name: "cat", id: 1, display_name: "cat" }
    item <> {id:2;name:'it\\'s \\303\\251' keypoints { id: 7 name: "nose" } keypoints { id: 8 }}
    item {
      name: "/m/01g317"
      id: 5
      display_name: "person"
    }
    item { display_name: "tree" id: 9 }
    """.replace("<> ", "")
    found = read_label_map(open_tree(write(tmp_path, {"m.pbtxt": text})), "m.pbtxt")
    assert found.names == {1: "cat", 2: "it's é", 5: "person", 9: "tree"}
    assert [found.shown(name) for name in ("/m/01g317", "cat")] == ["person", "cat"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no label map"),
        ("model { ssd { } }", "is no label map (model before item)"),
        ("item { id: 1 name: 'a' } item { id: 1 name: 'b' }", "id 1 stands twice"),
        ("item { id: x name: 'a' }", "wants an id"),
        ("item { id: 1 }", "wants an id, a whole number, and a name"),
        ("item { id: 1 name: 'a'", "its braces do not close"),
        ("item {" * 5000, "its braces do not close"),
        ("\xff", "is no label map"),
        ('item { id: 1 name: "\\' + "x" * 99, "wants an id"),
    ],
)
def test_label_maps_that_are_none(tmp_path, one_line, text, said):
    tree = open_tree(write(tmp_path, {"m.pbtxt": text}))
    message = one_line(read_label_map, tree, "m.pbtxt")
    assert message.startswith(f"{tmp_path}/m.pbtxt: ") or said == "its braces do not close"
    assert said in message or "is no label map" in message


def test_which_label_map(tmp_path, one_line):
    other = MAP.replace("cat", "cow")
    tree = open_tree(write(tmp_path, {"a_label_map.pbtxt": MAP, "b.pbtxt": other, "c/x.pbtxt": MAP, "c/y.pbtxt": MAP}))
    assert find_label_map(tree, "a.record-00000-of-00002").names[1] == "cat"
    assert find_label_map(tree, "b.tfrecord").names[1] == "cow"
    assert find_label_map(tree, "c/d.tfrecord").file == "c/x.pbtxt"
    message = one_line(find_label_map, tree, "d.tfrecord")
    assert "several label maps (a_label_map.pbtxt, b.pbtxt); call its own d_label_map.pbtxt" in message


# ---------------------------------------------------------------------------------------------- what is wrong


def test_what_is_missing_is_said(tmp_path, made, one_line):
    root = write(tmp_path / "a", {"train.tfrecord": [made(NUMBERS)]})
    assert "numbers and no names; put the label map (NAME_label_map.pbtxt) beside" in one_line(open_dataset, root)
    root = write(tmp_path / "b", {"train.tfrecord": [example({"image": [b"x"], "objects/bbox": [0.5]})]})
    assert "its records hold image, objects/bbox; want the keys of TensorFlow's" in one_line(open_dataset, root)
    root = write(tmp_path / "c", {"train.tfrecord": b"\x1f\x8b\x08" + bytes(99)})
    assert "train.tfrecord is compressed TFRecord; unpack it (gunzip)" in one_line(open_dataset, root)
    root = write(tmp_path / "d", {"train.tfrecord": b"\0" * 99})
    assert "train.tfrecord is called like a TFRecord and is none" in one_line(open_dataset, root)
    assert "train.tfrecord: " in one_line(open_dataset, root / "train.tfrecord")


def findings(tmp_path, body: bytes, text=MAP) -> tuple[int, list[str]]:
    root = write(tmp_path / f"set{len(list(tmp_path.iterdir()))}", {"train.tfrecord": body, "m.pbtxt": text})
    problems = CollectErrors()
    raw = open_source(root / "train.tfrecord").read(None, problems)
    return len(raw.images), [f"{one.kind} {one.item} {one.message}" for one in problems.findings]


def test_damage_is_a_finding(tmp_path, made, png):
    good = [made(name=f"{i}.png") for i in range(3)]
    size = len(record_file(good[:1]))
    body = bytearray(record_file(good))
    body[size + 40] ^= 1  # the second's contents
    count, (said,) = findings(tmp_path, bytes(body))
    assert (count, said) == (2, "annotation-malformed record 1 is damaged (its checksum does not fit); write it again")
    body = bytearray(record_file(good))
    body[size + 3] ^= 1  # the second's length
    count, (said,) = findings(tmp_path, bytes(body))
    assert count == 1
    assert "annotation-unreadable  record 1: its length is damaged; nothing after it is read" in said
    for cut in (size + 5, size + 30, 2 * size - 2):
        count, (said,) = findings(tmp_path, record_file(good)[:cut])
        assert (count, said.split(";")[0].rpartition(": ")[0]) == (1, "annotation-unreadable  record 1")
    count, (said,) = findings(tmp_path, record_file([good[0], b"\x0a\xff\xff"]))
    assert count == 1
    assert "record 1 is no tf.train.Example" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image/object/bbox/xmin": [0.1]}, "has 1, 2, 2, 2 numbers xmin"),
        ({"image/object/bbox/xmin": [b"0.1", b"0.1"]}, "has texts in image/object/bbox/xmin"),
        ({"image/object/class/text": [b"cat"]}, "has 2 boxes, 1 of image/object/class/text"),
        ({"image/object/class/text": [b"cat", b"\xff"]}, "not UTF-8"),
        ({"image/object/class/text": [b"cat", b""]}, "object 1 has no name"),
        ({TEXT: [], "image/object/class/label": [1, 3]}, "class 3 is not in m.pbtxt (1 cat, 2 dog)"),
        ({TEXT: [], "image/object/class/label": [1, -1]}, "class -1 is not in"),
        ({"image/object/difficult": [2, 0]}, "is not 0 or 1"),
        ({"image/object/difficult": [1]}, "is not 0 or 1 for each"),
        ({"image/encoded": [b"a", b"b"]}, "has 2 of image/encoded"),
        ({"image/encoded": [b""]}, "has no image/encoded"),
        ({"image/filename": [5]}, "has numbers in image/filename"),
    ],
)  # fmt: skip
def test_records_that_are_wrong(tmp_path, made, change, said):
    _, messages = findings(tmp_path, record_file([made({**TEXTS, **change}), made(name="b.png")]))
    assert len(messages) == 1
    assert said in messages[0]
    assert " record 0 " in messages[0]


def test_numbers_without_bound_are_refused(tmp_path, made):
    many = {"image/object/bbox/xmin": [0.5] * 100_001}
    assert "more than 100000 values" in findings(tmp_path, record_file([made({**TEXTS, **many})]))[1][0]
    huge = struct.pack("<Q", 2**60)
    assert findings(tmp_path, record_file([made()]) + huge + bytes(4))[0] == 1
    odd = {"image/object/area": [math.nan, -1.0], "image/width": [2**40]}
    count, messages = findings(tmp_path, record_file([made({**TEXTS, **odd})]))
    assert (count, messages) == (1, [])


def test_recognised_by_content():
    record = record_file([example({"a": [1]})])
    assert tfrecord.is_one(record)
    for head in (b"", record[:13], record[1:], b"\x0a" * 99, record_file([field(2, feature([1]))])):
        assert not tfrecord.is_one(head)


def test_records_count_after_the_labels_that_they_were_made_of(tmp_path, made, write_image):
    (tmp_path / "test.record").write_bytes(record_file([made()]))
    assert open_source(tmp_path).form == "tfrecord"
    write_image(tmp_path / "images" / "train" / "a.png", 64, 48)
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    xml = f"<annotation><object><name>cat</name>{box}</object></annotation>"
    (tmp_path / "images" / "train" / "a.xml").write_text(xml)
    source = open_source(tmp_path)
    assert (source.form, source.tree.root) == ("voc", f"{tmp_path}/images")
    assert source.unread_beside(source.read()).endswith(f"not read: the folder itself (TFRecord) in {tmp_path}")
