"""TensorFlow's Object Detection API: networks computed again in plain torch, layer by layer, from their variables."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from singleshot.conventions import DETECTION
from singleshot.errors import CheckpointError
from singleshot.weights.class_names import coco_by_number
from singleshot.weights.import_settings import ImportSettings
from singleshot.weights.importing import import_checkpoint, import_foreign

V1 = "FeatureExtractor/MobilenetV1"


class TestNetworks:
    @pytest.mark.parametrize(
        ("name", "source"),
        [
            ("v1", "TensorFlow Object Detection API SSD on MobileNet v1"),
            ("v2", "TensorFlow Object Detection API SSD on MobileNet v2"),
            ("lite", "TensorFlow Object Detection API SSDLite on MobileNet v2"),
            ("inception", "TensorFlow Object Detection API SSD on Inception v2"),
        ],
    )
    def test_gives_the_outputs_of_the_network(self, request, same, name, source, anchors):
        variables = request.getfixturevalue(name)
        foreign = import_foreign(variables)
        same(foreign.model, variables)
        assert foreign.source == source
        assert foreign.model.num_classes == 3
        assert foreign.class_names is None
        assert "no pipeline.config" in foreign.notes[0]
        assert np.abs(foreign.model.priors.numpy() - anchors([19, 10, 5, 3, 2, 1])).max() < 1e-6
        assert foreign.model.prior_spec.variances == (0.1, 0.2)
        found = foreign.thresholds
        assert found == DETECTION["tf-object-detection"]

    def test_another_size_pads_as_tensorflow_does_there(self, v1, same):
        foreign = import_foreign(v1, settings=ImportSettings(size=320))
        assert foreign.model.prior_spec.maps == (20, 10, 5, 3, 2, 1)
        assert foreign.model.input_spec.size == 320
        same(foreign.model, v1)

    def test_anchors_are_those_of_a_published_model(self, shared, v1):
        """Rounded to 8 bits in that file, which holds nothing over 1.6455."""
        interpreter = pytest.importorskip("ai_edge_litert.interpreter")
        model = interpreter.Interpreter(str(shared / "weights" / "coco_ssd_mobilenet_v1_quant_detect.tflite"))
        row = next(t for t in model.get_tensor_details() if t["name"] == "anchors")
        scale, zero = row["quantization"]
        wanted = (model.get_tensor(row["index"]).astype(np.float64) - zero) * scale
        mine = import_checkpoint(v1).priors.numpy()[:, [1, 0, 3, 2]]
        assert mine.shape == wanted.shape == (1917, 4)
        assert np.abs(np.minimum(mine, 255 * scale) - wanted).max() < 0.51 * scale

    def test_six_boxes_on_the_first_map_as_well(self, fill, mobilenet_v1, anchors):
        model = import_checkpoint(fill(mobilenet_v1(classes=1, boxes=6)))
        assert np.abs(model.priors.numpy() - anchors([19, 10, 5, 3, 2, 1], lowest=False)).max() < 1e-6

    def test_ninety_classes_are_coco_s(self, fill, mobilenet_v1):
        assert import_foreign(fill(mobilenet_v1(classes=90))).class_names == coco_by_number()

    def test_without_gamma_where_no_layer_of_a_part_has_one(self, v1, same):
        less = {k: v for k, v in v1.items() if not ("_Conv2d_" in k and k.endswith("gamma"))}
        same(import_checkpoint(less), less)

    @pytest.mark.parametrize("rewrite", ["{}:0", "doubled", "training"])
    def test_names_as_they_are_also_written(self, v1, rewrite):
        plain = import_checkpoint(v1).state_dict()
        if rewrite == "training":
            more = {f"{k}/RMSProp_1": v for k, v in v1.items()} | {
                f"{k}/ExponentialMovingAverage": v for k, v in v1.items()
            }
            foreign = import_foreign(
                {**v1, **more, "global_step": np.array(7), f"{V1}/Conv2d_0/act_quant/min": np.float32(0)}
            )
            assert [note.split(" ")[0] for note in foreign.notes] == ["its", "trained", "no", "assumed:"]
            model = foreign.model
        else:
            named = {k.replace(V1, f"{V1}/MobilenetV1") if rewrite == "doubled" else f"{k}:0": v for k, v in v1.items()}
            model = import_checkpoint(named)
        assert all(torch.equal(value, plain[key]) for key, value in model.state_dict().items())


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "match"),
        [
            ("FirstStageFeatureExtractor/resnet_v1_101/conv1/weights", "two-stage detector"),
            ("FeatureExtractor/NasNet/fpn/projection_1/weights", "SSD on NasNet with a feature pyramid"),
            ("model/_feature_extractor/_bifpn_stage/node/kernel", "an EfficientDet, not an SSD"),
            ("model/_feature_extractor/_first_stage_box_predictor/kernel", "two-stage detector"),
            ("model/_feature_extractor/_network/_prediction_head_dict/kernel", "a CenterNet"),
            ("_model/_feature_extractor/variables/0/kernel", "a SavedModel has its variables by number"),
            ("WeightSharedConvolutionalBoxPredictor/BoxPredictor/weights", "one predictor for all maps"),
            ("FeatureExtractor/MobilenetV3/Conv/weights", "MobileNet v3"),
            ("FeatureExtractor/InceptionV3/Conv2d_2b_1x1/weights", "SSD on Inception v3"),
            (
                "FeatureExtractor/Unheard/Conv/weights",
                r"no SSD on MobileNet v1, v2 or Inception v2 .* \(it holds FeatureExtractor/Unheard",
            ),
        ],
    )
    def test_other_networks_are_named(self, name, match):
        with pytest.raises(CheckpointError, match=match) as caught:
            import_checkpoint({name: np.zeros((3, 3, 3, 8), np.float32)})
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({f"{V1}/Conv2d_4_pointwise/weights": None}, r"\(1 missing: .*Conv2d_4_pointwise/weights\)"),
            ({f"{V1}/Conv2d_4_depthwise/BatchNorm/gamma": None}, r"\(1 missing: .*depthwise/BatchNorm/gamma\)"),
            ({f"{V1}/surplus": np.zeros(3, np.float32)}, r"\(1 unexpected: .*/surplus\)"),
            (
                {f"{V1}/Conv2d_4_pointwise/weights": np.zeros((1, 1, 5, 64), np.float32)},
                r"\(1 misshapen: .* is 1x1x5x64",
            ),
            (
                {"BoxPredictor_2/ClassPredictor/biases": np.zeros(25, np.float32)},
                "BoxPredictor_2 has 24 values for boxes",
            ),
            (
                {"BoxPredictor_3/BoxEncodingPredictor/biases": None},
                "1 missing: BoxPredictor_3/BoxEncodingPredictor/biases",
            ),
            ({f"{V1}/Conv2d_0/weights": np.full((3, 3, 3, 16), np.nan, np.float32)}, "NaN"),
        ],
    )
    def test_what_does_not_fit(self, v1, change, match):
        changed = {k: v for k, v in {**v1, **change}.items() if v is not None}
        with pytest.raises(CheckpointError, match=match) as caught:
            import_checkpoint(changed)
        assert "\n" not in str(caught.value)

    def test_names_of_no_such_network(self):
        with pytest.raises(CheckpointError, match="no SSD on MobileNet"):
            import_checkpoint({"x": np.zeros(3, np.float32)}, source="tf-object-detection")

    def test_without_predictors(self, v1):
        with pytest.raises(CheckpointError, match="no BoxPredictor_0/BoxEncodingPredictor"):
            import_checkpoint({k: v for k, v in v1.items() if not k.startswith("BoxPredictor")})

    def test_boxes_that_no_default_explains(self, fill, mobilenet_v1):
        with pytest.raises(CheckpointError, match=r"\[4, 6, .* put its pipeline.config next to it"):
            import_checkpoint(fill(mobilenet_v1(boxes=4)))
