"""Words of other detectors' command lines, and wrong values: one line that says what to type instead."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from singleshot import cli
from singleshot.errors import ConfigError
from singleshot.model_info import ModelInfo
from singleshot.models import build
from singleshot.training.failures import StoppedAtOnceError
from singleshot.weights.checkpoint import save_checkpoint

# Capitals stand for what lies in the folder of `fill`.
CASES = {
    # commands
    "predict x": "predict: no such command; singleshot detect does that",
    "val x": "singleshot eval does that",
    "evaluate x": "singleshot eval does that",
    "fit x": "singleshot train does that",
    "trian x": "Did you mean 'train'",
    "benchmark x": "singleshot bench does that",
    "data chek SCENES": "Did you mean 'check'",
    "priors shw": "Did you mean 'show'",
    "priors fti SCENES": "Did you mean 'fit'",
    "data": "which command? want one of check, ",
    "data download voc2007": "singleshot data fetch does that",
    "info SCENES": "singleshot data info does that",
    "dance": "want one of train, eval, detect",
    # options of others
    "detect m.onnx a.jpg --conf 0.3": "--conf: no such option; use --score-min",
    "detect m.onnx a.jpg --conf=0.3": "use --score-min",
    "detect m.onnx --source a.jpg": "give it without an option: MODEL SOURCES",
    "detect m.onnx a.jpg --project x": "use --out",
    "detect m.onnx a.jpg -o x": "use --out",
    "detect m.onnx a.jpg --save-txt": "results are always written, see --format",
    "detect m.onnx a.jpg --show": "pictures are always written",
    "detect m.onnx a.jpg --iou 0.5": "a rule decides that, see --rule",
    "eval m.onnx data --iou 0.5": "use --nms-iou",
    "eval --weights m.onnx data": "give it without an option: MODEL DATA",
    "eval m.onnx data --task test": "use --split",
    "train data --batch-size 4": "use --batch",
    "train data --imgsz 320": "use --size",
    "train data --weights a.pth": "use --start",
    "train --data data": "give it without an option: DATA",
    "train data --lr0 0.1": "use --lr",
    "train data --epoch 3": "--epochs",
    "train data --name mine": "use --out",
    "train data --gpus 0": "use --device",
    "train data --num-classes 3": "the labels say the classes; --classes takes some of them",
    "train data --optimizer adam": "a recipe decides that, see --recipe",
    "train data --patience 5": "best.safetensors is the best",
    "export m.safetensors --format onnx": "use --to",
    "export m.safetensors --dynamic": "the file takes any batch",
    "data check SCENES --repair": "use --fix",
    # values
    "train data --epochs many": "Invalid value for '--epochs': want a whole number",
    "train data --epochs 0": "Invalid value for '--epochs': want at least 1",
    "train data --epochs": "--epochs: want a value after it",
    "train data --lr much": "Invalid value for '--lr': want a number",
    "train SCENES --lr -1": "lr: want greater than 0",
    "train SCENES --time soon": "want a time such as 90s, 20m or 1h30m",
    "train data --time 20 minutes": "minutes: one word too many; want DATA, and what has spaces in it in quotes",
    "train SCENES --time 20m --epochs 3": "exclude each other",
    "train SCENES --precision fp16": "want one of auto, float32, bfloat16, float16",
    "train SCENES --device gpu": "want cpu, cuda or cuda:N",
    "train SCENES --resize crop": "want one of stretch, letterbox",
    "train SCENES --recipe papr": "did you mean paper?",
    "train SCENES --recipe ODD.toml": "learning_rate: no such key",
    "train SCENES --split trian": "no split 'trian' (there are: test, train, trainval, val)",
    "detect BEST IMAGE --score-min 40": "want a number from 0 to 1",
    "detect BEST IMAGE --format pascal": "'pascal': want one of 'json', 'coco', 'coco-labels', 'voc', 'yolo', 'csv'",
    "detect BEST IMAGE --tile 640x640": "want pixels a side, or with the overlap as in 640:0.25",
    "detect BEST IMAGE --engine onnx": "want one of openvino, onnxruntime, litert, torch, auto",
    "detect BEST IMAGE --rule cafe": "did you mean caffe?",
    "eval BEST SCENES --metric map": "want one of voc07, voc, coco",
    "export BEST --to torchscript": "torchscript",
    "data convert SCENES out --to pascal": "pascal",
    "data shard SCENES out --shard-size big": "want a size such as 100M or 2G",
    "data fetch voc": "voc2007",
    "data check SCENES --most -1": "want at least 0",
    # names
    "train SCENES --model ssd300": "did you mean ssd300-",
    "train SCENES --model ssd320-mimi": "did you mean ssd320-mini?",
    "train SCENES ssd300-vgg16": "a model is named by --model ssd300-vgg16",
    "train SCENES BEST": "a checkpoint to start from is named by --start BEST",
    "train SCENES --start ssd320-mini": "no such file; a network's name is for train --model",
    "train SCENES --backbone-weights coco": "want auto, imagenet, none or a file",
    "detect BEST IMAGE --classes satr": "did you mean star?",
    "data info SCENES --model ssd": "ssd300-vgg16",
    "priors show ssd": "ssd300",
    "priors fit SCENES --imgsz 512": "use --size",
    # places
    "train /no/such/folder": "/no/such/folder: no such file or folder",
    "train IMAGE": "IMAGE: is an image, not a data set",
    "train BEST": "BEST: is a model, not a data set",
    "train EMPTY": "EMPTY: empty folder",
    "train SCENES/JPEGImages": "there are images and no labels",
    "train SCENES --out NOTES.txt": "is there already; give another --out",
    "train --resume --out EMPTY": "--resume wants a folder that train wrote",
    "train SCENES --resume": "which run? Give its folder with --out",
    "eval m.safetensors /no/such/folder": "no such file",
    "eval BEST IMAGE": "IMAGE: is an image, not a data set",
    "eval SCENES m.safetensors": "want a model file",
    "detect SCENES SCENES/JPEGImages": "want a model file, and after it the images",
    "detect IMAGE BEST": "IMAGE: is an image; want a model file, and after it the images",
    "detect BEST": "Missing argument 'SOURCE'",
    "detect BEST EMPTY": "no image in this folder",
    "detect BEST NOTES.txt": "nothing that anybody reads: no such image file",  # a list of paths
    "detect BEST NOTHING.jpg": "empty file",
    "detect BEST IMAGE --out result.json": "want a folder; the results file goes into it",
    "detect NOTHING.onnx IMAGE": "an empty file; export it again",
    "detect NOTES.txt IMAGE": "not a checkpoint that is known",
    "export RUN --out x.onnx": "RUN/best.safetensors",
    "import IMAGE": "is an image; want a model file",
    "import nope.pth": "nope.pth: no such file",
    "bench nope.onnx": "nope.onnx: no such file",
    "data check /no/such/folder": "/no/such/folder: no such file or folder",
    "data check SCENES --out x": "give --fix too",
    "data info /no/such/folder": "/no/such/folder: no such file or folder",
    "data convert SCENES EMPTY/x/y --to": "--to: want a value after it",
    "demo /no/such/folder": "/no/such/folder: no such file or folder",
}


@pytest.fixture(scope="module")
def places(scenes: Path, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("places")
    (folder / "EMPTY").mkdir()
    (folder / "NOTES.txt").write_text("nothing that anybody reads\n")
    for name in ("NOTHING.jpg", "NOTHING.onnx"):
        (folder / name).write_bytes(b"")
    (folder / "ODD.toml").write_text("learning_rate = 3\n")
    image = shutil.copy(next((scenes / "JPEGImages").glob("*.jpg")), folder / "IMAGE.jpg")
    model = build("ssd320-mini", 4)
    info = ModelInfo.of(model, ("cross", "leaf", "ring", "star"))
    save_checkpoint(folder / "RUN" / "best.safetensors", model.state_dict(), info)
    own = {path.name: path for path in folder.iterdir()}
    return {**own, "SCENES": scenes, "BEST": folder / "RUN" / "best.safetensors", "IMAGE": Path(image)}


@pytest.mark.parametrize("line", CASES)
def test_a_mistake_says_what_to_do(refused, places: dict[str, Path], tmp_path: Path, line: str) -> None:
    def fill(text: str) -> str:
        return re.sub("|".join(sorted(places, key=len, reverse=True)), lambda found: str(places[found[0]]), text)

    said = refused(*shlex.split(fill(line)), cwd=tmp_path)
    assert fill(CASES[line]) in said
    assert not [word for word in ("Input should be", "Value error", "Extra inputs") if word in said]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("rank", "lines"), [(0, 1), (1, 0)])
def test_a_command_whose_work_torchrun_does_not_share_is_refused(run, monkeypatch, rank: int, lines: int) -> None:
    torchrun = {"TORCHELASTIC_RUN_ID": "a", "MASTER_ADDR": "localhost", "MASTER_PORT": "1", "WORLD_SIZE": "2"}
    for name, value in {**torchrun, "RANK": str(rank), "LOCAL_RANK": str(rank)}.items():
        monkeypatch.setenv(name, value)
    done = run("eval", "a.safetensors", "data")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", lines)
    assert not lines or "torchrun's 2 processes (train's is); start it alone" in done.stderr


@pytest.mark.parametrize(("kind", "code"), [(ConfigError, 2), (StoppedAtOnceError, 130)], ids=["wrong", "stopped"])
def test_an_error_ends_a_command_with_its_own_exit_code(kind, code: int, monkeypatch, capsys) -> None:
    def fail(**_: object) -> None:
        raise kind("a line")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == code
    assert capsys.readouterr().err == "singleshot: a line\n"
