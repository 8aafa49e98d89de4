from __future__ import annotations

import resource

import numpy as np
import pytest

from singleshot.errors import CheckpointError
from singleshot.weights.importing import import_checkpoint, import_foreign
from singleshot.weights.readers.sniff import read_foreign

SIDE = 64
PRIORS = {"min_size": [10], "max_size": [20], "aspect_ratio": [2], "variance": [0.1, 0.1, 0.2, 0.2]}


@pytest.fixture
def small(caffe, tmp_path):
    """rows, arrays, and a caffemodel with its prototxt beside it."""
    rows = [caffe.conv("c1", "data", 8, 3, 4, 1), caffe.relu("r", "c1"), *caffe.head("c1", PRIORS, 4, 3)]
    rows += caffe.end(["c1"], 3)
    arrays = caffe.weights(rows)
    return rows, arrays, caffe.both(tmp_path, arrays, rows, SIDE)


def refused(path, match):
    with pytest.raises(CheckpointError, match=match) as caught:
        import_checkpoint(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_cut_is_refused(small):
    _, _, path = small
    data = path.read_bytes()
    assert import_checkpoint(path).num_classes == 2
    for end in (0, 1, 5, 6, 20, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:end])
        refused(path, str(path))


def test_changed_bytes_are_refused_or_do_no_harm(small):
    _, _, path = small
    data = bytearray(path.read_bytes())
    random = np.random.default_rng(0)
    for _ in range(150):
        spoilt = data.copy()
        for at in random.integers(0, min(len(data), 400), 3):
            spoilt[at] = random.integers(256)
        path.write_bytes(spoilt)
        try:
            import_checkpoint(path)
        except CheckpointError as error:
            assert "\n" not in str(error)


def test_shapes_that_are_not_those_of_the_data(small, tables):
    _, _, path = small
    number, message = tables.number, tables.message
    for dims in ([2**40, 2**40], [2**62], [2**63], [0], [3]):
        blob = message(7, b"".join(number(1, n) for n in dims)) + message(5, bytes(16))
        layer = message(1, b"c1") + message(2, b"Convolution") + message(7, blob)
        path.write_bytes(message(100, layer))
        refused(path, r"c1\[0\]: 4 values in the shape")


def test_bombs_take_no_memory(small, tables):
    """Many empty messages, deep ones, many whole numbers: small files that would become large in memory."""
    _, _, path = small
    deep = b""
    for _ in range(300):
        deep = tables.message(2, deep)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data, match in (
        (b"\xa2\x06\x00" * 2_100_000, "of more than"),
        (
            tables.message(100, tables.message(7, tables.message(7, tables.message(1, bytes(3_000_000))))),
            "of more than",
        ),
        (deep, "is not text"),
    ):
        path.write_bytes(data)
        refused(path, match)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("layer { name: ", "cannot be read as protobuf text"),
        ("layer { " * 5_000, "brackets nested too deep"),
        ("unknown < " * 50_000, "brackets nested too deep"),
        ("layer { name: 'a' type: 'ReLU' bottom: 3 }", "cannot be read as protobuf text"),
        ("\udcff", "is not text"),
        ("", "describes no network"),
        ("base_lr: 0.1", "describes no network"),
        ("layer {}\n" * 6000, "6000 layers"),
        ("x" * (3 * 2**20), "larger than 2 MB"),
        (
            'layer { type: "DetectionOutput" bottom: "data" detection_output_param { num_classes: 3 code_type: '
            'CENTER_SIZE } } input: "data" input_dim: [1, 3, 64, 64]',
            "confidences without Softmax",
        ),
    ],
)
def test_prototxts_that_are_none(text, match, small):
    _, _, path = small
    path.with_suffix(".prototxt").write_bytes(text.encode(errors="surrogateescape"))
    refused(path, match)


CHANGES = [
    ("dim: 3 dim: 64", "dim: 2 dim: 64", "takes images of 2x64x64; want 3 channels, or 1 for grey"),
    ("dim: 3 dim: 64", "dim: 1 dim: 64", r"c1\[0\] is 8x3x3x3, want 8x1x3x3"),
    ("dim: 64 dim: 64", "dim: 9000000 dim: 9000000", "images of 9000000x9000000"),
    ("min_size: 10", "min_size: 0", "sizes or ratios that are not positive"),
    ("min_size: 10", "min_size: nan", "sizes or ratios that are not positive"),
    ("min_size: 10", "", "PriorBox with 0 sizes"),
    ("aspect_ratio: 2", "aspect_ratio: 2 " * 100, "100 ratios"),
    (
        "aspect_ratio: 2",
        "aspect_ratio: 2 aspect_ratio: 3",
        "c1_mbox_loc of type Convolution gives 16x16x16, want 6 x 4",
    ),
    ("variance: 0.1 variance: 0.1", "variance: 0.1 variance: 0", "want one or four numbers"),
    ("aspect_ratio: 2", "aspect_ratio: 2 step_h: -3 step_w: 4", "steps of 4.0 and -3.0 pixels"),
    ("code_type: CENTER_SIZE", "", "code_type CORNER .*, want CENTER_SIZE"),
    ("code_type: CENTER_SIZE", "code_type: CORNER_SIZE", "code_type CORNER_SIZE .*, want CENTER_SIZE"),
    ("top_k: 400", "top_k: 400 eta: 0.9", "lowers its NMS threshold as it goes .eta 0.9., want 1"),
    (
        "code_type: CENTER_SIZE",
        "code_type: CENTER_SIZE share_location: false",
        "boxes of its own for each of 2 classes",
    ),
    ("code_type: CENTER_SIZE", "code_type: CENTER_SIZE background_label_id: 3", "3 classes with background 3"),
    ("confidence_threshold: 0.01", "confidence_threshold: 7", "threshold score_min: 7.0, want 0 to 1"),
    ("order: 0 order: 2 order: 3 order: 1", "order: 0 order: 1 order: 2 order: 3", "want Permute of order 0 2 3 1"),
    ("stride: 4", "stride: 0", "stride"),
    ("kernel_size: 3 stride: 4 pad: 1", "kernel_size: 99 stride: 4 pad: 1", "outputs of"),
    ("num_output: 8", "num_output: 8 group: 3", "in 3 groups"),
    ('type: "ReLU"', 'type: "Python" python_param { module: "os" layer: "x" }', "layer r of type Python is not known"),
    ('type: "ReLU"', 'type: "Permute"', "layer r of type Permute is not known"),
    ('type: "Softmax"', 'type: "Accuracy"', "confidences without Softmax or Sigmoid"),
]


@pytest.mark.parametrize(("old", "new", "match"), CHANGES)
def test_networks_that_ours_cannot_be(old, new, match, small):
    _, _, path = small
    file = path.with_suffix(".prototxt")
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    refused(path, match)


def test_weights_that_become_infinite(caffe, small):
    rows, arrays, path = small
    rows = [rows[0], *caffe.norm("c1", "c1"), *rows[1:]]
    arrays = caffe.weights(rows)
    arrays["c1/scale[0]"] = np.full(8, 3e38, np.float32)
    arrays["c1/bn[1]"] = np.full(8, 1e-6, np.float32)
    refused(caffe.both(path.parent, arrays, rows, SIDE), "become infinite")
    arrays["c1/scale[0]"] = np.full(8, np.nan, np.float32)
    refused(caffe.both(path.parent, arrays, rows, SIDE), "NaN or infinity")
    arrays["c1/bn[1]"] = np.full(8, -1, np.float32)
    refused(caffe.both(path.parent, arrays, rows, SIDE), "negative variance")


def test_which_prototxt_is_taken(caffe, small):
    _, _, path = small
    own, folder = path.with_suffix(".prototxt"), path.parent
    text = own.read_text()
    own.unlink()
    refused(path, "without their network; put the prototxt next to")
    (folder / "a_deploy.prototxt.txt").write_text(text)
    (folder / "a_train.prototxt").write_text("nonsense {")
    (folder / "solver.prototxt").write_text("net: 'x'")
    assert import_foreign(path).notes[-1].endswith("a_deploy.prototxt.txt")
    own.write_text("nonsense {")
    refused(path, r"net\.prototxt: cannot be read")
    assert import_foreign(path, companion=folder / "a_deploy.prototxt.txt").model.num_classes == 2
    with pytest.raises(CheckpointError, match=r"nowhere\.prototxt: no such file"):
        import_foreign(path, companion=folder / "nowhere.prototxt")
    refused(folder / "a_deploy.prototxt.txt", "describes a network without its weights; name the .caffemodel")


def test_a_caffemodel_is_known_by_its_content(caffe, small, tables):
    _, arrays, path = small
    other = path.with_name("weights.bin")
    for data in (caffe.model(arrays), caffe.model(arrays)[5:], caffe.model(arrays, v1={"Convolution": 4})):
        other.write_bytes(data)
        assert read_foreign(other).kind == "caffe"
    node = tables.message(1, tables.message(1, b"a") + tables.message(2, b"Placeholder"))
    other.write_bytes(node * 3)
    try:
        assert read_foreign(other).kind != "caffe"
    except CheckpointError as error:
        assert "Caffe" not in str(error)


def test_default_boxes_that_are_in_code(caffe, small):
    """As AIZOO's face mask detector and Ultra-Light have it: heads, joined, and nothing that says what boxes are."""
    rows, arrays, path = small
    kept = [row for row in rows if row[1] not in ("PriorBox", "DetectionOutput") and row[0] != "mbox_priorbox"]
    refused(caffe.both(path.parent, arrays, kept, SIDE), "2 heads, but neither PriorBox nor DetectionOutput")
