"""Exported files give the model's boxes, by both engines; what does not is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from singleshot.deploy import export
from singleshot.deploy.export import Form, Quantised, export_model
from singleshot.deploy.onnx_file import attach_postprocess
from singleshot.deploy.onnx_post import select_model
from singleshot.deploy.parity import Agreement, _difference_px, compare, compare_raw
from singleshot.errors import ConfigError
from singleshot.records import ImageDetections
from singleshot.runtime.model_file import read_onnx_info
from singleshot.thresholds import NO_CAP, Thresholds

onnx = pytest.importorskip("onnx")

RULES = {
    "caffe": Thresholds(),
    "cap of each class": Thresholds(per_class=40, score_min=0.0001),
    "cap of all": Thresholds(candidates=60, score_min=0.0001),
    "kept of each class": Thresholds(keep_per_class=3),
    "class-agnostic": Thresholds(class_agnostic=True),
    "sigmoid": Thresholds(activation="sigmoid", keep=50),
    "class-agnostic sigmoid": Thresholds(class_agnostic=True, activation="sigmoid"),
    "best class, clipped": Thresholds(best_class=True, clip=True, nms_iou=0.6),
    "nothing found": Thresholds(score_min=0.999),
    "box voting": Thresholds(box_voting=0.5),
    "box voting, class-agnostic": Thresholds(box_voting=0.3, class_agnostic=True),
    "box voting under caps": Thresholds(box_voting=0.5, per_class=40, candidates=60, keep=20, score_min=0.0001),
    "box voting, nothing found": Thresholds(box_voting=0.5, score_min=0.999),
}


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_both_engines_agree_with_pytorch(mini, engines, rules: Thresholds, tmp_path: Path) -> None:
    info = mini.file(rules, tmp_path / "m.onnx")
    for engine in engines(tmp_path / "m.onnx").values():
        for count in (1, 3):
            found = compare(mini.model, info, engine, mini.images[:count])
            assert found.good()
            assert found.box_px < 0.01
            assert found.score < 1e-4
            assert (found.boxes > 0) == (rules.score_min < 0.9)


@pytest.mark.parametrize("rules", ["caffe", "cap of each class", "cap of all", "class-agnostic", "box voting"])
def test_without_branches_too(mini, engines, rules: str, tmp_path: Path) -> None:
    info = mini.file(RULES[rules], tmp_path / "m.onnx", tensorrt_compatible=True)
    assert compare(mini.model, info, engines(tmp_path / "m.onnx")["onnxruntime"], mini.images).good()


def test_a_cap_that_binds_changes_the_answer(mini, engines, tmp_path: Path) -> None:
    """Else the test above would not have seen it."""
    counts = {}
    for name in ("caffe", "cap of each class", "cap of all", "kept of each class"):
        mini.file(RULES[name], tmp_path / "m.onnx")
        counts[name] = len(engines(tmp_path / "m.onnx")["onnxruntime"](mini.images[:1])[0].scores)
    assert counts["caffe"] == 200
    assert counts["cap of each class"] <= 120
    assert counts["cap of all"] <= 60
    assert counts["kept of each class"] == 9


@pytest.mark.parametrize("rules", [RULES["caffe"], RULES["class-agnostic"]], ids=["caffe", "class-agnostic"])
def test_mobilenet(mobile, engines, rules: Thresholds, tmp_path: Path) -> None:
    info = mobile.file(rules, tmp_path / "m.onnx")
    for engine in engines(tmp_path / "m.onnx").values():
        assert compare(mobile.model, info, engine, mobile.images).good()


def test_l2norm_of_nothing_is_nothing(mobile, engines, tmp_path: Path) -> None:
    """Where all channels are zero, as after a ReLU, only the addend inside the root keeps it from being 0 / 0."""
    proto = copy.deepcopy(mobile.network)
    image = mobile.model.input_spec.fill  # zeros after normalisation, and every convolution here is without bias
    images = np.broadcast_to(np.uint8(image), mobile.images[:1].shape)
    mean = next(t for t in proto.graph.initializer if t.name == "model.mean")
    mean.CopyFrom(onnx.numpy_helper.from_array(np.float32(image).reshape(3, 1, 1), mean.name))
    addend = next(t for t in proto.graph.initializer if t.name == "l2norm_epsilon")
    for value, finite in ((1e-10, True), (0.0, False)):
        addend.CopyFrom(onnx.numpy_helper.from_array(np.float32(value), addend.name))
        (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
        found = engines(tmp_path / "m.onnx")["onnxruntime"].outputs(images)
        assert bool(np.isfinite(found["logits"]).all()) is finite


def test_without_a_cap_there_are_as_many_rows_as_needed(mini, engines, tmp_path: Path) -> None:
    rules = Thresholds(per_class=NO_CAP, keep=NO_CAP, score_min=0.5)
    info = mini.file(rules, tmp_path / "m.onnx")
    for engine in engines(tmp_path / "m.onnx").values():
        assert compare(mini.model, info, engine, mini.images[:2]).good()
        out = engine.outputs(mini.images[:1])
        assert out["boxes"].shape == (1, out["counts"][0], 4)
        assert 200 < out["counts"][0] < 3 * mini.model.prior_spec.count
    with pytest.raises(ConfigError, match="TensorRT sorts out 3839 at most; export with --raw"):
        select_model(8732, 20, rules, True)


def test_names_shapes_opset_and_description(mini, tmp_path: Path) -> None:
    info = mini.file(Thresholds(keep=50), tmp_path / "m.onnx")
    proto = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(proto, full_check=True)
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", 18)]
    assert proto.ir_version == 9

    def doors(values) -> dict[str, list]:
        shapes = {v.name: v.type.tensor_type for v in values}
        return {n: [t.elem_type, *(d.dim_value or d.dim_param for d in t.shape.dim)] for n, t in shapes.items()}

    batch = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert batch
    assert doors(proto.graph.input) == {"images": [onnx.TensorProto.UINT8, batch, *info.input_spec.shape]}
    real, whole = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    wanted = {"boxes": [real, 50, 4], "scores": [real, 50], "labels": [whole, 50], "counts": [whole]}
    assert {name: [kind, *shape] for name, (kind, _, *shape) in doors(proto.graph.output).items()} == wanted
    assert {p.key for p in proto.metadata_props} == {"singleshot"}
    said = read_onnx_info(tmp_path / "m.onnx")
    assert said.class_names == info.class_names
    assert said.input_spec == info.input_spec
    assert said.precision == "float32"
    assert said.pretrained == mini.model.pretrained is not None
    assert not said.raw
    # Nothing that a reader would warn of, and nothing of the machine that wrote it.
    taken = {name for node in proto.graph.node for name in node.input}
    taken |= {n for node in proto.graph.node for a in node.attribute for inner in a.g.node for n in inner.input}
    assert {tensor.name for tensor in proto.graph.initializer} <= taken
    assert b"site-packages" not in (tmp_path / "m.onnx").read_bytes()
    assert str(Path(export.__file__).parent).encode() not in (tmp_path / "m.onnx").read_bytes()


def test_for_tensorrt_there_are_no_branches(mini, tmp_path: Path) -> None:
    kinds = {}
    for compatible in (False, True):
        mini.file(RULES["caffe"], tmp_path / "m.onnx", compatible)
        graph = onnx.load(tmp_path / "m.onnx").graph
        kinds[compatible] = {node.op_type for node in graph.node}
    # It knows bytes as an input alone, and converts them first of all.
    assert [node.op_type for node in graph.node if "images" in node.input] == ["Cast"]
    onnx.checker.check_model(onnx.load(tmp_path / "m.onnx"), full_check=True)
    assert "If" in kinds[False]
    assert not kinds[True] & {"If", "Loop", "Scan", "SequenceAt", "NonZero"}
    assert "NonMaxSuppression" in kinds[True]


# ------------------------------------------------------------------------------------------------------ the judgement


def test_faults_are_seen(mini, engines, tmp_path: Path) -> None:
    """Wrong boxes, scores, labels and NMS, each as it would come from a wrong file."""
    info = mini.file(Thresholds(), tmp_path / "m.onnx")
    right = engines(tmp_path / "m.onnx")["onnxruntime"](mini.images)
    side = info.input_spec.size

    def judged(change) -> Agreement:
        return compare(mini.model, info, lambda images: [change(one) for one in right], mini.images)

    assert judged(lambda one: one).good()
    assert judged(lambda one: one._replace(boxes=one.boxes + np.float32(0.4 / side))).good()
    assert not judged(lambda one: one._replace(boxes=one.boxes + np.float32(0.6 / side))).good()
    assert not judged(lambda one: one._replace(scores=one.scores + np.float32(0.002))).good()
    assert not judged(lambda one: one._replace(labels=(one.labels + 1) % 3)).good()
    assert not judged(lambda one: one._replace(labels=one.labels + 3)).good()
    assert not judged(lambda one: one._replace(boxes=one.boxes * np.nan)).good()
    assert not judged(lambda one: ImageDetections(one.boxes[1:], one.scores[1:], one.labels[1:])).good()
    empty = ImageDetections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    assert judged(lambda one: empty).lost > 0
    for nms_iou in (0.2, 0.7):
        mini.file(Thresholds(nms_iou=nms_iou), tmp_path / "other.onnx")
        other = engines(tmp_path / "other.onnx")["onnxruntime"]
        assert compare(mini.model, info, other, mini.images).lost > 0


def test_a_box_beyond_the_input_is_compared_by_its_size() -> None:
    sides = torch.tensor([320.0, 320.0, 320.0, 320.0])
    inside, huge = torch.tensor([[0.1, 0.1, 0.2, 0.2]]), torch.tensor([[-4e4, 0.1, 4e4, 0.2]])
    endless = torch.tensor([[0.0, 0.0, torch.inf, 1.0]])
    assert _difference_px(inside, inside + 1 / 320, sides).tolist() == pytest.approx([1.0], abs=1e-4)
    assert _difference_px(huge, huge * (1 + 2e-7), sides) < 1e-4  # a last digit, of 2 pixels
    assert _difference_px(huge, huge * 1.01, sides) > 3
    # The model's box decides: what the other side has too large, or endless, is wrong.
    assert _difference_px(inside, huge, sides) > 1e6
    assert _difference_px(endless, endless, sides) == 0
    assert not _difference_px(inside, endless, sides) < 1e9
    assert not _difference_px(endless, inside, sides) < 1e9


def test_raw_outputs_are_compared_as_boxes_and_scores(mini) -> None:
    with torch.inference_mode():
        raw = mini.model(torch.from_numpy(mini.images).permute(0, 3, 1, 2))
    offsets, logits = raw.offsets.numpy(), raw.logits.numpy()

    def judged(a: np.ndarray, b: np.ndarray) -> Agreement:
        return compare_raw(mini.model, mini.info, lambda images: (a, b), mini.images)

    assert judged(offsets, logits) == Agreement(offsets[..., 0].size)
    assert not judged(offsets + np.float32(0.2), logits).good()
    assert judged(offsets, logits + np.float32(3.0)).good()  # softmax does not see it
    assert not judged(offsets, logits * np.float32(1.05)).good()
    assert not judged(offsets[:, :-1], logits).good()
    assert not judged(offsets, logits * np.nan).good()


@pytest.mark.parametrize(("to", "suffix"), [("onnx", ".onnx"), ("openvino", ".xml")])
@pytest.mark.parametrize("raw", [False, True], ids=["boxes", "raw"])
def test_a_spoilt_network_is_refused_and_nothing_is_written(
    mini, to: str, suffix: str, raw: bool, tmp_path: Path, monkeypatch
) -> None:
    spoilt = copy.deepcopy(mini.network)
    weight = next(t for t in spoilt.graph.initializer if t.name.endswith("heads.0.weight"))
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * np.float32(1.1), weight.name))
    monkeypatch.setattr(export, "network_model", lambda model: spoilt)
    with pytest.raises(ConfigError, match=r"gives other results than the model .* nothing was written"):
        export_model(mini.model, mini.info, tmp_path / f"m{suffix}", mini.images, Form(to, raw))
    assert not list(tmp_path.iterdir())


# -------------------------------------------------------------------------------------------------------------- files


def test_openvino_files(mini, engines, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(export, "network_model", lambda model: copy.deepcopy(mini.network))
    sizes = {}
    for name, half in (("full", False), ("half", True)):
        path = tmp_path / f"{name}.xml"
        done = export_model(mini.model, mini.info, path, mini.images, Form("openvino", half=half))
        assert done.files == (path, path.with_suffix(".bin"))
        assert [row.speed.engine for row in done.rows] == ["pytorch", "openvino"]
        engine = engines(path)["openvino"]
        assert json.loads(engine.description)["pretrained"] == mini.model.pretrained.to_dict()
        assert json.loads(engine.description)["precision"] == ("float16" if half else "float32")
        sizes[name] = path.with_suffix(".bin").stat().st_size
    assert sizes["half"] < 0.6 * sizes["full"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full.bin", "full.xml", "half.bin", "half.xml"]


def test_a_torch_archive_brings_its_description(mini, tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    done = export_model(mini.model, mini.info, path, mini.images, Form("torch"))
    assert done.rows[1].agreement is not None
    assert done.rows[1].agreement.good()
    extra = {"singleshot.json": ""}
    module = torch.export.load(str(path), extra_files=extra).module()
    assert json.loads(extra["singleshot.json"])["outputs"] == "raw"
    offsets, logits = module(torch.from_numpy(mini.images[:1]))
    assert offsets.shape == (1, mini.model.prior_spec.count, 4)
    assert logits.shape == (1, mini.model.prior_spec.count, 4)


def test_a_quantised_network_need_not_agree(mini, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    other = Quantised(copy.deepcopy(mini.network), {"quantisation": {"map50_after": 0.5}})
    done = export_model(mini.model, mini.info, path, mini.images, quantised=other)
    assert all(row.agreement is None for row in done.rows)
    assert read_onnx_info(path).more["quantisation"] == {"map50_after": 0.5}
    assert read_onnx_info(path).precision == "int8"


def test_raw_files(mini, engines, tmp_path: Path) -> None:
    proto = attach_postprocess(copy.deepcopy(mini.network), mini.model, mini.info, raw=True)
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    assert read_onnx_info(tmp_path / "m.onnx").raw
    for engine in engines(tmp_path / "m.onnx").values():
        found = engine.outputs(mini.images)
        assert found["offsets"].shape == (3, mini.model.prior_spec.count, 4)
        assert compare_raw(
            mini.model, mini.info, lambda images, f=found: (f["offsets"], f["logits"]), mini.images
        ).good()


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (Form("coreml"), "want one of onnx"),
        (Form(half=True), "--half: goes with --to openvino"),
        (Form("openvino", tensorrt_compatible=True), "--tensorrt: goes with --to onnx"),
    ],
)
def test_forms_that_cannot_be(mini, form: Form, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        export_model(mini.model, mini.info, tmp_path / "m.onnx", mini.images, form)
