"""Words of other detectors' command lines, and wrong values: one line that says what to type instead."""

from __future__ import annotations

import pytest

CASES = {
    "predict x": "predict: no such command; singleshot detect does that",
    "val x": "singleshot eval does that",
    "evaluate x": "singleshot eval does that",
    "fit x": "singleshot train does that",
    "trian x": "Did you mean 'train'",
    "detect m.onnx a.jpg --conf 0.3": "--conf: no such option; use --score-min",
    "detect m.onnx a.jpg --conf=0.3": "use --score-min",
    "detect m.onnx --source a.jpg": "give it without an option: MODEL SOURCES",
    "detect m.onnx a.jpg --project x": "use --out",
    "eval m.onnx data --iou 0.5": "use --nms-iou",
    "eval --weights m.onnx data": "give it without an option: MODEL DATA",
    "train data --batch-size 4": "use --batch",
    "train data --imgsz 320": "the input's size belongs to the model",
    "train data --weights a.pth": "use --start",
    "train --data data": "give it without an option: DATA",
    "train data --lr0 0.1": "use --lr",
    "train data --epoch 3": "--epochs",
    "train data --epochs many": "Invalid value for '--epochs': want a whole number",
    "train data --lr much": "Invalid value for '--lr': want a number",
    "train /no/such/folder": "/no/such/folder: no such file or folder",
    "eval m.safetensors /no/such/folder": "no such file",
    "data check /no/such/folder": "/no/such/folder: no such file or folder",
    "data info /no/such/folder": "/no/such/folder: no such file or folder",
    "train SCENES --model ssd300": "did you mean ssd300-",
    "train SCENES --model ssd320-mimi": "did you mean ssd320-mini?",
    "detect SCENES SCENES/JPEGImages": "want a model file, and after it the images",
    "eval SCENES m.safetensors": "want a model file",
    "export RUN --out x.onnx": "RUN/best.safetensors",
    "export m.safetensors --format onnx": "use --to",
}


@pytest.mark.parametrize("line", CASES)
def test_a_mistake_says_what_to_do(refused, scenes, trained, tmp_path, line: str) -> None:
    def fill(text: str) -> str:
        return text.replace("SCENES", str(scenes)).replace("RUN", str(trained))

    said = refused(*fill(line).split(), cwd=tmp_path)
    assert fill(CASES[line]) in said
    assert "Input should be" not in said
    assert not list(tmp_path.iterdir())
