"""Frozen graphs give what their checkpoint gives."""

from __future__ import annotations

import math
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch

from singleshot.conventions import DETECTION
from singleshot.thresholds import NO_CAP
from singleshot.weights.importing import import_checkpoint

V1 = "FeatureExtractor/MobilenetV1"


class TestFrozenGraphs:
    @pytest.mark.parametrize("name", ["v1", "lite"])
    def test_gives_the_model_that_the_checkpoint_gives(
        self, request, graph, imported, tmp_path, bundle_writer, name, write_network
    ):
        variables = request.getfixturevalue(name)
        write_network(graph, variables)
        frozen = imported(graph).model
        saved = import_checkpoint(bundle_writer(tmp_path / "model.ckpt", variables))
        assert frozen.prior_spec == saved.prior_spec
        assert frozen.input_spec == saved.input_spec
        assert frozen.name == saved.name
        wanted = saved.state_dict()
        assert frozen.state_dict().keys() == wanted.keys()
        assert all(torch.equal(value, wanted[key]) for key, value in frozen.state_dict().items())
        epsilons = [m.eps for m in frozen.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert epsilons
        assert np.allclose(epsilons, 0.001)

    @pytest.mark.parametrize("mode", ["MIN_FIRST", "MIN_COMBINED", None])
    def test_weights_of_8_bits_are_what_they_stand_for(self, v1, graph, imported, same, mode, write_network):
        meant, write = {}, graph.const

        def const(name, value, **given):
            if value.size < 100 or name.endswith("moving_variance"):
                meant[name] = value
                return write(name, value, **given)
            graph.const = write
            meant[name] = graph.rounded(name, value, mode)
            graph.const = const
            return name

        graph.const = const
        write_network(graph, v1)
        assert sum(not np.array_equal(meant[name], v1[name]) for name in v1) > 20
        same(imported(graph).model, meant)

    def test_what_the_graph_says_is_kept_to(self, v1, graph, imported, same, write_network, write_surroundings):
        write_surroundings(graph, size=(256, 256), iou=0.5, score=0.25, per_class=40, total=70)
        write_network(graph, v1, eps=0.01)
        foreign = imported(graph)
        same(foreign.model, v1, eps=0.01)
        assert foreign.model.input_spec.size == 256
        found = foreign.thresholds
        assert (found.score_min, found.nms_iou, found.keep_per_class, found.keep) == (0.25, 0.5, 40, 70)
        assert (found.per_class, found.class_agnostic) == (NO_CAP, False)
        assert foreign.model.prior_spec.variances == (0.125, 0.25)
        assert foreign.model.prior_spec.maps == (16, 8, 4, 2, 1, 1)
        first = foreign.model.priors[:3, 2:].numpy()
        root = math.sqrt(2)
        assert np.allclose(first, [[0.1, 0.1], [0.25 * root, 0.25 / root], [0.25 / root, 0.25 * root]], atol=1e-6)
        assert np.allclose(foreign.model.priors[-1, 2:].numpy(), 0.7, atol=1e-6)
        assert foreign.notes == ()

    @pytest.mark.parametrize("folded", ["bias", "arithmetic"])
    def test_batch_normalisation_that_a_tool_has_folded(self, v1, graph, imported, same, folded, write_network):
        write_network(graph, v1, folded=folded)
        same(imported(graph).model, v1, tolerance=5e-4)

    def test_explicit_padding(self, v1, graph, imported, same, write_network):
        write_network(graph, v1)
        valid = graph.proto.message(2, b"VALID")
        strides = graph.proto.message(1, graph.proto.message(3, bytes([1, 2, 2, 1])))
        graph.node("FeatureExtractor/padded/Conv2D", "Conv2D", "image_tensor", padding=valid, strides=strides)
        same(imported(graph).model, v1, explicit=True)

    @pytest.mark.parametrize("regular", [None, False, True])
    def test_a_graph_for_tflite(self, v1, graph, imported, anchors, write_network, regular):
        dims = b"".join(graph.proto.message(2, graph.proto.number(1, n)) for n in (1, 300, 300, 3))
        graph.node("normalized_input_image_tensor", "Placeholder", shape=graph.proto.message(7, dims))
        write_network(graph, v1)
        table = anchors([19, 10, 5, 3, 2, 1], third=0.25)[:, [1, 0, 3, 2]].astype(np.float32)
        graph.const("anchors", table)
        reals = {f"{side}_scale": graph.real(value) for side, value in zip("yxhw", (10, 10, 5, 5), strict=True)}
        graph.node(
            "TFLite_Detection_PostProcess", "TFLite_Detection_PostProcess", "a", "b", "anchors",
            nms_iou_threshold=graph.real(0.55), nms_score_threshold=graph.real(0.1),
            max_detections=graph.proto.number(3, 20), detections_per_class=graph.proto.number(3, 7), **reals,
            **({} if regular is None else {"use_regular_nms": graph.proto.number(5, int(regular))}),
        )  # fmt: skip
        foreign = imported(graph)
        assert np.abs(foreign.model.priors.numpy()[:, [1, 0, 3, 2]] - table).max() < 1e-6
        rule = DETECTION["tflite-regular" if regular else "tflite"]
        wanted = replace(rule, keep=20, nms_iou=0.55, score_min=0.1, keep_per_class=7 if regular else None)
        assert foreign.thresholds == wanted

    def test_a_saved_model_with_its_constants(self, v1, graph, tables, tmp_path, write_network):
        write_network(graph, v1)
        path = tmp_path / "saved_model.pb"
        path.write_bytes(tables.number(1, 1) + tables.message(2, tables.message(2, graph.data)))
        assert import_checkpoint(path).num_classes == 3

    def test_values_that_go_on_to_the_end(self, v1, graph, imported, write_network):
        """A constant of one value is written once, whatever its shape; none at all are zeros."""
        name, other = f"{V1}/Conv2d_0/BatchNorm/gamma", f"{V1}/Conv2d_0/BatchNorm/beta"
        rest = {k: v for k, v in v1.items() if k not in (name, other)}
        rest[f"{V1}/Conv2d_0/weights"] = v1[f"{V1}/Conv2d_0/weights"].astype(np.float16)
        graph.const(name, v1[name], content=b"\x2d" + struct.pack("<f", 1.5))
        graph.const(other, v1[other], content=b"")
        write_network(graph, rest)
        state = imported(graph).model.state_dict()
        norm = next(key for key in state if "Conv2d_0_norm.weight" in key)
        assert torch.equal(state[norm], torch.full((16,), 1.5))
        assert torch.equal(state[norm.replace("weight", "bias")], torch.zeros(16))

    def test_a_quantised_graph(self, v1, graph, imported, same, write_network):
        """Trained for 8 bits: kernels pass a node that rounds them, ranges lie beside the variables."""
        write_network(graph, {k: v for k, v in v1.items() if "Conv2d_0/" not in k})
        scope = f"{V1}/Conv2d_0"
        for name, value in v1.items():
            if name.startswith(f"{scope}/"):
                graph.node(f"{graph.const(name, value)}/read", "Identity", name)
        for end in ("min", "max"):
            graph.node(f"{graph.const(f'{scope}/weights_quant/{end}', np.float32(1))}/read", "Identity")
        graph.node(f"{scope}/mul_fold", "Mul", f"{scope}/weights/read", "correction")
        graph.node(f"{scope}/weights_quant/Fake", "FakeQuantWithMinMaxVars", f"{scope}/mul_fold")
        graph.node(f"{scope}/Conv2D_Fold", "Conv2D", "image_tensor", f"{scope}/weights_quant/Fake")
        same(imported(graph).model, v1)
