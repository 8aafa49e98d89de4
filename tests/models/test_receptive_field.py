"""Receptive fields: published sizes, and which pixels really change a cell."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from singleshot.inputs import InputSpec
from singleshot.models import SSD, build
from singleshot.models.graph import build_graph
from singleshot.models.graph_spec import Graph, HeadInput, Layer
from singleshot.models.heads import make_heads
from singleshot.models.receptive_field import Cell, ReceptiveFields, gradient_fields
from singleshot.models.ssd import PlainNeck
from singleshot.prior_boxes import from_shapes


def all_that_matters(model: SSD, cell: Cell) -> tuple[int, int, int, int]:
    """The box of pixels whose change reaches the cell: weights are made positive, so that nothing cancels."""
    for one in model.modules():
        if isinstance(one, nn.Conv2d):
            nn.init.constant_(one.weight, 0.1)
            if one.bias is not None:
                nn.init.constant_(one.bias, 0.1)
    images = torch.full((1, 3, *model.input_spec.sides), 200.0)
    (box,) = gradient_fields(model, images, [cell], part=1 - 1e-12)
    assert box is not None
    return box


def network(layers: list[Layer], side: int, maps: int) -> SSD:
    """A graph of one map on an input of that side; its last layer has 4 channels."""
    graph = Graph(tuple(layers), (HeadInput(layers[-1].name, layers[-1].name, (4, 4)),))
    priors = from_shapes(side, (maps,), (((20.0, 20.0),),))
    return build_graph(graph, 2, priors, InputSpec(side)).eval()


def conv(name: str, of: str, inputs: int, **options: object) -> Layer:
    return Layer(name, "conv", (of,), {"inputs": inputs, "outputs": 4, **options})


CASES = {
    "strided, dilated, unevenly padded": (
        [conv("a", "image", 3, kernel=3, stride=2, padding=(0, 1, 0, 1)), Layer("r", "relu", ("a",), {}),
         conv("b", "r", 4, kernel=(1, 3), padding=(2, 2, 0, 0), dilation=2)], 32, (9, 9), (14, 18, 25, 21)),
    "pooled": (
        [conv("a", "image", 3, kernel=3, padding=1),
         Layer("p", "maxpool", ("a",), {"kernel": 3, "stride": 2, "padding": 1}),
         Layer("q", "avgpool", ("p",), {"kernel": 2, "stride": 2})], 8, (4, 4), (14, 14, 21, 21)),
    "enlarged and added": (
        [conv("a", "image", 3, kernel=3, padding=1), Layer("p", "maxpool", ("a",), {"kernel": 4}),
         Layer("u", "enlarge", ("p", "a"), {}), Layer("s", "add", ("u", "a"), {})], 32, (9, 9), (7, 7, 13, 13)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_layers_are_followed_back(name: str) -> None:
    layers, maps, (row, column), expected = CASES[name]
    model = network(layers, 64 if name.startswith("strided") else 32, maps)
    field = ReceptiveFields(model).of(Cell(0, row, column))
    assert field == expected
    x0, y0, x1, y1 = all_that_matters(model, Cell(0, row, column))
    assert field[0] <= x0 < x1 <= field[2]
    assert field[1] <= y0 < y1 <= field[3]


def test_published_sizes_of_vgg16() -> None:
    """conv4_3 sees 92 pixels; conv5_3 with pool5 at stride 1 and fc6 dilated by 6, fc7, see 420 (from the layers)."""
    fields = ReceptiveFields(build("ssd300-vgg16", 3).eval())
    for cell, size in ((Cell(0, 19, 19), 92), (Cell(1, 9, 9), 420)):
        box = fields.of(cell)
        assert box is not None
        assert (box[2] - box[0], box[3] - box[1]) == (size, size)


@pytest.mark.parametrize("name", ["ssd320-mini", "ssd320-lite0"])
def test_no_pixel_beyond_the_field_matters(name: str) -> None:
    torch.manual_seed(0)
    model = build(name, 2).eval()
    fields = ReceptiveFields(model)
    images = torch.randint(0, 256, (1, 3, 320, 320), dtype=torch.uint8)
    cells = [Cell(0, 12, 39)]
    for cell, box in zip(cells, gradient_fields(model, images, cells, part=1 - 1e-9), strict=True):
        field = fields.of(cell)
        assert field is not None
        assert box is not None
        assert max(field[0], 0) <= box[0] < box[2] <= min(field[2], 320)
        assert max(field[1], 0) <= box[1] < box[3] <= min(field[3], 320)


@pytest.mark.parametrize("linear", ["centres", "corners"])
@pytest.mark.parametrize("cell", [0, 9, 31])
def test_linear_enlarging_is_followed_back(linear: str, cell: int) -> None:
    layers = [conv("a", "image", 3, kernel=2, stride=2), Layer("u", "upsample", ("a",), {"scale": 2, "linear": linear})]
    model = network(layers, 32, 32)
    field = ReceptiveFields(model).of(Cell(0, cell, cell))
    assert field is not None
    x0, y0, x1, y1 = all_that_matters(model, Cell(0, cell, cell))
    assert field[0] <= x0 < x1 <= field[2] <= field[0] + 6
    assert field[1] <= y0 < y1 <= field[3]


def test_a_layer_that_looks_at_everything() -> None:
    layers = [conv("a", "image", 3, kernel=3, padding=1), Layer("g", "avgpool", ("a",), {})]
    model = network([*layers, Layer("m", "mul", ("a", "g"), {})], 32, 32)
    assert ReceptiveFields(model).of(Cell(0, 3, 3)) == (-1, -1, 33, 33)


class Turned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.pixel_shuffle(self.layer(x), 2)


def test_a_layer_that_is_not_known_gives_none() -> None:
    spec = from_shapes(64, (64,), (((20.0, 20.0),),))
    model = SSD(Turned(), PlainNeck(), make_heads([1], spec, 2, ["conv"]), spec, InputSpec(64), 2).eval()
    assert ReceptiveFields(model).of(Cell(0, 9, 9)) is None


def test_the_gradient_s_box_holds_its_part() -> None:
    model = network([conv("a", "image", 3, kernel=9, padding=4)], 32, 32)
    with torch.no_grad():
        model.backbone.layers["000_a"].weight.zero_()
        model.backbone.layers["000_a"].weight[0, 0, 4] = torch.tensor([0.01, 0, 0, 0.3, 0.38, 0.3, 0, 0, 0.01])
    assert gradient_fields(model, torch.full((1, 3, 32, 32), 255.0), [Cell(0, 16, 16)]) == [(15, 16, 18, 17)]
    with torch.no_grad():
        model.backbone.layers["000_a"].weight.zero_()
    assert gradient_fields(model, torch.zeros(1, 3, 32, 32), [Cell(0, 16, 16)]) == [None]


def test_a_head_whose_halves_look_at_two_maps() -> None:
    """The field is that of both: here the wider one of the second layer."""
    graph = Graph((conv("a", "image", 3, kernel=3, padding=1), conv("b", "a", 4, kernel=5, padding=2)),
                  (HeadInput("a", "b", (4, 4)),))  # fmt: skip
    spec = from_shapes((32, 48), ((32, 48),), (((20.0, 20.0),),))
    model = build_graph(graph, 2, spec, InputSpec(height=32, width=48)).eval()
    assert ReceptiveFields(model).of(Cell(0, 10, 40)) == (37, 7, 44, 14)
    assert all_that_matters(model, Cell(0, 10, 40)) == (37, 7, 44, 14)
