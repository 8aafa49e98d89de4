"""The page: every section is there, nothing is fetched, names from strangers are text, what is not measured is said."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from singleshot.datasets.packed_strings import StringTable
from singleshot.records import ImageDetections, SeenImage
from singleshot.report.evaluation_sections import evaluation_sections, headline
from singleshot.report.html import Picture
from singleshot.report.page import MAX_BYTES, render_page, write_page
from singleshot.report.run_sections import (
    batch_section,
    course_section,
    data_section,
    model_section,
    pictures_section,
    settings_section,
)
from singleshot.report.versions import versions

HOSTILE = "<script>alert(1)</script>'\"&{{ 7 * 7 }}"
ROWS = [
    {"epoch": 0.0, "loss": 3.0, "loss_location": 1.0, "loss_confidence": 2.0, "lr": 0.1, "images_per_second": 9.0},
    {"epoch": 1.0, "loss": 2.0, "loss_location": 0.5, "loss_confidence": 1.5, "lr": 0.05, "images_per_second": 9.0,
     "val_loss_location": 1.0, "val_loss_confidence": 2.0, "val_map50": 0.25},
]  # fmt: skip


class Page(HTMLParser):
    """Elements that are never closed or closed twice, addresses, anchors."""

    VOID = ("meta", "img", "br")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.anchors: set[str] = set()
        self.tags: set[str] = set()
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.add(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "action", "data")]
        self.anchors |= {value for name, value in attrs if name == "id"}
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag


def whole(measured, title="a run") -> str:
    seen = [SeenImage(np.full((32, 32, 3), 90, np.uint8), np.array([[0.1, 0.1, 0.5, 0.5]]), np.array([0]))]
    sections = [
        course_section(ROWS),
        *evaluation_sections(measured),
        batch_section(seen, measured.dataset.class_names),
        data_section({"test": measured.dataset, "train": None}),
        settings_section({"data": HOSTILE, "classes": None}, {"augment": {"mirror_p": 0.5}}, f"train {HOSTILE}"),
        model_section({"parameters": 1234567, "gflops": None, "network": HOSTILE}, versions()),
        pictures_section("more", HOSTILE, [Picture(None, (HOSTILE,))], HOSTILE),
    ]  # fmt: skip
    return render_page(title, HOSTILE, headline(measured), [one for one in sections if one is not None])


def test_a_page_is_whole_and_fetches_nothing(measured) -> None:
    html = whole(measured)
    page = Page(html)
    assert len(html) < MAX_BYTES
    for address in page.addresses:
        assert address.startswith("data:image/jpeg;base64,") or address.removeprefix("#") in page.anchors, address
    assert not page.tags & {"script", "link", "iframe", "object", "form"}
    assert not re.search(r"url\(|@import|https?://", html)
    wanted = {"course", "classes", "curves", "confusion", "sizes", "errors", "labels", "batch", "data", "settings"}
    assert wanted <= page.anchors
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html
    assert 'name="viewport"' in html


def test_pictures_have_their_place_before_they_are_decoded(measured) -> None:
    """Else a link to a section arrives somewhere else, and a printed page lacks what was not scrolled to."""
    html = whole(measured)
    assert len(re.findall("<img", html)) == len(re.findall(r'<img width="\d+" height="\d+" decoding="async"', html)) > 0
    assert "lazy" not in html


def test_names_of_strangers_are_text(measured, measure, detections) -> None:
    dataset = measured.dataset
    names = StringTable.from_iterable([f"/data/{HOSTILE}{i}.jpg" for i in range(len(dataset))])
    hostile = replace(dataset, class_names=(HOSTILE, "{% raw %}", "c" * 5000, "\u202eabc\x00"), names=names)
    html = whole(measure(hostile, detections(dataset), HOSTILE), HOSTILE)
    Page(html)
    assert "<script" not in html
    assert "{{ 7 * 7 }}" in html  # as it came
    assert "could not be read" in html  # there is no such file
    assert "c" * 200 not in html


def test_without_an_object_nothing_is_0_that_was_not_measured(dataset, measure) -> None:
    bare = dataset.subset([0])
    none = np.zeros(0, np.int64)
    bare = replace(bare, ptr=np.array([0, 0]), boxes_px=np.zeros((0, 4), np.float32), labels=none,
                   difficult=none.astype(bool), crowd=none.astype(bool), area=none.astype(np.float32))  # fmt: skip
    nothing = ImageDetections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), none)
    measured = measure(bare, [nothing])
    html = whole(measured)
    assert dict(headline(measured)) == dict.fromkeys(("mAP50", "AP .5:.95", "best score threshold"), "not measured")
    assert "No threshold is best" in html
    plain = measured.to_dict()
    assert plain["score_threshold"] is None
    assert set(plain["coco"].values()) == {None}


def test_many_classes_and_pictures_of_noise_stay_under_the_limit(dataset, measure, detections, tmp_path) -> None:
    path = tmp_path / "noise.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (800, 800, 3), np.uint8))
    names = StringTable.from_iterable([str(path)] * len(dataset))
    many = tuple(f"{i} {'name ' * 20}" for i in range(450))
    noisy = replace(dataset, class_names=many, names=names, sizes=dataset.sizes * 0 + 800)
    html = whole(measure(noisy, detections(dataset)))
    assert html.count("data:image/jpeg") > 15
    assert len(html) < MAX_BYTES
    assert "eval.json has all 450" in html


def test_best_threshold_is_explained(measured) -> None:
    best = measured.points.best
    assert best is not None
    assert f"--score-min {best:.3f}" in whole(measured)


def test_the_confusion_matrix_is_that_of_the_best_threshold(measured) -> None:
    assert measured.confusion.score_min == measured.points.best
    counted = measured.confusion.counts[:-1].sum(axis=1)
    plain = ~(measured.dataset.difficult | measured.dataset.crowd)
    assert counted.tolist() == np.bincount(measured.dataset.labels[plain], minlength=4).tolist()


@pytest.mark.parametrize("history", [[], [{"epoch": None, "loss": None}], ROWS[:1]])
def test_a_run_without_much_of_a_course(history) -> None:
    assert "not measured" in str(course_section(history).body)


def test_bytes_that_are_no_text_do_not_stop_the_page(tmp_path) -> None:
    write_page(tmp_path / "deep" / "page.html", render_page("\udcff", "", [], []))
    assert "<title>?</title>" in (tmp_path / "deep" / "page.html").read_text(encoding="utf-8")


def test_a_batch_in_one_channel(dataset) -> None:
    seen = [SeenImage(np.zeros((20, 30, 1), np.uint8), np.zeros((0, 4)), np.zeros(0, np.int64))]
    assert "no object" in str(batch_section(seen, dataset.class_names).body)
    ignored = [seen[0]._replace(ignored=np.array([[0.1, 0.2, 0.9, 0.8]]))]
    section = batch_section(ignored, dataset.class_names)
    assert "1 ignored region" in str(section.body)
    assert "Grey" in section.note and "Grey" not in batch_section(seen, dataset.class_names).note
    assert batch_section([], dataset.class_names) is None
