"""TensorFlow's published files: the quantised SSD300 on MobileNetV1, and MobileNetV2's classifier."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from singleshot.datasets import open_dataset
from singleshot.errors import CheckpointError
from singleshot.inputs import InputSpec, to_square
from singleshot.models import build
from singleshot.postprocess import to_detections
from singleshot.records import RawOutput
from singleshot.weights.backbones import load_backbone
from singleshot.weights.checkpoint import ModelInfo, load_checkpoint, save_checkpoint
from singleshot.weights.class_names import coco_by_number
from singleshot.weights.imported_model import ImportedModel
from singleshot.weights.importing import import_checkpoint, import_foreign
from singleshot.weights.readers.tflite import read_tflite


@pytest.fixture(scope="session")
def detector(shared: Path) -> Path:
    return shared / "weights" / "coco_ssd_mobilenet_v1_quant_detect.tflite"


@pytest.fixture(scope="session")
def classifier(shared: Path) -> Path:
    return shared / "weights" / "tf2_mobilenet_v2_1.0_224_ptq.tflite"


@pytest.fixture(scope="session")
def foreign(detector: Path) -> ImportedModel:
    return import_foreign(detector)


@pytest.fixture(scope="session")
def photos(shared: Path) -> Callable[[int], list[np.ndarray]]:
    """`photos(300)`: three of VOC's as RGB squares."""
    data = open_dataset(shared / "data" / "voc07", "val")
    return lambda side: [to_square(data.sample(i).image, InputSpec(size=side))[0] for i in (0, 5, 11)]


@pytest.fixture(scope="session")
def references(detector: Path, photos, litert) -> list[dict[str, np.ndarray]]:
    """What LiteRT makes of the photos."""
    return [litert(detector, {"normalized_input_image_tensor": photo[None]}) for photo in photos(300)]


def raw_of(model: torch.nn.Module, image: np.ndarray) -> RawOutput:
    with torch.inference_mode():
        return model(torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0))


def one_line(error: pytest.ExceptionInfo) -> bool:
    return "\n" not in str(error.value) and len(str(error.value)) < 600


# ------------------------------------------------------------------------------------------- the published detector


def test_the_published_detector_brings_its_settings(foreign, references):
    model = foreign.model
    assert "uint8" in foreign.source
    assert model.num_classes == 90
    assert foreign.class_names == coco_by_number()
    assert foreign.class_names[0] == "person"
    assert (foreign.thresholds.keep, foreign.thresholds.class_agnostic) == (10, True)
    assert foreign.thresholds.activation == "sigmoid"
    assert foreign.thresholds.nms_iou == pytest.approx(0.6)
    assert foreign.thresholds.score_min == pytest.approx(1e-8)
    assert model.input_spec == InputSpec(size=300, mean=(128.0,) * 3, std=(128.0,) * 3)
    assert model.prior_spec.variances == pytest.approx((0.1, 0.2))
    assert not model.training
    anchors = references[0]["anchors"][:, [1, 0, 3, 2]]
    assert np.abs(model.priors.numpy() - anchors).max() < 1e-6


def test_raw_outputs_are_those_of_litert_but_for_rounding(foreign, references, photos):
    """Measured: 0.03 and 0.04 on average, where a step of the outputs is 0.05 and 0.08."""
    for photo, wanted in zip(photos(300), references, strict=True):
        raw = raw_of(foreign.model, photo)
        logits = np.abs(raw.logits[0].numpy() - wanted["concat_1"][0])
        offsets = np.abs(raw.offsets[0].numpy() - wanted["concat"][0, :, 0][:, [1, 0, 3, 2]])
        assert logits.mean() < 0.05
        assert offsets.mean() < 0.08
        assert np.quantile(logits, 0.99) < 4 * 0.05
        assert np.quantile(offsets, 0.99) < 4 * 0.08


def test_detections_of_photos_are_those_of_litert(foreign, references, photos):
    model, seen = foreign.model, 0
    for photo, wanted in zip(photos(300), references, strict=True):
        boxes, classes, scores, count = wanted["found"]
        found = to_detections(
            raw_of(model, photo), model.priors, variances=model.prior_spec.variances,
            **foreign.thresholds.for_postprocess(),
        )[0]  # fmt: skip
        assert len(found.scores) == count[0] == 10
        for box, label, score in zip(boxes[0], classes[0], scores[0], strict=True):
            if score > 0.5:
                seen += 1
                away = (found.boxes.numpy() - box[[1, 0, 3, 2]])[found.labels.numpy() == int(label)]
                assert np.abs(away).max(axis=1).min() < 0.03
    assert seen >= 4


def test_the_operator_does_what_our_post_processing_does(foreign, references):
    """On the runtime's own outputs. Scores are rounded to 256 steps, so that equal ones may come in another order."""
    for wanted in references:
        boxes, _, scores, _ = wanted["found"]
        rounded = np.clip(wanted["convert_scores"], 1e-5, 1 - 1e-5)
        raw = RawOutput(
            torch.tensor(wanted["concat"][:, :, 0][:, :, [1, 0, 3, 2]], dtype=torch.float32),
            torch.tensor(np.log(rounded / (1 - rounded)), dtype=torch.float32),
        )
        model = foreign.model
        found = to_detections(
            raw, model.priors, variances=model.prior_spec.variances, **foreign.thresholds.for_postprocess()
        )[0]
        single = [i for i, s in enumerate(scores[0]) if np.sum(np.abs(scores[0] - s) < 1e-3) == 1]
        for i in single[:2]:
            away = np.abs(found.boxes.numpy() - boxes[0, i][[1, 0, 3, 2]]).max(axis=1)
            assert away.min() < 1e-3
            assert abs(found.scores.numpy()[away.argmin()] - scores[0, i]) < 1e-3


def test_the_model_goes_into_a_checkpoint_and_comes_back(foreign, tmp_path, photos):
    info = ModelInfo.of(foreign.model, foreign.class_names, thresholds=foreign.thresholds)
    save_checkpoint(tmp_path / "model.safetensors", foreign.model.state_dict(), info)
    model, told = load_checkpoint(tmp_path / "model.safetensors")
    assert told.class_names == foreign.class_names
    assert told.thresholds == foreign.thresholds
    assert torch.equal(model.priors, foreign.model.priors)
    photo = photos(300)[0]
    assert torch.equal(raw_of(model, photo).logits, raw_of(foreign.model, photo).logits)


def test_a_classifier_is_told_from_a_detector(classifier):
    with pytest.raises(CheckpointError, match=r"not an SSD detector: .* 68 operators; it ends in SOFTMAX of") as caught:
        import_checkpoint(classifier)
    assert one_line(caught)


# ------------------------------------------------------------------------------------------- the classifier as backbone


def test_constants_are_what_their_numbers_stand_for(classifier):
    """Of whole tensors and of each channel, against the runtime's own account of the file."""
    tensors, axes = read_tflite(classifier), set()
    runtime = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(str(classifier), num_threads=1)
    runtime.allocate_tensors()
    for one in runtime.get_tensor_details():
        told = one["quantization_parameters"]
        if one["name"] in tensors and len(told["scales"]) > 1:
            shape = [-1 if i == told["quantized_dimension"] else 1 for i in range(len(one["shape"]))]
            axes.add((len(shape), told["quantized_dimension"]))
            stored, zeros = runtime.get_tensor(one["index"]), told["zero_points"].reshape(shape)
            real = (stored.astype(np.float64) - zeros) * told["scales"].reshape(shape)
            assert np.abs(tensors[one["name"]].numpy() - real).max() < 1e-6 * max(1.0, np.abs(real).max())
    assert axes == {(4, 0), (4, 3), (1, 0)}
    assert tensors.structure.normalisation == ((127.5,), (127.5,))
    assert tensors.structure.labels[0][:2] == ("background", "tench, Tinca tinca")


def test_the_classifier_starts_a_mobilenet(classifier, photos, litert):
    """At 225 pixels, where TensorFlow pads as torchvision does. Measured: a correlation of 0.99 on average."""
    model = build("ssd300-mobilenetv2", 3).eval()
    said = load_backbone(model, classifier)
    assert "MobileNetV2" in said
    assert "32n + 1" in said
    agreement = []
    for photo in photos(225):
        values = litert(classifier, {"input": photo[None]})
        wanted = next(v for n, v in values.items() if "Conv2d_18_1/relu6" in n and v.shape == (1, 8, 8, 1280))
        with torch.inference_mode():
            x = (torch.from_numpy(photo).permute(2, 0, 1).unsqueeze(0).float() - model.mean) / model.std
            found = model.backbone.features(x)[0].permute(1, 2, 0).numpy()
        agreement.append(np.corrcoef(found.ravel(), wanted.ravel())[0, 1])
    assert min(agreement) > 0.97
    assert np.mean(agreement) > 0.98


def test_other_networks_start_no_mobilenet(detector):
    model = build("ssd300-mobilenetv2", 3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="not a MobileNetV2") as caught:
        load_backbone(model, detector)
    assert one_line(caught)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
