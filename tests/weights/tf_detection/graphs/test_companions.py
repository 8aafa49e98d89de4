"""pipeline.config and label maps in a model's folder."""

from __future__ import annotations

import math

import numpy as np
import pytest

from singleshot.errors import CheckpointError
from singleshot.thresholds import NO_CAP
from singleshot.weights.importing import import_checkpoint, import_foreign

V1 = "FeatureExtractor/MobilenetV1"


CONFIG = """
model {
  ssd {
    num_classes: 3
    image_resizer { fixed_shape_resizer { height: 224  width: 224 } }
    box_coder { faster_rcnn_box_coder { y_scale: 4.0 x_scale: 4.0 height_scale: 2.0 width_scale: 2.0 } }
    feature_extractor { type: 'ssd_mobilenet_v1' min_depth: 16 conv_hyperparams {
      activation: RELU_6, batch_norm { epsilon: 0.001, decay: 0.9997 } } }
    anchor_generator { ssd_anchor_generator { num_layers: 6 min_scale: 0.15 max_scale: 0.9
      aspect_ratios: 1.0 aspect_ratios: 2.0 aspect_ratios: 0.5 aspect_ratios: 3.0 aspect_ratios: 0.25 } }
    post_processing { batch_non_max_suppression { score_threshold: 0.3 iou_threshold: 0.45 max_detections_per_class: 7
      max_total_detections: 9 } score_converter: SOFTMAX }
  }
}
train_config: { batch_size: 24 data_augmentation_options { random_horizontal_flip { } } }
"""
LABELS = """
# numbers from 1
item { name: '/m/1' id: 1 display_name: "red cell" }
item {
  id: 3
  name: 'platelet'
}
"""


class TestFilesBesideIt:
    def test_a_configuration(self, v1, tmp_path, bundle_writer):
        (tmp_path / "pipeline.config").write_text(CONFIG)
        foreign = import_foreign(bundle_writer(tmp_path / "model.ckpt", v1))
        assert foreign.model.input_spec.size == 224
        assert foreign.model.prior_spec.variances == (0.25, 0.5)
        assert np.allclose(foreign.model.priors[1, 2:].numpy(), [0.15 * math.sqrt(2), 0.15 / math.sqrt(2)], atol=1e-6)
        found = foreign.thresholds
        assert (found.score_min, found.nms_iou, found.keep_per_class, found.keep) == (0.3, 0.45, 7, 9)
        assert (found.per_class, found.class_agnostic) == (NO_CAP, False)
        assert found.activation == "softmax"
        assert foreign.notes == ()

    def test_nms_across_classes_leaves_the_background_out(self, v1, tmp_path, bundle_writer):
        text = CONFIG.replace("iou_threshold", "use_class_agnostic_nms: true iou_threshold")
        assert text != CONFIG
        (tmp_path / "pipeline.config").write_text(text)
        found = import_foreign(bundle_writer(tmp_path / "model.ckpt", v1)).thresholds
        assert (found.class_agnostic, found.background_competes, found.keep_per_class) == (True, False, None)

    @pytest.mark.parametrize(
        ("old", "new", "match"),
        [
            ("num_classes: 3", "num_classes: 4", "3 classes, but pipeline.config says 4"),
            (
                "fixed_shape_resizer { height: 224  width: 224 }",
                "keep_aspect_ratio_resizer { }",
                "want fixed_shape_resizer",
            ),
            ("aspect_ratios: 3.0", "", r"but anchors for \[3, 5, 5"),
            ("num_layers: 6", "num_layers: 5", r"but anchors for \[3, 6, 6, 6, 6\]"),
            ("num_layers: 6", "num_layers: 2000000000", "anchors for 2000000000 maps"),
            ("min_scale: 0.15", "min_scale: 0", "want positive numbers"),
            ("num_layers: 6", "num_layers: 6 height_stride: 16", "of their own base, strides"),
            ("x_scale: 4.0", "x_scale: 5.0", "want the same for x and y"),
            ("model {", "model { }}", "cannot be read as protobuf text"),
            ("model {\n  ssd {", "model {\n  faster_rcnn {", "describes no SSD"),
        ],
    )
    def test_configurations_that_do_not_fit(self, v1, tmp_path, bundle_writer, old, new, match):
        assert old in CONFIG
        (tmp_path / "pipeline.config").write_text(CONFIG.replace(old, new))
        with pytest.raises(CheckpointError, match=match) as caught:
            import_checkpoint(bundle_writer(tmp_path / "model.ckpt", v1))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("given", [True, False])
    def test_a_label_map(self, v1, graph, imported, tmp_path, given, write_network):
        path = tmp_path / ("elsewhere" if given else ".") / "label_map.pbtxt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(LABELS)
        write_network(graph, v1)
        assert imported(graph, companion=path if given else None).class_names == ("red cell", "unused 2", "platelet")

    def test_two_label_maps_tell_nothing_unless_one_is_given(self, v1, graph, imported, tmp_path, write_network):
        (tmp_path / "a.pbtxt").write_text(LABELS)
        (tmp_path / "b.pbtxt").write_text(LABELS.replace("red", "white"))
        write_network(graph, v1)
        assert imported(graph).class_names is None
        names = imported(graph, companion=tmp_path / "b.pbtxt").class_names
        assert names is not None
        assert names[0] == "white cell"

    @pytest.mark.parametrize(
        ("text", "match"),
        [
            (LABELS.replace("id: 3", "id: 4"), "3 classes, but the label map numbers 1 to 4"),
            (LABELS.replace("id: 3", "id: 1"), "two items with id 1"),
            (LABELS.replace("id: 3", "id: three"), "cannot be read as protobuf text"),
            ("person\ncar\n", "neither a label map"),
            ("item {" * 5000, "brackets nested too deep"),
        ],
    )
    def test_label_maps_that_do_not_fit(self, v1, graph, imported, tmp_path, text, match, write_network):
        path = tmp_path / "labels.txt"
        path.write_text(text)
        write_network(graph, v1)
        with pytest.raises(CheckpointError, match=match) as caught:
            imported(graph, companion=path)
        assert "\n" not in str(caught.value)
