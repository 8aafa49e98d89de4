"""Graphs that are cut off, damaged or hostile."""

from __future__ import annotations

import numpy as np
import pytest

from singleshot.errors import CheckpointError
from singleshot.weights.importing import import_checkpoint

V1 = "FeatureExtractor/MobilenetV1"


class TestDamagedGraphs:
    @pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.9999])
    def test_cut_off(self, v1, graph, tmp_path, kept, write_network):
        write_network(graph, v1)
        path = tmp_path / "frozen.pb"
        path.write_bytes(graph.data[: int(len(graph.data) * kept)])
        with pytest.raises(CheckpointError) as caught:
            import_checkpoint(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)

    @pytest.mark.parametrize(
        ("dims", "content", "match"),
        [
            ((2**20, 2**20, 3, 2**20), b"", "more than is read"),
            ((2**14, 2**14, 1, 2), b"\x2d\0\0\0\0", "more than is read"),
            ((3, 3, 3, 2**64 - 5), b"", "more than is read"),
            ((3, 3, 3, 8), b"\x22\x04\0\0\0\0", "1 values for shape"),
            ((1,), b"\x22\x08" + bytes(8), "2 values for shape"),
        ],
    )
    def test_declared_shapes_that_lie(self, graph, imported, dims, content, match):
        graph.const(f"{V1}/Conv2d_0/weights", np.zeros(1, np.float32), dims=dims, content=content)
        with pytest.raises(CheckpointError, match=match):
            imported(graph)

    def test_many_constants_that_are_large_together(self, graph, imported):
        for i in range(5):
            graph.const(f"{V1}/Conv2d_{i}/weights", np.zeros(1, np.float32), dims=(2**13, 2**13), content=b"")
        with pytest.raises(CheckpointError, match="values together"):
            imported(graph)

    def test_cycles(self, v1, graph, imported, write_network):
        graph.node("a", "Identity", "b")
        graph.node("b", "Identity", "a")
        graph.node("c", "Conv2D", "c", "a")
        graph.node(f"{V1}/again/Conv2D", "Conv2D", f"{V1}/again/BiasAdd", f"{V1}/Conv2d_0/weights")
        graph.node(f"{V1}/again/BiasAdd", "BiasAdd", f"{V1}/again/Conv2D", f"{V1}/again/BiasAdd")
        write_network(graph, v1)
        assert imported(graph).model.num_classes == 3

    def test_a_node_twice_or_without_a_value(self, graph, imported):
        graph.node("x", "Const")
        graph.node("x", "Const")
        with pytest.raises(CheckpointError, match="'x' has no name or is there twice"):
            imported(graph)

    def test_a_graph_without_weights(self, graph, imported):
        graph.node("x", "VariableV2")
        with pytest.raises(CheckpointError, match=r"1 nodes without weights; want a frozen one"):
            imported(graph)

    @pytest.mark.parametrize(("size", "match"), [((300, 400), "want a square"), ((8, 8), "want a square of 32")])
    def test_input_sizes_that_are_not_taken(self, v1, graph, imported, size, match, write_network, write_surroundings):
        write_surroundings(graph, size=size)
        write_network(graph, v1)
        with pytest.raises(CheckpointError, match=match):
            imported(graph)

    def test_images_resized_to_no_fixed_size(self, v1, graph, imported, write_network):
        graph.node("Preprocessor/ResizeBilinear", "ResizeBilinear", "image_tensor", "Preprocessor/computed")
        write_network(graph, v1)
        with pytest.raises(CheckpointError, match="not resized to one fixed size"):
            imported(graph)


def test_a_graph_that_does_not_say_what_its_8_bits_stand_for_is_named(graph, tmp_path):
    proto = graph.proto
    for dtype in (11, 12, 13):
        tensor = proto.message(8, proto.number(1, dtype) + proto.message(4, bytes(9)))
        graph.node(f"conv{dtype}/weights_const", "Const", value=tensor)
        graph.node(f"conv{dtype}/weights", "Dequantize", f"conv{dtype}/weights_const")
    path = tmp_path / "quantized_graph.pb"
    path.write_bytes(graph.data)
    with pytest.raises(CheckpointError, match=r"computes in 8 bits \(quantize_nodes\): 3 constants") as caught:
        import_checkpoint(path)
    assert "without weights" not in str(caught.value)


def test_8_bits_that_are_scaled_otherwise_are_refused(v1, graph, imported):
    graph.rounded(f"{V1}/Conv2d_0/weights", v1[f"{V1}/Conv2d_0/weights"], mode="SCALED")
    with pytest.raises(CheckpointError, match=r"Conv2d_0/weights.*mode SCALED"):
        imported(graph)
