"""YOLO-like rows with commas or in pixels: read where the images tell what the numbers are; images are 64 x 48."""

from __future__ import annotations

import pytest

from singleshot.api.label import LabelOptions, open_labels
from singleshot.datasets import open_source
from singleshot.datasets.findings import CollectErrors
from singleshot.datasets.readers.row_meaning import CENTRE_SIZE, CORNER_SIZE, CORNERS, find_meaning

# Boxes at the edges of their images, which leave one reading each.
BOXES = [(0, 0, 20, 10), (40, 30, 64, 48), (0, 28, 12, 48), (50, 2, 64, 14), (2, 0, 62, 47), (44, 28, 63, 46)]


def written(box, meaning):
    x0, y0, x1, y1 = box
    w, h = x1 - x0, y1 - y0
    return {CORNERS: box, CORNER_SIZE: (x0, y0, w, h), CENTRE_SIZE: (x0 + w / 2, y0 + h / 2, w, h)}[meaning]


@pytest.fixture
def rows(folder):
    """rows([box], meaning, separator, parts): a set with an image and a label file for each box."""

    def make(boxes, meaning, separator=" ", parts=False, more=None):
        files = {"obj.names": "cat\ndog\n"}
        for k, box in enumerate(boxes):
            numbers = [
                v / side if parts else v for v, side in zip(written(box, meaning), (64, 48, 64, 48), strict=True)
            ]
            files[f"labels/{k}.txt"] = separator.join(map(str, (k % 2, *numbers))) + "\n"
        return folder({**files, **(more or {})}, [f"images/{k}.png" for k in range(len(boxes))])

    return make


@pytest.mark.parametrize("separator", [" ", ",", ", "])
@pytest.mark.parametrize("meaning", [CORNERS, CORNER_SIZE, CENTRE_SIZE])
def test_pixels_are_read_as_the_images_tell(rows, meaning, separator) -> None:
    root = rows(BOXES, meaning, separator)
    found = CollectErrors()
    raw = open_source(root).read(None, found)
    assert (raw.form, raw.class_names, raw.made) == ("yolo", ("cat", "dog"), True)
    images = sorted(raw.images)
    assert [image.objects[0].box for image in images] == BOXES
    assert [image.objects[0].name for image in images] == ["cat", "dog"] * 3
    assert not any(image.relative for image in raw.images)
    assert [one.kind for one in found.findings] == ["rows-decided"]
    assert f"are read as class {meaning}: so, and not otherwise" in found.findings[0].message
    assert len(open_source(root).read("train").splits["train"]) == 4  # the other splits decide with it


def test_parts_with_commas_are_read_as_the_boxes_tell(rows) -> None:
    raw = open_source(rows(BOXES, CENTRE_SIZE, ",", parts=True)).read()
    image = sorted(raw.images)[1]
    assert image.relative
    assert image.objects[0].box == pytest.approx((40 / 64, 30 / 48, 1, 1))


CENTRAL = [(28, 20, 34, 26)] * 6


@pytest.mark.parametrize(
    ("boxes", "separator", "parts"),
    [(CENTRAL, " ", False), (CENTRAL, ",", False), (CENTRAL, ",", True), (BOXES[:2], " ", False)],
)
def test_what_the_images_do_not_tell_is_refused_in_a_line(rows, one_line, boxes, separator, parts) -> None:
    root = rows(boxes, CENTRE_SIZE, separator, parts)
    text = one_line(open_source(root).read)
    assert "the images do not tell whether they are left top right bottom, or a corner or the centre and a size" in text
    assert "convert them to a CSV of file,xmin,ymin,xmax,ymax,class" in text


def test_swapped_numbers_and_rows_of_other_units_are_not_read(rows, one_line) -> None:
    root = rows([(y0, x0, y1, x1) for x0, y0, x1, y1 in BOXES], CENTRE_SIZE)
    assert "the images do not tell" in one_line(open_source(root).read)
    root = rows(BOXES, CENTRE_SIZE, more={"labels/5.txt": "0 0.5 0.5 0.25 0.25\n"})
    assert "looks like pixels; want parts of the image" in one_line(open_source(root).read)


def test_such_rows_are_not_changed_in_place(rows, one_line) -> None:
    root = rows(BOXES, CENTRE_SIZE)
    assert "rows in pixels or with commas are not changed in place" in one_line(open_labels, LabelOptions(str(root)))


def test_a_meaning_is_certain_where_it_alone_fits() -> None:
    boxes = [(written(box, CORNER_SIZE), (64.0, 48.0)) for box in BOXES]
    assert find_meaning(boxes, 2.0) == CORNER_SIZE
    assert find_meaning([*boxes, *[((20, 20, 6, 6), (64.0, 48.0))] * 100], 2.0) is None  # few of many tell
    assert find_meaning([], 2.0) is None
    assert find_meaning([((float("nan"), 0, 1, 1), (64.0, 48.0))], 2.0) is None


@pytest.mark.parametrize("row", [",", " , ", ", 1"])
def test_a_row_of_separators_alone_is_a_broken_row(rows, row) -> None:
    root = rows(BOXES, CORNERS, ",", more={"labels/1.txt": row + "\n"})
    found = CollectErrors()
    assert len(open_source(root).read(None, found).images) == len(BOXES)
    assert "annotation-malformed" in {one.kind for one in found.findings}
