from __future__ import annotations

import pytest

from singleshot.datasets import open_source
from singleshot.datasets.readers.unread_forms import UNREAD_FORMS, find_unread_form
from singleshot.datasets.tree import open_tree

KITTI = "Car 0.00 0 -1.57 599.41 156.40 629.75 189.25 2.85 2.63 12.34 0.47 1.49 69.44 -1.56\n"
FILES = {
    "train.tfrecord": (b"\x1f\x8b\x08", "compressed TFRecord; unpack it (gunzip)"),
    "train/cats.tfrecord-00000-of-00002": (b"\x10\0\0", "called like a TFRecord and is none, or damaged"),
    "labels.csv": ("version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS; fetch what it stands for"),
    "cats.vott": ("{}", "a VoTT project; export it from VoTT as Pascal VOC"),
    "x-asset.json": ('{"asset": {"name": "a.png"}, "regions": []}', "VoTT's JSON"),
    "ds/ann/a.png.json": ('{"objects": [{"classTitle": "cat"}]}', "Supervisely's form; export the project as COCO"),
    "samples.json": ('{"samples": [{"x": {"_cls": "Detections"}}]}', "FiftyOne's own form; export it as COCO"),
    "v7.json": ('{"schema_ref": "https://darwin-public.s3/x", "item": {}}', "Darwin (V7); export the set as COCO"),
    "annotations/default.json": ('{"info": {}, "categories": {"label": {}}, "items": []}', "Datumaro's form"),
    "bdd.json": ('[{"name": "a.png", "labels": [{"box2d": {}}]}]', "BDD100K's form"),
    "export.ndjson": ('{"data_row": {}}', "Labelbox's NDJSON"),
    "output.manifest": ('{"source-ref": "s3://b/a.png"}', "a SageMaker manifest"),
    "data/train-00000.parquet": (b"PAR1", "a table of Hugging Face's datasets"),
    "digitStruct.mat": (b"MATLAB", "MATLAB's form"),
    "label_2/000001.txt": (KITTI, "KITTI's form"),
    "labelTxt/P0001.txt": ("imagesource:GoogleEarth\ngsd:0.1\n1.0 2 3 4 5 6.5 7 8 small-vehicle 0\n", "DOTA's form"),
    "labels/P0002.txt": ("1.0 2.0 3.0 4.0 5.0 6.0 7.0 8.0 plane 1\r\n", "DOTA's form; convert it to YOLO-OBB"),
    "project-1.csv": (
        'image,label,annotation_id\nx.png,"[{""rectanglelabels"": [""cat""]}]",1\n',
        "Label Studio's CSV",
    ),
    "train_ship_segmentations.csv": ("ImageId,EncodedPixels\na.jpg,1 3 10 5\n", "Kaggle's CSV of masks"),
    "gt_img_1.txt": ('\ufeff377,117,463,117,465,130,378,130,"Genaxis"\r\n', "ICDAR's form (corners, text)"),
    "wider_face_split/wider_face_train_bbx_gt.txt": (
        "0--Parade/0_Parade_1.jpg\n1\n449 330 122 149 0 0 0 0 0 0\n",
        "WIDER FACE's form",
    ),
    "Labels/001/1.txt": ("2\n20 30 120 130\n40 50 80 90\n", "BBox-Label-Tool's form, without images of its names"),
    "Labels/2.txt": ("1\r\n20 30 120 130 cat\r\n", "BBox-Label-Tool's form"),
    "ground-truth/1.txt": (
        "cat 20 30 120 130\nwine glass 4.5 5 8 9\n",
        "rows of class x1 y1 x2 y2 (mAP, OIDv4), or class",
    ),
    "groundtruths/1.txt": ("cat 120 130 20 30\ndog 4 5 6 9", "rows of class x y width height; convert them to a CSV"),
    "labels/3.txt": ("0,11,10,28,28\n1,3,4.5,6,7\n", "rows of five numbers with commas, and no images of its names"),
    "labels/4.txt": (KITTI.replace("Car", "0319-0624"), "KITTI's form"),
    "gt/gt.txt": ("1,2,10.5,20,30,40,1,1,0.9\n", "tracks in MOTChallenge's form"),
}


@pytest.mark.parametrize("name", FILES)
def test_what_is_not_read_is_named_with_what_to_do(folder, name):
    data, about = FILES[name]
    said = find_unread_form(open_tree(folder({name: data})))
    assert said is not None
    assert said.startswith(f"{name} is {about}")
    assert "\n" not in said


def test_four_corners_of_text_are_no_tracks(folder):
    """CRAFT's, one file for each image."""
    said = find_unread_form(open_tree(folder({"found/res_a.txt": "57,69,390,69,390,357,57,357\n"})))
    assert "MOTChallenge" not in (said or "")


def test_every_row_has_a_case():
    said = {find for _, find in FILES.values()}
    assert all(any(row.about.startswith(one) for one in said) for row in UNREAD_FORMS)


def test_labels_in_the_usual_folder_that_are_no_yolo_are_named(folder, one_line):
    rows = "1.0 2.0 3.0 4.0 5.0 6.0 7.0 8.0 plane 1\n"
    root = folder({"labels/a.txt": rows, "labels/b.txt": ""}, ["images/a.png", "images/b.png"])
    assert "labels/a.txt is " in one_line(open_source, root)
    (root / "labels/a.txt").write_text("0 x\n")
    assert open_source(root).form == "yolo"  # which says what is wrong with it


def test_labels_of_whole_images_are_no_boxes(folder):
    said = find_unread_form(open_tree(folder({"train/_classes.csv": "filename, cat, dog\n"}, ["train/a.png"])))
    assert said == "train/_classes.csv has classes of whole images, without boxes; label the objects"


@pytest.mark.parametrize(
    "text",
    [
        '[{"pages": [{"image": "a.png", "frame": [{"x": 9, "y": 8, "w": 7, "h": 6}]}]}]',
        '{"frames": {"a.png": {"things": [{"rect": [1, 2, 3, 4]}]}}}',
        '[{"file": "a.png", "left": 1, "top": 2.5, "right": 3, "bottom": 4}]',
    ],
)
def test_boxes_in_json_of_another_form_are_named(folder, one_line, text):
    root = folder({"notes/own.json": text, "package.json": '{"width": 3}'}, ["images/ja/a.png"])
    assert "notes/own.json has boxes in a form that is not read; write them as a table" in one_line(open_source, root)
    (root / "notes/own.json").write_text('{"width": 64, "height": 48}')
    assert "boxes in a form" not in one_line(open_source, root)


def test_images_alone(folder):
    said = str(find_unread_form(open_tree(folder({"requirements.txt": "x", "package.json": "{}"}, ["a.png"]))))
    assert "there are images and no labels; draw boxes" in said
    assert "singleshot label FOLDER --format voc --classes" in said
    root = folder({}, ["cat/a.png", "dog/b.png"])
    (root / "a.png").unlink()
    assert "there are images in 2 folders and no labels" in str(find_unread_form(open_tree(root)))


def test_labels_behind_many_other_texts_are_named(folder):
    files = {f"training/calib/{i:06d}.txt": "P0: 7.0e+02 0.0e+00\n" for i in range(20)}
    said = find_unread_form(open_tree(folder({**files, "training/label_2/000000.txt": KITTI})))
    assert said is not None
    assert said.startswith(
        "training/label_2/000000.txt is KITTI's form without images of its names; put them into image_2"
    )


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("captions_val2017.json", "captions"),
        ("panoptic_train.json", "areas"),
        ("stuff_val.json", "areas"),
        ("image_info_test2017.json", "images without labels"),
    ],
)
def test_other_tasks_of_coco_are_named(folder, one_line, name, what):
    root = folder({f"annotations/{name}": '{"images": [{"id": 1}], "annotations": [{"id": 1}], "categories": []}'})
    said = one_line(open_source, root)
    assert said.endswith(f"annotations/{name} holds {what}; add instances_*.json, which has the boxes")


def test_a_table_that_is_no_csv_of_boxes_says_its_columns(folder, one_line):
    root = folder({"data/x.csv": "image,kind,score\na.png,cat,1\n"}, ["data/a.png"])
    said = one_line(open_source, root)
    assert "data/x.csv starts with 'image,kind,score'; want a header like file,xmin,ymin,xmax,ymax,class" in said
    assert len(said) < 500
    (root / "data/x.csv").write_text("epoch,train/box_loss,lr\n1,2,3\n")
    assert "data/x.csv" not in one_line(open_source, root)


def test_a_second_labelling_of_the_same_images_is_reported(folder, findings, voc_xml):
    xml = voc_xml([("cat", (2, 2, 8, 8))])
    root = folder({"annotations/a.xml": xml, "checked/a.xml": xml, "other/b.xml": xml, "notes/a.txt": "x"}, ["a.png"])
    (one,) = findings(root)["labels-unread"]
    assert one.message == "the same images have other labels, which are not read: checked (Pascal VOC)"


def test_a_folder_whose_name_ends_another_one_is_reported_too(folder, voc_xml):
    xml = voc_xml([("cat", (2, 2, 8, 8))])
    source = open_source(folder({"annotations/a.xml": xml, "ed/a.xml": xml}, ["images/a.png"]))
    raw = source.read()
    assert source.second_labels(raw, "also there and not read: checked (CSV, 1)").endswith("not read: ed (Pascal VOC)")
    assert not source.second_labels(raw, "also there and not read: ed (CSV, 1)")


def test_labels_of_another_form_that_are_of_no_use_are_reported_too(folder, findings, voc_xml):
    xml = voc_xml([("cat", (2, 2, 8, 8))]).replace("bndbox", "bnbox")
    root = folder({"images/a.xml": xml, "images_text/a.txt": "0 0.5 0.5 0.1 0.1\n"}, ["images/a.png"])
    (one,) = findings(root)["labels-unread"]
    assert one.message == "the same images have other labels, which are not read: images (Pascal VOC)"


def test_what_nobody_knows_and_what_leads_out(folder, tmp_path):
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "x.tfrecord").write_bytes(b"secret")
    root = folder({"notes.txt": "hello\n", "x.json": "{}", ".x.vott": "{}"})
    (root / "away").symlink_to(tmp_path / "away")
    (root / "y.tfrecord").symlink_to(tmp_path / "away" / "x.tfrecord")
    assert find_unread_form(open_tree(root)) is None


def test_labels_of_another_split_in_a_form_that_is_not_read_are_reported(folder, findings):
    files = {
        "train/labels/a.txt": "0 0.5 0.5 0.1 0.1\n",
        "classes.txt": "cat\n",
        "test/labels/b.txt": "1,2,3,4,5,6,7,8,cat\n",
    }
    root = folder(files, ["train/images/a.png", "test/images/b.png", "test/images/c.png"])
    (one,) = findings(root)["labels-unread"]
    assert one.message.startswith(
        "read as YOLO; there are labels of other images too: test/labels/b.txt is ICDAR's form"
    )
    (root / "test/labels/b.txt").write_text("a note\n")
    assert "labels-unread" not in findings(root)
    (root / "test/labels/b.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    assert "labels-unread" not in findings(root)


def test_labels_of_other_images_in_a_folder_of_their_own_are_reported(folder, findings, voc_xml):
    xml = voc_xml([("cat", (1, 1, 5, 5))])
    root = folder({"annotations/a.xml": xml, "label/b.xml": xml}, ["image/a.png", "image/b.png"])
    (one,) = findings(root)["labels-unread"]
    assert one.message.endswith("other images too: label/b.xml is Pascal VOC's; put it into the folder of the others")
    (root / "image/b.png").unlink()
    assert "labels-unread" not in findings(root)
