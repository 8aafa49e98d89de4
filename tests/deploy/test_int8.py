"""Int8: the accuracy control with a stand-in for mAP50, and the surgery on a real quantised network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from singleshot.datasets import open_dataset
from singleshot.deploy import int8 as q
from singleshot.deploy import int8_layers
from singleshot.deploy.check_images import PreprocessedImages, check_pictures, spread
from singleshot.errors import ConfigError, DataError
from singleshot.models import build
from singleshot.records import ImageDetections
from singleshot.scenes.scenes import SCENE_CLASSES, write_scenes
from singleshot.weights.checkpoint import ModelInfo

onnx = pytest.importorskip("onnx")

# ---------------------------------------------------------------------------------------------------------- control

NAMES = [f"layer {i}" for i in range(20)]


def _control(enough: int | None, layers: int = 20) -> tuple[q.Outcome, list[int]]:
    """A network whose mAP50 is right as soon as its `enough` most sensitive layers are in float."""
    asked: list[int] = []

    def measure(names: tuple[str, ...]) -> float:
        assert list(names) == NAMES[: len(names)]
        asked.append(len(names))
        return 0.796 if enough is not None and len(names) >= enough else 0.79

    return q.choose_float_layers(measure, lambda: NAMES, 0.8, layers), asked


@pytest.mark.parametrize("enough", range(11))
def test_control_finds_the_fewest_layers(enough: int) -> None:
    outcome, asked = _control(enough)
    assert outcome.float_layers == tuple(NAMES[:enough])
    assert (outcome.before, outcome.after) == (0.8, 0.796)
    assert outcome.tries == len(asked) == len(set(asked)) <= 9  # none twice, though some are asked for again


@pytest.mark.parametrize("enough", [11, None])
def test_control_gives_up_when_half_of_the_layers_are_not_enough(enough: int | None) -> None:
    with pytest.raises(ConfigError, match=r"falls from 0.8000 to 0.7900 with 10 of 20 layers in float.*nothing was"):
        _control(enough)


def test_control_does_not_rank_for_nothing_and_takes_no_nan() -> None:
    outcome = q.choose_float_layers(lambda names: 0.7951, lambda: pytest.fail("asked"), 0.8, 9)
    assert outcome == q.Outcome(0.8, 0.7951, (), 1)
    with pytest.raises(ConfigError, match="falls from"):
        q.choose_float_layers(lambda names: float("nan"), lambda: NAMES, 0.8, 20)


# ---------------------------------------------------------------------------------------------------------- network


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("quantise") / "scenes"
    write_scenes(path, train=6, val=4, test=2)
    return path


@pytest.fixture(scope="module")
def rounded(mini, folder: Path):
    pytest.importorskip("nncf")
    return q.quantise_network(mini.network, PreprocessedImages(open_dataset(folder, "train"), mini.model))


def _outputs(engines, proto, images: np.ndarray, path: Path) -> tuple[np.ndarray, np.ndarray]:
    path.write_bytes(proto.SerializeToString())
    found = engines(path)["onnxruntime"].outputs(images)
    return found["offsets"], found["logits"]


def test_layers_can_go_back_to_float_one_by_one(mini, rounded, engines, tmp_path: Path) -> None:
    onnx.checker.check_model(rounded, full_check=True)
    layers = int8_layers.quantised_layers(rounded, mini.network)
    assert {"backbone.stem.stage2.conv", "heads.0"} <= set(layers)
    assert len(set(layers.values())) == len(layers) > 30
    run = lambda proto: _outputs(engines, proto, mini.images, tmp_path / "n.onnx")  # noqa: E731
    truth, all_int8 = run(mini.network), run(rounded)
    assert not np.allclose(all_int8[0], truth[0], atol=1e-4)
    back = int8_layers.with_float(rounded, mini.network, list(layers.values()))
    assert not {node.op_type for node in back.graph.node} & {"QuantizeLinear", "DequantizeLinear"}
    for ours, theirs in zip(run(back), truth, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    one = int8_layers.with_float(rounded, mini.network, [layers["heads.0"]])
    onnx.checker.check_model(one, full_check=True)
    some = run(one)
    cells = mini.model.prior_spec.maps[0] ** 2 * mini.model.prior_spec.per_cell[0]
    for ours, theirs in zip(some, all_int8, strict=True):
        assert not np.array_equal(ours[:, :cells], theirs[:, :cells])
        np.testing.assert_array_equal(ours[:, cells:], theirs[:, cells:])
    # The network that it was made from is as it was.
    assert {n.op_type for n in rounded.graph.node} >= {"QuantizeLinear", "DequantizeLinear"}


def test_l2norm_stays_in_float(mobile) -> None:
    names = int8_layers.l2norm_nodes(mobile.network)
    kinds = [node.op_type for node in mobile.network.graph.node if node.name in names]
    assert kinds == ["Pow", "ReduceSum", "Add", "Sqrt", "Div", "Mul"]


def test_the_ranking_puts_what_was_spoilt_first(mini, rounded, engines, tmp_path: Path) -> None:
    spoilt = onnx.ModelProto()
    spoilt.CopyFrom(rounded)
    layers = int8_layers.quantised_layers(rounded, mini.network)
    few = {name: layers[name] for name in ("heads.1", "heads.2", "heads.0")}
    scale = next(t for t in spoilt.graph.initializer if t.name.startswith("scale_") and "heads.0." in t.name)
    scale.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(scale) * np.float32(3), scale.name))
    ranked = int8_layers.rank_layers(
        spoilt, mini.network, few, lambda p: _outputs(engines, p, mini.images[:1], tmp_path / "n.onnx")
    )
    assert ranked[0] == "heads.0"
    assert sorted(ranked) == sorted(few)


def test_the_ranking_goes_by_the_scores_that_the_model_has() -> None:
    """One layer shifts all of a prior's logits, which a softmax does not see, the other turns one class a little."""
    offsets, logits = np.zeros((1, 4, 4), np.float32), np.zeros((1, 4, 3), np.float32)
    alone = {"shifted": (offsets, logits + np.float32(2)), "turned": (offsets, logits + np.float32([0, 0.5, 0]))}
    for activation, order in {"softmax": ["shifted", "turned"], "sigmoid": ["turned", "shifted"]}.items():
        assert int8_layers.rank_by_error(list(alone), (offsets, logits), alone.__getitem__, activation) == order


def test_the_whole_way_with_a_stand_in_for_map50(mini, folder: Path, monkeypatch) -> None:
    """The network knows nothing, so its mAP50 says nothing: instead, it is too low until three layers are in float."""
    pytest.importorskip("nncf")
    kept: list[int] = []

    def score(engine, images: PreprocessedImages) -> float:
        assert isinstance(engine(images[0].square[None])[0], ImageDetections)
        assert images.spec == mini.model.input_spec
        kept.append(len(images))
        return 0.5 if len(kept) in (1, 2) else [0.48, 0.49, 0.497, 0.498][min(len(kept) - 3, 3)]

    info = ModelInfo.of(mini.model, SCENE_CLASSES[:3])
    monkeypatch.setattr(q, "map50", score)
    monkeypatch.setattr(q, "network_model", lambda model: mini.network)
    monkeypatch.setattr(q, "rank_layers", lambda rounded, network, layers, *_: list(layers))
    dataset = open_dataset(folder, "train"), open_dataset(folder, "val")
    said: list[str] = []
    quantised, report = q.quantise(mini.model, info, *dataset, say=said.append)
    o = report.outcome
    assert (o.before, o.after) == (0.5, 0.497)
    assert o.float_layers == ("backbone.stem.stage2.conv", "backbone.stem.stage4.conv")
    assert (report.calibration_images, report.validation_images, report.validation_of) == (6, 4, 4)
    assert quantised.about["quantisation"]["float_layers"] == list(o.float_layers)
    assert "calibrating on 6 images" in said
    still = {name for node in quantised.network.graph.node for name in node.input}
    assert "model.backbone.stem.stage2.conv.weight" in still
    assert "heads.0.weight" not in still


# ------------------------------------------------------------------------------------------------------------- images


def test_calibration_data_must_fit_the_model(mini, folder: Path, tmp_path: Path) -> None:
    info = ModelInfo.of(build("ssd320-mini", 4), SCENE_CLASSES)
    train, val = q.open_calibration(str(folder), info)
    assert (len(train), len(val)) == (6, 4)
    with pytest.raises(DataError, match="not among the 3 wanted"):
        q.open_calibration(str(folder), ModelInfo.of(mini.model, ("cat", "dog", "cow")))
    with pytest.raises(DataError, match="star"):
        q.open_calibration(str(folder), ModelInfo.of(mini.model, SCENE_CLASSES[:3]))
    with pytest.raises(DataError):
        q.open_calibration(str(folder), info, "nosuch")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        q.open_calibration(str(tmp_path / "empty"), info)


def test_map50_of_the_truth_is_one(mini, folder: Path) -> None:
    dataset = open_dataset(folder, "val")
    squares = PreprocessedImages(dataset, mini.model)
    calls: list[int] = []

    def perfect(images: np.ndarray) -> list[ImageDetections]:
        found = []
        for square in images:
            i = next(i for i in range(len(dataset)) if np.array_equal(square, squares[i].square))
            place = squares[i].placement
            boxes = dataset.boxes_of(i) * np.float32([place.scale_x, place.scale_y] * 2) / mini.model.input_spec.size
            found.append(ImageDetections(boxes, np.ones(len(boxes), np.float32), dataset.labels_of(i)))
        calls.append(len(images))
        return found

    assert q.map50(perfect, squares) == pytest.approx(1.0)
    assert sum(calls) == 4

    def shifted(images: np.ndarray) -> list[ImageDetections]:
        return [one._replace(boxes=one.boxes + 0.3) for one in perfect(images)]

    assert q.map50(shifted, squares) < 0.1


def test_pictures_to_check_with(mini, folder: Path, tmp_path: Path) -> None:
    shape = mini.model.input_spec.shape
    assert check_pictures(None, mini.model).shape == (8, *shape)
    assert check_pictures(str(folder), mini.model).shape == (4, *shape)
    assert check_pictures(str(folder / "JPEGImages"), mini.model).shape == (12, *shape)
    assert check_pictures(str(next((folder / "JPEGImages").iterdir())), mini.model).shape == (1, *shape)
    with pytest.raises(DataError):
        check_pictures(str(tmp_path), mini.model)
    with pytest.raises(DataError):
        check_pictures(str(tmp_path / "none"), mini.model)


def test_spread() -> None:
    assert spread(0, 5) == []
    assert spread(3, 5) == [0, 1, 2]
    assert spread(100, 5) == [0, 25, 50, 74, 99]


def test_squares_are_read_again_when_there_is_no_room(folder: Path, mini) -> None:
    squares = PreprocessedImages(
        open_dataset(folder, "val"), mini.model, kept_bytes=2 * np.prod(mini.model.input_spec.shape)
    )
    first = [squares[i].square for i in range(4)]
    assert len(squares.kept) == 2
    assert all(np.array_equal(squares[i].square, first[i]) for i in range(4))
    with pytest.raises(IndexError):
        squares[4]
