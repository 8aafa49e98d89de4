from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from singleshot.datasets import available_splits, open_dataset, open_source


@pytest.fixture
def voc_set(voc_xml, write_voc):
    def make(root: Path) -> Path:
        return write_voc(root, {"a": voc_xml([("cat", (1, 1, 5, 5))])}, {"train": ["a"]})

    return make


def test_both_kinds_are_told_apart_and_str_paths_do(tmp_path, voc_set, coco, write_coco):
    voc_set(tmp_path / "voc")
    write_coco(tmp_path / "coco" / "train.json", coco())
    assert open_dataset(str(tmp_path / "voc")).class_names == ("cat",)
    assert open_dataset(str(tmp_path / "coco")).class_names == ("dog", "cat")
    assert open_dataset(tmp_path / "coco" / "train.json").class_names == ("dog", "cat")
    assert available_splits(tmp_path / "coco" / "train.json") == ("train",)
    assert open_dataset(str(tmp_path / "voc")).source == f"{tmp_path / 'voc'} (train)"


def test_a_voc_folder_with_a_stray_json_is_voc(tmp_path, voc_set, write_coco):
    voc_set(tmp_path)
    write_coco(tmp_path / "package.json", {})
    assert open_dataset(tmp_path).class_names == ("cat",)


@pytest.mark.parametrize("below", ["VOCdevkit/VOC2007", "VOC2007"])
def test_a_nested_voc_folder_is_found_if_it_is_the_only_one(tmp_path, voc_set, below, one_line):
    voc_set(tmp_path / below)
    assert open_dataset(tmp_path).sample(0).image.shape == (48, 64, 3)
    assert available_splits(tmp_path) == ("train",)
    again = voc_set(tmp_path / below.replace("2007", "2012"))
    (again / "Annotations/a.xml").write_text((again / "Annotations/a.xml").read_text().replace("cat", "dog"))
    text = one_line(open_dataset, tmp_path)
    other = below.replace("2007", "2012")
    assert text == (
        f"{tmp_path}: sets below: {below} (Pascal VOC, 1), {other} (Pascal VOC, 1); name one, or join them with"
        " `singleshot data convert`"
    )


def test_what_is_no_data_set_says_what_was_wanted_and_what_is_there(tmp_path, write_image, one_line):
    write_image(tmp_path / "plain" / "x.png", 8, 8)
    write_image(tmp_path / "plain" / "y.jpg", 8, 8)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").touch()
    wanted = {
        "plain": "no data set of a known form (found 2 image files)",
        "empty": "empty folder",
        "none\nwhere": r"none\nwhere: no such file or folder",
        "file.txt": "file.txt: not a data set that is read here",
        "nul\0": r"nul\x00: ",
        "x" * 300: "is no path",
    }
    for name, message in wanted.items():
        for call in (open_dataset, available_splits):
            text = one_line(call, tmp_path / name)
            assert message in text
            of_forms = "no such file" not in text  # a wrong path is no question of forms
            assert ("Pascal VOC" in text) == of_forms or name == "plain"
            assert ("COCO" in text) == of_forms
            assert len(text) < 400 + 2 * len(str(tmp_path / name))


def test_a_voc_folder_without_annotations_is_said(tmp_path, one_line):
    (tmp_path / "Annotations").mkdir()
    assert "Annotations: no .xml file" in one_line(open_dataset, tmp_path)


def test_reading_data_imports_no_torch(tmp_path, voc_set):
    voc_set(tmp_path)
    code = f"import sys; from singleshot.datasets import open_dataset; open_dataset({str(tmp_path)!r}).sample(0); " + (
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_named_label_of_one_image_says_to_give_the_folder(tmp_path, voc_set, one_line):
    voc_set(tmp_path)
    label = tmp_path / "Annotations" / "a.xml"
    labelme = tmp_path / "a.json"
    labelme.write_text('{"version": "5", "shapes": [], "imagePath": "a.png"}')
    for path, form in ((label, "Pascal VOC"), (labelme, "LabelMe")):
        text = one_line(open_dataset, path)
        assert text == f"{path}: is {form}'s label of one image; give the folder of all of them"


def test_a_coco_file_with_a_key_of_labelme_is_coco(tmp_path, coco, write_coco):
    write_coco(tmp_path / "train.json", {"info": {"shapes": []}, **coco()})
    assert open_dataset(tmp_path / "train.json").class_names == ("dog", "cat")


def test_a_named_file_that_is_a_link_out_of_its_folder_is_refused(tmp_path, coco, write_coco, one_line) -> None:
    # The images of a file in data/ may lie in the folder above: the link must not lead there all the same.
    write_coco(tmp_path / "outside" / "secret.json", coco())
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.json").symlink_to("../outside/secret.json")
    assert "train.json: a link that leads out of " in one_line(open_source, tmp_path / "data" / "train.json")
    assert open_source(tmp_path / "data" / "train.json", follow_links=True).form == "coco"
