"""Networks that decode their boxes by single operations, and choose them by NonMaxSuppression."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from singleshot.boxes import decode
from singleshot.errors import CheckpointError
from singleshot.prior_boxes import from_shapes, prior_table
from singleshot.weights.importing import import_foreign

GRIDS = ((10, 18), (5, 9))
SHAPES = (((9.0, 7.0), (14.0, 20.0)), ((30.0, 24.0), (22.0, 36.0), (16.0, 16.0)))
COLUMNS = 4


@pytest.fixture
def network(ir):
    """network(suppressed): the path of a network whose heads are one convolution for a map, with offsets first."""
    op, ov = ir.op, ir.ov

    def whole(*values):
        return op.constant(np.array(values, np.int64))

    def number(value):
        return op.constant(np.float32(value))

    def decoded(loc, priors):
        """ty tx th tw -> y0 x0 y1 x1, with splits and several places for one division."""
        ty, tx, th, tw = (op.split(loc, op.constant(np.int64(2)), 4).output(k) for k in range(4))
        x, y, w, h = (op.constant(priors[None, :, k : k + 1].astype(np.float32)) for k in range(4))
        cy = op.add(op.multiply(op.divide(ty, number(10)), h), y)
        cx = op.add(op.multiply(op.divide(tx, number(10)), w), x)
        half_h, half_w = (
            op.multiply(op.multiply(op.exp(op.divide(t, number(5))), side), number(0.5))
            for t, side in ((th, h), (tw, w))
        )
        sides = [op.subtract(cy, half_h), op.subtract(cx, half_w), op.add(cy, half_h), op.add(cx, half_w)]
        return op.concat(sides, 2)

    def make(suppressed=True, of_class=False, activation="softmax"):
        builder = ir.builder(5)
        image, x = builder.image()
        first = op.relu(builder.conv(op.relu(builder.conv(x, 8, stride=2)), 8, stride=2))
        second = op.relu(builder.conv(first, 12, stride=2))
        locations, logits = [], []
        for m, shapes in zip((first, second), SHAPES, strict=True):
            both = op.transpose(builder.conv(m, len(shapes) * (4 + COLUMNS)), whole(0, 2, 3, 1))
            parts = op.variadic_split(both, op.constant(np.int64(3)), whole(4 * len(shapes), -1))
            locations.append(op.reshape(parts.output(0), whole(1, -1, 4), special_zero=False))
            logits.append(op.reshape(parts.output(1), whole(1, -1, COLUMNS), special_zero=False))
        priors = prior_table(from_shapes(ir.sides, GRIDS, SHAPES))
        boxes = decoded(op.concat(locations, 1), priors)
        scores = op.concat(logits, 1)
        scores = op.softmax(scores, 2) if activation == "softmax" else op.sigmoid(scores)
        if not suppressed:
            ends = [boxes, scores]
        else:
            real = op.transpose(
                op.strided_slice(scores, whole(0, 0, 1), whole(0, 0, 0), whole(1, 1, 1), [1, 1, 0], [1, 1, 1]),
                whole(0, 2, 1),
            )
            limits = [op.constant(np.int64(40)), number(0.55), number(0.3)]
            alone = [op.gather(real, whole(c), op.constant(np.int64(1))) for c in range(COLUMNS - 1)]
            chosen = [op.non_max_suppression(boxes, s, *limits) for s in (alone if of_class else [real])]
            ends = [*(c.output(0) for c in chosen), boxes, scores]
        path = ir.save_all(ends, image)
        return path, ov.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    return make


def compare(compiled, foreign) -> None:
    spec = foreign.model.input_spec
    image = np.random.default_rng(7).integers(0, 256, spec.shape).astype(np.float32)
    turned = image[..., ::-1] if spec.colour_order == "bgr" else image
    found = compiled(turned.transpose(2, 0, 1)[None])
    boxes, scores = (np.array(found[i]) for i in list(range(len(compiled.outputs)))[-2:])
    with torch.inference_mode():
        raw = foreign.model(torch.from_numpy(image).permute(2, 0, 1)[None])
    own = raw.logits.softmax(-1) if foreign.thresholds.activation == "softmax" else raw.logits.sigmoid()
    mine = decode(raw.offsets[0], foreign.model.priors, foreign.model.prior_spec.variances).numpy()
    assert np.abs(boxes[0][:, [1, 0, 3, 2]] - mine).max() < 1e-4
    assert np.abs(scores[0][:, -own.shape[-1] :] - own[0, :, -scores.shape[-1] :].numpy()).max() < 1e-4
    assert scores.std() > 0.05


@pytest.mark.parametrize("of_class", [False, True])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_suppressed_by_an_operation(of_class, activation, network):
    path, compiled = network(of_class=of_class, activation=activation)
    foreign = import_foreign(path)
    compare(compiled, foreign)
    rule = foreign.thresholds
    assert (rule.score_min, rule.nms_iou, rule.keep_per_class, rule.activation) == (0.3, 0.55, 40, activation)
    assert foreign.model.num_classes == COLUMNS - 1
    assert foreign.model.input_spec.mean == pytest.approx((123, 117, 104), abs=1e-3)


def test_decoded_and_not_suppressed(network):
    path, compiled = network(suppressed=False)
    foreign = import_foreign(path)
    compare(compiled, foreign)
    assert foreign.model.num_classes == COLUMNS - 1
    assert "does not suppress boxes" in " ".join(foreign.notes)


def test_changed_files_are_refused_in_one_line(network):
    path, _ = network()
    text = path.read_text()
    for kind in ("Exp", "Split", "VariadicSplit", "StridedSlice", "SoftMax", "Divide"):
        assert f'type="{kind}"' in text
        path.write_text(text.replace(f'type="{kind}"', 'type="Sinh"', 1))
        with pytest.raises(CheckpointError, match="type Sinh") as caught:
            import_foreign(path)
        assert "\n" not in str(caught.value)
    path.write_text(text.replace('type="Exp"', 'type="Negative"', 1))
    with pytest.raises(CheckpointError, match="another way than an SSD's"):
        import_foreign(path)
