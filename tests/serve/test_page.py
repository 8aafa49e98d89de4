"""The page in a real browser. What needs none is in test_page_files.py."""

from __future__ import annotations

import base64
import json
import re
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from singleshot.runtime.drawing import class_colours

try:
    from playwright.sync_api import Page, expect
except ImportError:
    pytestmark = pytest.mark.skip(reason="no Chromium with Playwright")


def give(page: Page, data: bytes, name: str = "photo.jpg", kind: str = "image/jpeg") -> None:
    """Open a picture by the file dialog's input."""
    expect(page.locator("#open")).to_be_enabled()
    page.set_input_files("#file", {"name": name, "mimeType": kind, "buffer": data})


def rows(page: Page) -> list[tuple[str, str, str]]:
    """The table as it is seen."""
    return [tuple(row.locator("th, td").all_inner_texts()) for row in page.locator("#rows tr:visible").all()]


def pixels(page: Page, selector: str = "#canvas") -> np.ndarray:
    """What a canvas shows, RGB."""
    address = page.locator(selector).evaluate("(canvas) => canvas.toDataURL('image/png')")
    data = np.frombuffer(base64.b64decode(address.partition(",")[2]), np.uint8)
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def test_boxes_and_a_slider_that_asks_nothing_anew(listening, open_page, picture) -> None:
    service = listening()
    page = open_page(service.url)
    expect(page.locator("#open")).to_be_enabled()
    asked = []
    page.on("request", lambda request: asked.append(request.url.rpartition("/")[2]) if "/v1/" in request.url else None)
    give(page, picture())
    expect(page.locator("#count")).to_have_text("3 detections")
    found = service.detector.detect(picture(), score_min=0.05)
    assert rows(page) == [
        (name, f"{score:.3f}", " ".join(str(int(side + 0.5)) for side in box))
        for name, score, box in zip(found.names, found.scores, found.boxes, strict=True)
    ]
    assert len(rows(page)) == 3
    page.locator("#threshold").fill("0.85")
    assert [row[1] for row in rows(page)] == ["0.900"]
    expect(page.locator("#count")).to_have_text("1 detection")
    expect(page.locator("#rest")).to_have_text("2 more score less or are of classes left out")
    page.get_by_role("button", name="back to 0.10").click()
    page.get_by_label("weak").uncheck()
    assert [row[0] for row in rows(page)] == ["bright", "bright"]
    page.get_by_role("button", name="None").click()
    expect(page.locator("#count")).to_have_text("0 detections")
    page.get_by_role("button", name="All").click()
    assert len(rows(page)) == 3
    assert asked == ["detect?model=bright&score_min=0.05"]
    expect(page.locator("#fact-picture")).to_have_text("photo.jpg, 160 \u00d7 120")
    assert re.fullmatch(r"[\d.]+ ms", page.locator("#fact-detect").inner_text())


def colours_along(image: np.ndarray, box: np.ndarray, width: int) -> set[tuple[int, ...]]:
    """Colours on the lower edge of a box, just inside, where no label is."""
    scale = image.shape[1] / width
    x0, _, x1, y1 = np.asarray(box) * scale
    y = round(float(y1)) - 2
    return {tuple(image[y, x]) for x in range(int(x0) + 6, int(x1) - 6)}


def test_boxes_are_drawn_where_they_are_and_in_the_colour_of_their_class(listening, open_page, picture) -> None:
    service = listening()
    page = open_page(service.url)
    (box,) = service.detector.detect(picture(), score_min=0.85).boxes
    colour = class_colours(service.detector.class_names)["bright"]
    give(page, picture())
    page.locator("#threshold").fill("0.85")
    expect(page.locator("#count")).to_have_text("1 detection")
    assert colours_along(pixels(page), box, 160) == {colour}


def turned_files(picture: Callable[..., bytes], value: int) -> Iterator[tuple[str, bytes]]:
    """Files that say in EXIF how their pixels are turned, in places of which browsers read some."""
    block = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, value, 0, 0)
    plain = picture(".jpg")
    body = b"Exif\0\0" + block
    yield "a.jpg", plain[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + plain[2:]
    plain, chunk = picture(".png"), b"eXIf" + block
    yield (
        "a.png",
        plain[:-12] + struct.pack(">I", len(block)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + plain[-12:],
    )
    plain = picture(".webp")
    head = b"VP8X" + struct.pack("<IB", 10, 8) + bytes(3) + (159).to_bytes(3, "little") + (119).to_bytes(3, "little")
    body = b"WEBP" + head + plain[12:] + b"EXIF" + struct.pack("<I", len(block)) + block
    yield "a.webp", b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("values", [(2, 3, 4), (5, 6, 7, 8)], ids=["flat", "quarter"])
def test_an_orientation_in_the_file_turns_picture_and_boxes_alike(listening, open_page, picture, values) -> None:
    service = listening()
    page = open_page(service.url)
    expect(page.locator("#open")).to_be_enabled()
    for value in values:
        for name, data in turned_files(picture, value):
            with page.expect_response("**/v1/detect*") as response:
                give(page, data, name, "")
            assert response.value.json()["orientations"] == [value]
            size = "120 \u00d7 160" if value >= 5 else "160 \u00d7 120"
            expect(page.locator("#fact-picture")).to_have_text(f"{name}, {size}")
            page.get_by_role("button", name="None").click()  # no boxes on the picture
            image = pixels(page)
            ys, xs = np.nonzero(image.min(axis=2) > 128)
            seen = np.array([xs.min(), ys.min(), xs.max(), ys.max()]) * (120 if value >= 5 else 160) / image.shape[1]
            np.testing.assert_allclose(seen, service.detector.detect(data).boxes[0], atol=3, err_msg=f"{name} {value}")
            page.get_by_role("button", name="All").click()


def downloaded(page: Page, name: str) -> tuple[str, bytes]:
    with page.expect_download() as download:
        page.get_by_role("button", name=name, exact=True).click()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def test_downloads_have_what_is_shown(listening, open_page, picture) -> None:
    service = listening()
    page = open_page(service.url)
    give(page, picture(), "a b?.jpg")
    page.get_by_label("weak").uncheck()
    page.locator("#threshold").fill("0.7")
    found = service.detector.detect(picture(), score_min=0.7)
    name, data = downloaded(page, "JSON")
    assert name == "a b_-detections.json"
    assert json.loads(data) == {
        "model": "bright", "classes": ["bright", "weak"],
        "images": [{**found.to_dict(), "image": "a b?.jpg"}], "complete": True,
    }  # fmt: skip
    name, data = downloaded(page, "COCO")
    coco = json.loads(data)
    assert name == "a b_-coco.json"
    assert coco["categories"] == [{"id": 1, "name": "bright"}, {"id": 2, "name": "weak"}]
    keys = ("category_id", "bbox", "score")
    assert [{key: one[key] for key in keys} for one in coco["annotations"]] == [
        {key: one[key] for key in keys} for one in found.to_coco()
    ]
    page.locator("#threshold").fill("0.85")
    name, data = downloaded(page, "Picture")
    assert name == "a b_-boxes.jpg"
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == (120, 160, 3)


def test_the_keyboard_goes_through_the_detections(listening, open_page, picture) -> None:
    page = open_page(listening().url)
    give(page, picture())
    expect(page.locator("#count")).to_have_text("3 detections")
    expect(page.locator("#detail")).to_be_hidden()
    page.locator("body").press("ArrowDown")
    focused = page.locator("#rows tr.chosen button:focus")
    expect(focused).to_have_text("bright")
    expect(page.locator("#detail-text")).to_contain_text("score 0.900")
    page.keyboard.press("ArrowDown")
    expect(page.locator("#detail-text")).to_contain_text("score 0.800")
    page.keyboard.press("End")
    expect(page.locator("#detail-name")).to_have_text("weak")
    assert pixels(page, "#crop").max() > 128
    assert page.locator("#rows button[tabindex='0']").count() == 1
    page.keyboard.press("Escape")
    expect(page.locator("#detail")).to_be_hidden()
    page.locator("#file").evaluate(  # a browser opens its dialog where the user did something just now
        "(file) => file.addEventListener('click', () => { file.id += navigator.userActivation.isActive; })"
    )
    page.keyboard.press("o")
    expect(page.locator("#filetrue")).to_be_attached()
    page.get_by_role("button", name="Keyboard").click()
    page.get_by_label("Use the letters").uncheck()
    page.get_by_role("button", name="Close").click()
    page.locator("body").press("c")
    expect(page.locator("#stop")).to_be_hidden()
    # A click on a box chooses its row.
    box = page.locator("#canvas").bounding_box()
    page.locator("#canvas").click(position={"x": box["width"] * 0.45, "y": box["height"] * 0.45})
    expect(page.locator("#rows tr.chosen")).to_have_count(1)


def test_another_model_is_asked_about_the_same_picture(listening, open_page, picture) -> None:
    page = open_page(listening(other_classes=("ball", "<img src=x onerror=alert(1)>")).url)
    give(page, picture())
    expect(page.locator("#count")).to_have_text("3 detections")
    page.get_by_label("Model").select_option("other")
    expect(page.locator("#rows tr:visible")).to_have_count(1)
    expect(page.locator("#threshold-value")).to_have_text("0.85")
    page.locator("#threshold").fill("0.05")
    assert {row[0] for row in rows(page)} == {"ball", "<img src=x onerror=alert(1)>"}
    assert page.locator("#results img").count() == 0
    page.get_by_label("Model").select_option("bright")
    expect(page.locator("#count")).to_have_text("3 detections")


def test_a_model_file_that_is_taken_over_brings_its_classes(listening, open_page, picture) -> None:
    service = listening()
    page = open_page(service.url)
    before = json.dumps({"models": [{**one, "classes": ["x"], "colours": {}} for one in service.models()]})
    page.route("**/v1/models", lambda route: route.fulfill(body=before))
    page.reload()
    expect(page.locator("#open")).to_be_enabled()
    page.unroute("**/v1/models")
    give(page, picture())
    expect(page.locator("#model-facts")).to_contain_text("2 classes")
    colour = page.locator("#rows .swatch").first.evaluate("(swatch) => getComputedStyle(swatch).backgroundColor")
    assert colour == "rgb({}, {}, {})".format(*class_colours(service.detector.class_names)["bright"])


def test_what_the_service_refuses_is_shown_in_its_words(listening, open_page, picture) -> None:
    page = open_page(listening(max_pixels=10_000, max_mb=1).url)
    message = page.get_by_role("alert")
    give(page, b"no picture", "a.txt", "text/plain")
    expect(message).to_contain_text("a.txt: ")
    expect(page.locator("#retry")).to_be_hidden()
    give(page, picture())
    expect(message).to_contain_text("160 x 120 pixels (at most 10000")
    give(page, bytes(3 << 20))
    expect(message).to_have_text("the body has more than 1 MB")
    give(page, picture(".jpg", 60, 60))
    expect(message).to_be_hidden()
    expect(page.locator("#count")).to_have_text("3 detections")


def test_a_file_that_is_gone_is_not_called_a_fault_of_the_network(listening, open_page, picture, tmp_path) -> None:
    page = open_page(listening().url)
    path = tmp_path / "photo.jpg"
    path.write_bytes(picture())
    expect(page.locator("#open")).to_be_enabled()
    page.set_input_files("#file", path)
    expect(page.locator("#count")).to_have_text("3 detections")
    path.unlink()
    page.get_by_label("Model").select_option("other")
    expect(page.get_by_role("alert")).to_contain_text("changed or removed")
    expect(page.locator("#count")).to_have_text("Nothing detected yet")  # nothing of the model before
    assert rows(page) == []


def test_a_busy_service_is_asked_again_when_it_says(listening, open_page, picture) -> None:
    service = listening(queue=1, max_wait=600)
    page = open_page(service.url)
    busy = json.dumps({"error": {"code": "queue_full", "message": "too busy"}})
    page.route("**/v1/detect*", lambda route: route.fulfill(status=503, headers={"Retry-After": "1"}, body=busy))
    give(page, picture())
    expect(page.get_by_role("alert")).to_have_text("too busy")
    expect(page.get_by_role("button", name="Try again (in 1 s)")).to_be_disabled()
    page.unroute("**/v1/detect*")
    page.get_by_role("button", name="Try again", exact=True).click()
    expect(page.locator("#count")).to_have_text("3 detections")
    page.route("**/v1/detect*", lambda route: route.abort())
    give(page, picture())
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    expect(page.locator("#save-json")).to_be_disabled()
    page.unroute("**/v1/detect*")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("alert")).to_be_hidden()


def test_an_answer_that_comes_late_does_not_replace_a_newer_one(listening, open_page, picture) -> None:
    service = listening(batch=1)
    page = open_page(service.url)
    gate, seen = threading.Event(), []

    def hold() -> None:
        seen.append(1)
        if len(seen) == 1:
            gate.wait(10)

    service.worker.hold = hold
    give(page, picture(), "old.jpg")
    expect(page.get_by_text("Detecting …")).to_be_visible()
    give(page, picture(".png", 100, 80), "new.png", "image/png")
    gate.set()
    expect(page.locator("#fact-picture")).to_have_text("new.png, 100 \u00d7 80")
    expect(page.get_by_text("Detecting …")).to_be_hidden()


def test_a_key_is_asked_for_and_kept_in_the_tab(listening, open_page, picture) -> None:
    key = "a-key-of-sixteen-letters"
    page = open_page(listening(api_key=key).url)
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("This service wants an API key")
    dialog.get_by_label("Key").fill("another")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("That key is not the one")
    dialog.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("alert")).to_contain_text("API key is missing or wrong")
    page.get_by_role("button", name="Try again").click()
    dialog.get_by_label("Key").fill(key)
    dialog.get_by_role("button", name="Use it").click()
    give(page, picture())
    expect(page.locator("#count")).to_have_text("3 detections")
    page.reload()
    expect(page.locator("#open")).to_be_enabled()
    assert page.evaluate("() => [localStorage.length, document.cookie]") == [0, ""]
    page.get_by_role("button", name="Forget the API key").click()
    page.reload()
    expect(dialog).to_be_visible()


def test_the_camera_sends_one_frame_at_a_time(listening, open_page) -> None:
    page = open_page(listening().url, permissions=["camera"])
    under_way, most = set(), []

    def note(request: Any) -> None:
        if "/v1/detect" in request.url:
            under_way.add(request)
            most.append(len(under_way))

    def done(request: Any) -> None:
        under_way.discard(request)

    page.on("request", note)
    page.on("requestfinished", done)
    expect(page.locator("#camera")).to_be_enabled()
    page.locator("body").press("c")
    expect(page.locator("#fact-rate")).to_have_text(re.compile(r"^[\d.]+ pictures a second$"))
    expect(page.locator("#fact-picture")).to_contain_text("camera.jpg, ")
    expect(page.locator("#status")).to_have_attribute("aria-live", "off")
    page.get_by_role("button", name="Stop the camera").click()
    expect(page.locator("#camera")).to_be_visible()
    count = len(most)
    page.wait_for_timeout(300)
    assert len(most) <= count + 1  # a frame that was on its way
    assert len(most) > 3
    assert max(most) == 1
    assert pixels(page).std() > 10
    with page.expect_download():
        page.locator("#save-picture").click()


@pytest.mark.parametrize(
    ("name", "message"),
    [("NotAllowedError", "was not allowed to use the camera"), ("NotFoundError", "There is no camera")],
)
def test_without_a_camera_there_is_a_reason(listening, open_page, name: str, message: str) -> None:
    page = open_page(listening().url)
    page.evaluate(
        "(name) => { navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', name); }; }", name
    )
    page.locator("#camera").click()
    expect(page.get_by_role("alert")).to_contain_text(message)
    expect(page.locator("#camera")).to_be_visible()


MAKE_EVENT = """
([type, data]) => {
  const transfer = new DataTransfer();
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  if (data) transfer.items.add(new File([bytes], 'given.png', { type: 'image/png' }));
  else transfer.setData('text/plain', 'an address');
  const event = type === 'paste'
    ? new ClipboardEvent('paste', { clipboardData: transfer, bubbles: true, cancelable: true })
    : new DragEvent('drop', { dataTransfer: transfer, bubbles: true, cancelable: true });
  document.querySelector('#stage').dispatchEvent(event);
}
"""


@pytest.mark.parametrize("how", ["paste", "drop"])
def test_pictures_are_pasted_and_dropped(listening, open_page, picture, how: str) -> None:
    page = open_page(listening().url)
    expect(page.locator("#open")).to_be_enabled()
    page.evaluate(MAKE_EVENT, [how, ""])
    expect(page.get_by_role("alert")).to_contain_text("has no picture in it")
    page.evaluate(MAKE_EVENT, [how, base64.b64encode(picture(".png")).decode()])
    expect(page.locator("#fact-picture")).to_have_text("given.png, 160 \u00d7 120")
    expect(page.get_by_role("alert")).to_be_hidden()


def test_a_picture_that_only_the_service_reads(listening, open_page, picture) -> None:
    page = open_page(listening().url)
    give(page, picture(".tiff"), "scan.tiff", "image/tiff")
    expect(page.locator("#count")).to_have_text("3 detections")
    expect(page.locator("#note")).to_contain_text("boxes without the picture")
    assert pixels(page).std() > 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it(listening, open_page, picture, scheme: str) -> None:
    page = open_page(listening().url, 390, 844, color_scheme=scheme, has_touch=True, is_mobile=True)
    give(page, picture(".jpg", 1600, 1200))
    expect(page.locator("#count")).to_have_text("3 detections")
    page.locator("#rows button").first.tap()
    expect(page.locator("#detail")).to_be_visible()
    assert page.evaluate("() => document.documentElement.scrollWidth") == 390
    for button in page.get_by_role("button").all():
        if button.is_visible():
            box = button.bounding_box()
            assert box["height"] >= 24  # WCAG 2.2, 2.5.8
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 390
    ground = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    dark = max(map(int, re.findall(r"\d+", ground)[:3])) < 64
    assert dark == (scheme == "dark")


def test_the_chosen_detection_says_and_draws_where_it_comes_from(listening, open_page, explainable, noise) -> None:
    page = open_page(listening(first={"net": explainable}).url)
    asked = []
    page.on("request", lambda request: asked.append(request.url) if "/v1/explain" in request.url else None)
    give(page, noise, "a.png", "image/png")
    expect(page.locator("#rows tr").first).to_be_attached()
    assert asked == []
    page.locator("body").press("ArrowDown")
    (image,) = page.request.post(
        page.url + "v1/explain?model=net&score_min=0.05", headers={"Content-Type": "image/png"}, data=noise
    ).json()["images"]
    for step in range(3):
        origin = image["detections"][step]["origin"]
        place = origin["place"]
        text = f"Map {place['map']}, row {place['row']}, column {place['column']}, default box {place['shape']}"
        expect(page.get_by_role("status").filter(has_text="moved by")).to_contain_text(text)
        expect(page.locator("#origin-facts")).to_contain_text("The cell sees")
        expect(page.locator("#origin-removed li")).to_have_count(len(origin["runners_up"]))
        page.keyboard.press("ArrowDown")
    assert len(asked) == 1  # of the picture, not of each detection
    page.keyboard.press("Home")
    for value in ("cell", "field", "prior"):
        with_it, layer = pixels(page), page.locator(f"#origin-layers input[value={value}]")
        layer.uncheck()
        assert (pixels(page) != with_it).any(axis=2).sum() > 20, value
        layer.check()
        np.testing.assert_array_equal(pixels(page), with_it)
    box = page.locator("#canvas").bounding_box()
    page.locator("#canvas").click(position={"x": box["width"] / 2, "y": box["height"] / 2})
    page.keyboard.press("Escape")
    expect(page.locator("#origin")).to_be_hidden()


def test_what_is_not_explained_has_a_reason_and_a_refusal_a_button(listening, open_page, explainable, noise) -> None:
    page = open_page(listening(first={"net": explainable}).url)
    busy = json.dumps({"error": {"code": "queue_full", "message": "too busy"}})
    page.route("**/v1/explain*", lambda route: route.fulfill(status=503, headers={"Retry-After": "1"}, body=busy))
    give(page, noise, "a.png", "image/png")
    expect(page.locator("#rows tr").first).to_be_attached()
    page.locator("body").press("ArrowDown")
    expect(page.locator("#origin-text")).to_have_text("too busy")
    page.unroute("**/v1/explain*")
    page.locator("#origin-retry").click()
    expect(page.locator("#origin-facts")).to_contain_text("Default box")
    page.get_by_label("Model").select_option("bright")
    give(page, cv2.imencode(".png", np.full((60, 80, 3), 255, np.uint8))[1].tobytes(), "b.png", "image/png")
    expect(page.locator("#fact-picture")).to_contain_text("b.png")
    page.locator("body").press("ArrowDown")
    expect(page.locator("#origin-text")).to_contain_text("serve the checkpoint")
    expect(page.locator("#origin-all")).to_be_hidden()


def test_a_phone_shows_where_it_comes_from(listening, open_page, explainable, noise) -> None:
    url = listening(first={"net": explainable}).url
    page = open_page(url, 390, 844, color_scheme="dark", has_touch=True, is_mobile=True)
    give(page, noise, "a.png", "image/png")
    page.locator("#rows button").nth(1).tap()  # NMS removed a box for it
    expect(page.locator("#origin-all")).to_be_visible()
    page.locator("#origin-count").tap()
    expect(page.locator("#origin-removed li").first).to_be_visible()
    assert page.evaluate("() => document.documentElement.scrollWidth") == 390
    for row in page.locator("#origin-layers label, #origin-count").all():
        assert row.bounding_box()["height"] >= 24  # WCAG 2.2, 2.5.8


@pytest.mark.parametrize(("wide", "high"), [(390, 844), (1180, 700)])
@pytest.mark.parametrize("shape", [(120, 160), (160, 90)])
def test_the_picture_stays_in_sight_beside_where_it_comes_from(
    listening, open_page, explainable, wide: int, high: int, shape: tuple[int, int]
) -> None:
    """Else what is switched on and off in the words is drawn where nobody looks; all of its width stays, too."""
    data = cv2.imencode(".png", np.random.default_rng(3).integers(0, 256, (*shape, 3), np.uint8))[1].tobytes()
    page = open_page(listening(first={"net": explainable}).url, wide, high)
    give(page, data, "a.png", "image/png")
    page.locator("#rows button").first.click()
    expect(page.locator("#origin-all")).to_be_visible()
    page.locator("#save-picture").scroll_into_view_if_needed()
    page.locator("#origin-layers input").first.focus()
    stage, focused = page.locator("#stage").bounding_box(), page.locator("#origin-layers input").first.bounding_box()
    canvas = page.locator("#canvas").bounding_box()
    assert canvas["y"] >= 0 and canvas["y"] + canvas["height"] <= high
    if wide < 900:
        assert focused["y"] >= canvas["y"] + canvas["height"]
        assert stage["width"] == wide - 28
        assert canvas["height"] <= 0.4 * high + 1
