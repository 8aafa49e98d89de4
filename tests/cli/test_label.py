"""What `singleshot label` refuses at its start, in one line; tests/serve/test_label_http.py starts it."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

import pytest

from singleshot.cli import main


@pytest.fixture
def stage(tmp_path: Path, write_image, monkeypatch) -> Path:
    """csv/ and yolo/ with labels, photos/ without."""
    for folder in ("csv", "photos", "yolo"):
        write_image(tmp_path / folder / "a.png", 64, 48)
    (tmp_path / "csv/labels.csv").write_text("filename,xmin,ymin,xmax,ymax,class\na.png,1,2,30,40,cat\n")
    (tmp_path / "yolo/a.txt").write_text("0 .5 .5 .2 .2\n")
    (tmp_path / "yolo/classes.txt").write_text("cat\n")
    write_image(tmp_path / "held/a.png", 64, 48)
    (tmp_path / "held/a.txt").write_text("0 .5 .5 .2 .2\n")
    (tmp_path / "held/classes.txt").write_text("cat\n")
    (tmp_path / "held/.singleshot-label").touch()  # a file where the folder would be
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("classes.txt", "cat\n")
    write_image(tmp_path / "results/a.png", 64, 48)
    about = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "results/image_info.json").write_text(json.dumps(about))
    row = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}
    (tmp_path / "results/detections.json").write_text(json.dumps([row]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("csv", "singleshot data convert csv DIR --to voc"),
        ("photos", "no data set"),
        ("photos --format voc", "a new set needs its classes"),
        ("photos --format coco", "want one of voc, yolo"),
        ("yolo --format voc", "holds YOLO labels already"),
        ("yolo --engine openvino", "goes with --model"),
        ("yolo --model nothing.onnx", "nothing.onnx"),
        ("yolo --out photos", "not empty"),
        ("yolo --out yolo/copy", "lies in yolo"),
        ("nothing", "no such file or folder"),
        ("https://example.org/data", "on this machine alone"),
        ("set.zip", "unpack it"),
        ("results/detections.json", "a list of results"),
        ("held", "give --out DIR to label a copy"),
        ("yolo --port 70000", "--port 70000"),
        ("yolo --host 203.0.113.9", "cannot listen on 203.0.113.9"),
    ],
)
def test_mistakes(stage: Path, monkeypatch, capsys, words: str, says: str) -> None:
    before = {path: path.read_bytes() for path in stage.rglob("*") if path.is_file()}
    monkeypatch.setattr(sys, "argv", ["singleshot", "label", "--no-browser", *words.split()])
    with pytest.raises(SystemExit) as caught:
        main()
    written = capsys.readouterr()
    assert caught.value.code == 2
    assert written.out == ""
    assert says in written.err
    assert written.err.count("\n") == 1
    assert {path: path.read_bytes() for path in stage.rglob("*") if path.is_file()} == before
