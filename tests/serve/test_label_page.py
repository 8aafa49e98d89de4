"""The page of `singleshot label` in a real browser. What needs none is in test_label_page_files.py."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from singleshot.api.label import LabelOptions, open_labels
from singleshot.api.label_orders import ModelViews
from singleshot.api.label_store import LabelStore
from singleshot.runtime import Detector
from singleshot.serve.connections import server_for
from singleshot.serve.label_app import LabelService, create_label_app
from singleshot.serve.label_server import label_options
from singleshot.serve.server import address_of, listen

try:
    from playwright.sync_api import Page, expect
except ImportError:
    pytestmark = pytest.mark.skip(reason="no Chromium with Playwright")

TOKEN = "a-token-of-sixteen-letters"


class Served(NamedTuple):
    """A service and the set that it labels: three images, of which a.png has objects, a weak one where the model sees a
    bright one."""

    url: str
    folder: Path
    store: LabelStore

    def label(self, name: str) -> list[list[float]]:
        """Rows of a label file."""
        return [
            [float(word) for word in row.split()] for row in (self.folder / "labels" / name).read_text().splitlines()
        ]


@pytest.fixture
def labelled(three_images, detector: Detector) -> Iterator[Callable[..., Served]]:
    """labelled(model=True): a service over connections."""
    root, ends = three_images("1 0.375 0.375 0.25 0.25\n0 0.8 0.8 0.2 0.2\n", "bright\nweak\n"), []

    def start(model: bool = False) -> Served:
        labels = open_labels(LabelOptions(str(root)))
        views = ModelViews(labels.store, detector) if model else None
        if views is not None:
            views.run()
        options = label_options("127.0.0.1", 0, TOKEN)
        server = server_for(options, create_label_app(LabelService(labels.form, labels.store, views, options)))
        listener = listen("127.0.0.1", 0)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        ends.append((server, thread, listener))
        return Served(f"{address_of(listener)}/#token={TOKEN}", root, labels.store)

    yield start
    for server, thread, listener in ends:
        server.stop()
        thread.join()
        listener.close()


def opened(page: Page, name: str = "a.png") -> Page:
    expect(page.locator("#file-name")).to_contain_text(name)
    return page


def objects(page: Page) -> list[str]:
    return [text.replace("\n", " ") for text in page.locator("#objects button.name").all_inner_texts()]


def box_on_screen(page: Page, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """Corners of a box of the 160 x 120 image in pixels of the window."""
    area = page.locator("#canvas").bounding_box()
    assert area is not None
    return tuple(  # type: ignore[return-value]
        start + side / full * length
        for side, start, full, length in zip(
            box, (area["x"], area["y"]) * 2, (160, 120) * 2, (area["width"], area["height"]) * 2, strict=True
        )
    )


def drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    page.mouse.move(*end)
    page.mouse.up()


def test_with_the_mouse(labelled, open_page) -> None:
    served = labelled()
    page = opened(open_page(served.url))
    assert TOKEN not in page.url
    assert objects(page) == ["weak 40 30 80 60", "bright 112 84 144 108"]
    x0, y0, x1, y1 = box_on_screen(page, (40, 30, 80, 60))
    page.mouse.click((x0 + x1) / 2, (y0 + y1) / 2)
    expect(page.locator("#status")).to_have_text("weak, box 40 30 80 60")
    fx, fy, _, _ = box_on_screen(page, (70, 55, 0, 0))
    drag(page, ((x0 + x1) / 2, (y0 + y1) / 2), (fx, fy))
    assert objects(page)[0] == "weak 50 40 90 70"
    _, _, x1, y1 = box_on_screen(page, (0, 0, 90, 70))
    tx, ty, _, _ = box_on_screen(page, (100, 80, 0, 0))
    drag(page, (x1, y1), (tx, ty))
    assert objects(page)[0] == "weak 50 40 100 80"
    page.select_option("#class", "bright")
    assert objects(page)[0] == "bright 50 40 100 80"
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    a, b, c, d = box_on_screen(page, (5, 90, 45, 110))
    drag(page, (a, b), (c, d))
    assert objects(page)[2] == "bright 5 90 45 110"
    page.locator("#objects button.name").nth(1).click()
    page.get_by_role("button", name="Delete").click()
    assert len(objects(page)) == 2
    page.get_by_role("button", name="Undo").click()
    assert len(objects(page)) == 3
    page.get_by_role("button", name="Redo").click()
    assert (served.folder / "labels/a.txt").read_text().startswith("1 0.375")  # nothing is saved so far
    page.get_by_role("button", name="Next").click()
    opened(page, "b.png")
    assert served.label("a.txt") == [
        [0, 75 / 160, 0.5, 50 / 160, pytest.approx(40 / 120)],
        [0, 25 / 160, pytest.approx(100 / 120), 0.25, pytest.approx(20 / 120)],
    ]
    expect(page.locator("#progress-text")).to_have_text("1 of 3 looked at")


def test_with_keys_alone(labelled, open_page) -> None:
    served = labelled()
    page = opened(open_page(served.url))
    press = page.keyboard.press
    press("j")
    press("ArrowRight")
    press("+")
    press("Shift+ArrowDown")
    assert objects(page)[0] == "weak 41 30 81 65"
    press("1")
    assert objects(page)[0] == "bright 41 30 81 65"
    press("j")
    press("x")
    press("b")
    assert objects(page)[1:] == ["bright 60 45 100 75"]
    press("u")
    press("u")
    assert len(objects(page)) == 2
    press("r")
    press("Control+z")
    press("Control+y")
    assert len(objects(page)) == 1
    press("s")
    expect(page.locator("#status")).to_have_text("Saved.")
    assert served.label("a.txt") == [[0, 61 / 160, pytest.approx(47.5 / 120), 0.25, pytest.approx(35 / 120)]]
    press("n")
    opened(page, "b.png")
    press("e")
    expect(page.locator("#file-name")).to_contain_text("saved")
    assert served.label("b.txt") == []
    press("p")
    opened(page, "a.png")
    press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    press("n")  # no shortcut while the list is open
    press("Escape")
    page.get_by_role("button", name="Keyboard").click()
    page.get_by_label("Use single letters").uncheck()
    press("Escape")
    press("n")
    opened(page, "a.png")


def test_proposals(labelled, open_page) -> None:
    served = labelled(model=True)
    page = opened(open_page(served.url))
    names = page.locator("#proposals button.name")
    expect(names).to_have_count(2)  # the weak one is there already
    page.locator("#threshold").fill("0.85")
    expect(names).to_have_count(1)
    page.keyboard.press("Escape")
    page.keyboard.press("a")
    assert objects(page)[-1] == "bright 40 30 80 60"
    expect(names).to_have_count(0)
    page.keyboard.press("u")
    page.locator("#threshold").fill("0.1")
    page.keyboard.press("Escape")
    page.keyboard.press("Shift+A")
    assert len(objects(page)) == 4
    page.keyboard.press("s")
    expect(page.locator("#status")).to_have_text("Saved.")
    assert len(served.label("a.txt")) == 4


def test_suspected_label_errors_come_first(labelled, open_page) -> None:
    served = labelled()
    for name in "bc":
        (served.folder / "labels" / f"{name}.txt").write_text("0 .375 .375 .25 .25\n")
    (served.folder / "labels" / "b.txt").write_text("1 .375 .375 .25 .25\n")
    (served.folder / "labels" / "a.txt").write_text("0 .375 .375 .25 .25\n")
    page = opened(open_page(labelled(model=True).url))
    page.select_option("#order", "suspect")
    opened(page, "b.png")
    row = page.locator("#suspects button")
    expect(row).to_contain_text("class")
    expect(row).to_contain_text("(bright)")
    row.click()
    page.keyboard.press("1")
    expect(row).to_have_count(0)


def test_a_class_more(labelled, open_page) -> None:
    page = opened(open_page(labelled().url))
    name = page.get_by_label("A class more")
    name.fill("wild boar")
    name.press("Enter")
    expect(page.locator("#class")).to_have_value("wild boar")
    expect(name).to_have_value("")
    page.locator("#add").click()
    expect(page.locator("#objects")).to_contain_text("wild boar")
    page.locator("#save").click()
    expect(page.locator("#status")).to_have_text("Saved.")
    name.fill("wild boar")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("is there already")


def test_two_tabs(labelled, open_page) -> None:
    served = labelled()
    page, other = opened(open_page(served.url)), opened(open_page(served.url))
    for one in (page, other):
        one.keyboard.press("j")
        one.keyboard.press("x")
    page.keyboard.press("s")
    expect(page.locator("#status")).to_have_text("Saved.")
    text = (served.folder / "labels/a.txt").read_text()
    other.keyboard.press("n")
    expect(other.get_by_role("alert")).to_contain_text("changed elsewhere")
    opened(other, "a.png")
    assert (served.folder / "labels/a.txt").read_text() == text
    other.get_by_role("button", name="Load again").click()
    expect(other.locator("#message")).to_be_hidden()
    expect(other.locator("#objects button.name")).to_have_text(["bright112 84 144 108"])


def test_with_a_finger_on_a_phone(labelled, open_page) -> None:
    served = labelled()
    page = opened(open_page(served.url, 390, 844, has_touch=True, is_mobile=True))
    assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
    x0, y0, x1, y1 = box_on_screen(page, (40, 30, 80, 60))
    page.touchscreen.tap((x0 + x1) / 2, (y0 + y1) / 2)
    expect(page.locator("#status")).to_have_text("weak, box 40 30 80 60")
    tools = page.context.new_cdp_session(page)
    tx, ty, _, _ = box_on_screen(page, (90, 75, 0, 0))

    def touch(kind: str, *points: tuple[float, float]) -> None:
        tools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]})

    touch("touchStart", (x1 + 8, y1 + 8))  # a finger meets a handle from further off
    touch("touchMove", ((x1 + tx) / 2, (y1 + ty) / 2))
    touch("touchMove", (tx + 8, ty + 8))
    touch("touchEnd")
    assert objects(page)[0] == "weak 40 30 90 75"
    small = page.locator("button:visible").evaluate_all(
        "(all) => all.filter((one) => one.getBoundingClientRect().height < 24).map((one) => one.id || one.textContent)"
    )
    assert small == []  # WCAG 2.2, 2.5.8


def test_what_a_screen_reader_is_given(labelled, open_page) -> None:
    page = opened(open_page(labelled(model=True).url))
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, progress, canvas")].filter((one) =>
        !(one.textContent.trim() || one.labels?.length || one.getAttribute("aria-label")
          || one.getAttribute("aria-labelledby"))).map((one) => one.outerHTML)"""
    )
    assert nameless == []
    expect(page.locator("#canvas")).to_have_attribute("aria-label", re.compile(r"a\.png: 2 objects, No box chosen"))
    page.keyboard.press("j")
    expect(page.locator("#status")).to_have_text("weak, box 40 30 80 60")
    expect(page.locator("#objects button.name").first).to_have_attribute("aria-pressed", "true")


def test_without_the_token(labelled, open_page) -> None:
    page = open_page(labelled().url.partition("#")[0])
    expect(page.get_by_role("alert")).to_contain_text("open the address that singleshot label printed")


def test_an_image_that_cannot_be_read_is_passed_over(labelled, open_page) -> None:
    served = labelled()
    (served.folder / "images/b.png").write_bytes(b"no picture")
    page = opened(open_page(served.url))
    page.keyboard.press("n")
    opened(page, "b.png")
    expect(page.get_by_role("alert")).to_contain_text("b.png")
    page.keyboard.press("n")
    opened(page, "c.png")
