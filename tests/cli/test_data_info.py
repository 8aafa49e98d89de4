"""`singleshot data info` as the real command."""

from __future__ import annotations

import json
import shutil

import pytest

from singleshot.cli.data_info import _advice, _encodable, collect, verdict
from singleshot.datasets.statistics import Cover, Part
from singleshot.errors import DataError
from singleshot.prior_coverage import REASONS
from singleshot.text_table import align_columns


def test_report(run, scenes, tmp_path):
    done = run("data", "info", scenes, "--out", tmp_path / "report")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    assert "64 images" in f"{lines[0]} {lines[1]}"
    for word in ("star", "leaf", "ring", "cross", "train", "singleshot-n *", "ssd512-vgg16-bn", "█", "median"):
        assert word in done.stdout, word
    assert "\x1b" not in done.stdout
    assert sorted(p.name for p in (tmp_path / "report").iterdir()) == ["data-info.json", "data-info.png"]
    assert json.loads((tmp_path / "report" / "data-info.json").read_text())["total"]["images"] == 64
    assert "written: " in done.stderr


def test_json_of_one_split_and_another_model(run, scenes, tmp_path):
    picture = tmp_path / "picture.png"
    done = run("data", "info", scenes, "--split", "val", "--model", "ssd300-vgg16", "--json", "--out", picture, "-q")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert [split["name"] for split in report["splits"]] == ["val"]
    assert report["total"]["images"] == 8
    assert (report["model"], report["input_px"]) == ("ssd300-vgg16", 300)
    assert len({name for cover in report["covers"] for name in cover["models"]}) >= 8
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_bad_labels_are_counted_and_named(run, scenes, tmp_path):
    folder = tmp_path / "bad"
    shutil.copytree(scenes, folder)
    (first, second, *_) = sorted((folder / "Annotations").iterdir())
    first.write_text("no xml")
    box = "<xmin>9</xmin><ymin>9</ymin><xmax>4</xmax><ymax>30</ymax>"
    size = "<size><width>320</width><height>240</height></size>"
    flat = f"<object><name>star</name><bndbox>{box}</bndbox></object>"
    second.write_text(f"<annotation>{size}{flat}</annotation>")
    done = run("data", "info", folder)
    assert done.returncode == 0, done.stderr
    assert "2 problems: " in done.stdout
    assert "a label file that cannot be read" in done.stdout
    assert f"singleshot data check {folder}" in " ".join(done.stdout.split())  # lines are broken at 80 columns


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model", "nothing"], "ssd320-mini"),
        (["--split", "nothing"], "there are: "),
        (["--out", "picture.jpg"], ".png"),
    ],
)
def test_refused(refused, scenes, words, told):
    assert told in refused("data", "info", scenes, *words)


def test_refuses_what_is_no_data(refused, tmp_path):
    assert "no such file or folder" in refused("data", "info", tmp_path / "absent")
    assert "empty folder" in refused("data", "info", tmp_path)


def test_help_has_an_example(run):
    done = run("data", "info", "--help")
    assert done.returncode == 0
    assert "Example: singleshot data info" in done.stdout


def cover(name: str, input_px: int, count: int, matched: float) -> Cover:
    all_ = Part("all", 100, matched, 0.6)
    return Cover((name,), name, count, input_px, all_, Part("difficult", 0, None, None), (), (), (), {}, 20, 300)


def test_the_verdict_takes_the_cheapest_of_the_best():
    small, wide, big = cover("small", 300, 3000, 0.80), cover("wide", 300, 9000, 0.948), cover("big", 512, 24000, 0.95)
    assert verdict("small", small, (big, wide, small)) == (
        "wide would match 14.8 points more (94.8% instead of 80.0%)."
    )
    assert verdict("wide", wide, (big, wide, small)) == "No preset matches clearly more objects than wide."
    assert verdict("small", small, (big, small)).endswith("from 2.9 times the pixels.")


def test_tables_line_up_with_wide_letters():
    lines = align_columns([["class", "n"], ["血小板", "10"], ["RBC", "7"]])
    assert lines == ["class    n", "血小板  10", "RBC      7"]


def test_text_for_a_terminal_that_knows_ascii_only():
    assert _encodable("a ██▍ 血", "ascii") == "a ## ?"
    assert _encodable("a ██▍ 血", "utf-8") == "a ██▍ 血"


@pytest.mark.parametrize("reason", REASONS)
def test_advice_sends_nobody_to_a_preset_that_is_no_better(reason):
    told = _advice(reason, cover("small", 300, 3000, 0.8), better=False, shape=1.0)
    assert "named above" not in told
    assert told.startswith("Between" if reason == "between" else f"Too {reason}")


def test_where_there_is_nothing_it_says_so(tmp_path, write_voc, write_coco, voc_xml, coco):
    """In every way in which there may be nothing; never a table of noughts."""
    write_coco(tmp_path / "none" / "train.json", coco(images=[]))
    write_coco(tmp_path / "unlabelled" / "train.json", coco())
    broken = {"id": 1, "image_id": 20, "category_id": 7, "bbox": [1, 2, 0, 4], "iscrowd": 0}
    write_coco(tmp_path / "broken" / "train.json", coco([broken]))
    xmls = {"a": voc_xml([("cat", (1, 1, 9, 9))]), "b": voc_xml()}
    voc = write_voc(tmp_path / "voc", xmls, {"train": ["a"], "val": ["b"], "test": []})
    cases = {
        (tmp_path / "none", None): "no image",
        (tmp_path / "unlabelled", None): "no object in 2 images; there is nothing to describe",
        (tmp_path / "broken", None): "no object in 2 images that can be used (1 problem; list them: singleshot data",
        (voc, "val"): "split val: no object in 1 image; there is nothing to describe",
        (voc, "test"): "split 'test' has no images",
    }
    for (path, split), words in cases.items():
        with pytest.raises(DataError) as caught:
            collect(str(path), "ssd320-mini", split, quiet=True)
        assert words in str(caught.value), path
        assert "\n" not in str(caught.value)
    found, _ = collect(str(voc), "ssd320-mini", None, quiet=True)
    assert found.total.objects == 1


def test_nothing_is_exit_code_2(refused, tmp_path, write_coco, coco):
    path = write_coco(tmp_path / "set" / "train.json", coco())
    said = refused("data", "info", path.parent, "--out", tmp_path / "out.png")
    assert "there is nothing to describe" in said
    assert not (tmp_path / "out.png").exists()
