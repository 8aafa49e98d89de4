"""Result files read back by other readers than ours, and never half written."""

from __future__ import annotations

import csv
import io
import json
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from singleshot.errors import ConfigError
from singleshot.runtime import Frame
from singleshot.runtime.picture_writer import PictureWriter
from singleshot.runtime.result_files import CocoWriter, CsvWriter, JsonWriter, open_writer
from singleshot.runtime.video_writer import usable_codec

CLASSES = ("cat", "dog")


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_json(found, tmp_path):
    writer, path = open_writer("json", tmp_path, "m.onnx", CLASSES)
    with writer:
        writer.add(found("a\n\udcff.jpg"))
        writer.add(found()[[]])
        assert not path.exists()
    read = json.loads(path.read_text())
    assert (read["model"], read["classes"], read["complete"]) == ("m.onnx", ["cat", "dog"], True)
    assert [one["image"] for one in read["images"]] == ["a\n\udcff.jpg", "photos/000012.jpg"]
    assert read["images"][0]["detections"][0] == {
        "box": [10.25, 20.5, 110.25, 80.5],
        "score": 0.875,
        "label": 1,
        "name": "dog",
    }
    assert read["images"][1]["detections"] == []
    assert files(tmp_path) == ["results.json"]


def test_json_to_a_stream_as_it_goes(found):
    stream = io.StringIO()
    writer = JsonWriter(stream, "m", CLASSES)
    writer.add(found())
    assert '"score": 0.875' in stream.getvalue()
    writer.close(complete=False)
    writer.close()
    assert json.loads(stream.getvalue())["complete"] is False


@pytest.mark.parametrize("form", ["json", "coco", "coco-labels"])
def test_nothing_found_is_still_valid(tmp_path, form):
    writer, path = open_writer(form, tmp_path, "m", CLASSES)
    writer.close()
    read = json.loads(path.read_text())
    assert read == [] if form == "coco" else read["images"] == []


def test_coco(found, tmp_path):
    with CocoWriter(tmp_path / "r.json") as writer:
        writer.add(found("val/000000000139.jpg"))
        writer.add(found()[[]])
        writer.add(found("street.jpg"))
    read = json.loads((tmp_path / "r.json").read_text())
    assert [row["image_id"] for row in read] == [139, 139, "street.jpg", "street.jpg"]
    assert read[0] == {
        "image_id": 139,
        "category_id": 2,
        "bbox": [10.25, 20.5, 100.0, 60.0],
        "score": 0.875,
    }


def test_csv(found, tmp_path):
    with CsvWriter(tmp_path / "r.csv") as writer:
        writer.add(found('odd,"name"\n.jpg'))
        writer.add(found("bad\udcff.jpg"))
    with (tmp_path / "r.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == ['odd,"name"\n.jpg'] * 2 + ["bad\\udcff.jpg"] * 2
    assert (rows[0]["name"], float(rows[0]["score"]), float(rows[0]["x1"])) == ("dog", 0.875, 110.25)


def test_voc(found, tmp_path):
    writer, folder = open_writer("voc", tmp_path, "m", CLASSES)
    with writer:
        writer.add(found("../../out/of/here.jpg"))
        writer.add(found("other/here.png"))
        writer.add(found("bell\x07.jpg"))
    assert files(tmp_path) == ["annotations/bell_.xml", "annotations/here-2.xml", "annotations/here.xml"]
    root = ElementTree.parse(folder / "here.xml").getroot()
    assert root.findtext("filename") == "here.jpg"
    assert (root.findtext("size/width"), root.findtext("size/height")) == ("200", "100")
    boxes = [[int(value.text) for value in entry.find("bndbox")] for entry in root.iter("object")]
    # The small cat covers pixels 0..7 by 0..3: 1 1 8 4 when counted from 1.
    assert boxes == [[11, 21, 110, 80], [1, 1, 8, 4]]
    assert [entry.findtext("name") for entry in root.iter("object")] == ["dog", "cat"]


def test_voc_box_thinner_than_a_pixel_stays_inside(found, tmp_path):
    one = found()[0]
    one.boxes[0] = [199.8, 99.9, 200.0, 100.0]
    writer, folder = open_writer("voc", tmp_path, "m", CLASSES)
    writer.add(one)
    root = ElementTree.parse(folder / "000012.xml").getroot()
    assert [int(value.text) for value in root.iter("bndbox").__next__()] == [200, 100, 200, 100]


def test_yolo(found, tmp_path):
    writer, folder = open_writer("yolo", tmp_path, "m", ("cat", "big\ndog"))
    with writer:
        writer.add(found())
        writer.add(found("empty.jpg")[[]])
    assert (tmp_path / "classes.txt").read_text() == "cat\nbig\\ndog\n"
    label, cx, cy, width, height, score = map(float, (folder / "000012.txt").read_text().split("\n")[0].split())
    assert (label, score) == (1, 0.875)
    corners = [(cx - width / 2) * 200, (cy - height / 2) * 100, (cx + width / 2) * 200, (cy + height / 2) * 100]
    assert corners == pytest.approx([10.25, 20.5, 110.25, 80.5], abs=1e-3)
    assert (folder / "empty.txt").read_text() == ""


@pytest.mark.parametrize("form", ["json", "coco", "csv"])
def test_an_error_leaves_nothing_and_ctrl_c_keeps_what_is_finished(found, tmp_path, form):
    writer, path = open_writer(form, tmp_path, "m", CLASSES)
    with pytest.raises(RuntimeError), writer:
        writer.add(found())
        raise RuntimeError
    assert files(tmp_path) == []
    writer, path = open_writer(form, tmp_path, "m", CLASSES)
    with pytest.raises(KeyboardInterrupt), writer:
        writer.add(found())
        raise KeyboardInterrupt
    assert files(tmp_path) == [*(["image_info.json"] if form == "coco" else []), path.name]
    if form != "csv":
        read = json.loads(path.read_text())
        assert form == "coco" or read["complete"] is False


def test_unknown_format_and_unwritable_folder(tmp_path):
    with pytest.raises(ConfigError, match="want one of json, coco"):
        open_writer("xml", tmp_path, "m", CLASSES)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cannot write there"):
        open_writer("json", tmp_path / "file", "m", CLASSES)


def test_pictures_keep_png_and_stay_in_the_folder(found, tmp_path):
    image = np.full((100, 200, 3), 90, np.uint8)
    writer = PictureWriter(tmp_path / "out")
    for name in ("../a.png", "b.bmp", "c/b.jpeg"):
        writer.add(Frame(name, image), found(name))
    writer.close()
    assert files(tmp_path) == ["out/a.png", "out/b-2.jpg", "out/b.jpg"]
    drawn = cv2.cvtColor(cv2.imread(str(tmp_path / "out/a.png")), cv2.COLOR_BGR2RGB)
    assert np.array_equal(drawn, found().draw(image))


def test_videos_are_written_at_the_rate_of_their_source(found, tmp_path):
    writer = PictureWriter(tmp_path)
    for source, count in (("x/clip.avi", 7), ("y/clip.mov", 3)):
        for i in range(count):
            image = np.full((101, 201, 3), 20 * i, np.uint8)
            if i == 2:
                image = image[:50, :60]  # a stream may change its size
            frame = Frame(f"{source}#{i}", image, kind="video", source=source, frame=i, fps=12.5)
            writer.add(frame, found()[[]])
    writer.add(Frame("a.jpg", np.zeros((9, 9, 3), np.uint8)), found()[[]])
    suffix = usable_codec(201, 101, 12.5).suffix
    assert files(tmp_path) == ["a.jpg", f"clip-2{suffix}", f"clip{suffix}"]
    for name, count in ((f"clip{suffix}", 7), (f"clip-2{suffix}", 3)):
        video = cv2.VideoCapture(str(tmp_path / name))
        assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)
        seen = 0
        while video.read()[0]:
            seen += 1
        assert seen == count


def test_coco_labels_are_what_annotation_programs_read(found, tmp_path):
    """Its own COCO API reads it, and so does a data set of ours, with the numbers of tracked objects."""
    from dataclasses import replace

    from pycocotools.coco import COCO

    from singleshot.datasets import open_dataset

    writer, path = open_writer("coco-labels", tmp_path / "found", "m.onnx", CLASSES)
    with writer:
        writer.add(found("photos/12.jpg"))
        writer.add(found("photos/b\n.jpg")[[]])
        writer.add(replace(found("photos/c.jpg"), track_ids=np.array([3, 1])))
        assert not path.exists()
    assert path == tmp_path / "found/annotations/instances_default.json"
    read = json.loads(path.read_text())
    assert [one["id"] for one in read["images"]] == [1, 2, 3]
    assert read["images"][2] == {"id": 3, "file_name": "photos/c.jpg", "width": 200, "height": 100}
    assert read["annotations"][0] == {
        "id": 1, "image_id": 1, "category_id": 2, "bbox": [10.25, 20.5, 100.0, 60.0],
        "score": 0.875, "area": 6000.0, "iscrowd": 0,
    }  # fmt: skip
    assert [one.get("track_id") for one in read["annotations"]] == [None, None, 3, 1]
    theirs = COCO(str(path))
    assert len(theirs.getAnnIds(imgIds=[1])) == 2
    assert theirs.loadCats([1, 2]) == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    for name in ("12", "b\n", "c"):
        target = tmp_path / f"found/images/photos/{name}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target), np.zeros((100, 200, 3), np.uint8))
    assert sum(len(open_dataset(tmp_path / "found", split).boxes_px) for split in ("trainval", "test")) == 4


def test_coco_labels_that_were_stopped_or_discarded(found, tmp_path):
    for form in ("stopped", "discarded"):
        writer, path = open_writer("coco-labels", tmp_path / form, "m", CLASSES)
        writer.add(found("a.jpg"))
        if form == "stopped":
            writer.close(complete=False)
            writer.close()
            assert len(json.loads(path.read_text())["annotations"]) == 2
        else:
            writer.discard()
            assert not path.exists()
