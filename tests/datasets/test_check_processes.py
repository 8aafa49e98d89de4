"""Checks in processes that may die, of remote and of real data sets."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest

from singleshot.datasets.checks.duplicates import hashes
from singleshot.datasets.checks.images import look, thumbnail
from singleshot.datasets.checks.process_pool import MAX_DEATHS, Died, spread, take_stderr
from singleshot.errors import DataError
from singleshot.images.decode import decode_grey, decode_unscaled

BOX = (5, 5, 30, 30)
SIZE = (256, 192)


def scene(seed: int, width: int = 64, height: int = 48) -> np.ndarray:
    """A picture unlike those of other seeds."""
    noise = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def _double(item: int) -> int:
    if item == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    if item == 17:
        os.write(2, b"libpng error: words")
        return len(take_stderr())
    return 2 * item


def _verdicts(data: bytes) -> list[tuple[bool, str]]:
    """Whether a JPEG decodes and what the decoder says: in colour, then in grey at each of its scales."""
    found = []
    for least in (None, *(min(SIZE) // scale for scale in (1, 2, 4, 8))):
        take_stderr()
        try:
            image = decode_unscaled(data, cv2.IMREAD_COLOR) if least is None else decode_grey(data, SIZE, least)
        except cv2.error:
            image = None
        found.append((image is None, take_stderr()))
    return found


def _die_once(path: str) -> str:
    marker = Path(path)
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "fine"


def _die(item: int) -> int:
    os._exit(3)


def _fail(item: int) -> int:
    raise ZeroDivisionError("ours")


def test_a_process_that_dies_takes_one_item_with_it():
    results = dict(spread(_double, range(100), workers=2))
    assert sorted(results) == list(range(100))
    assert str(results[13]) == "ended by SIGKILL, as the system does when memory is full"
    assert results[17] == 19
    assert {i: r for i, r in results.items() if i not in (13, 17)} == {
        i: 2 * i for i in range(100) if i not in (13, 17)
    }


def test_a_process_that_was_ended_by_chance_costs_nothing(tmp_path):
    assert dict(spread(_die_once, [str(tmp_path / "marker")], workers=1)) == {0: "fine"}


def test_processes_that_always_die_end_in_a_sentence():
    assert dict(spread(_die, range(3), workers=1)) == {i: Died(3) for i in range(3)}
    with pytest.raises(DataError, match="processes died while reading images"):
        list(spread(_die, range(MAX_DEATHS), workers=2))


def test_our_own_mistake_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="ZeroDivisionError: ours"):
        list(spread(_fail, range(3), workers=2))
    assert list(spread(_fail, [], workers=2)) == []


def test_a_decoder_that_dies_is_a_finding(voc, monkeypatch, findings):
    from singleshot.datasets.checks import images as pictures

    root = voc({stem: [("cat", BOX)] for stem in "abc"})
    real = pictures.look

    def look(path):
        if path.endswith("b.png"):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(path)

    monkeypatch.setattr(pictures, "look", look)
    (finding,) = findings(root)["image-corrupt"]
    assert Path(finding.file).name == "b.png"
    assert "died, twice (ended by SIGKILL" in finding.message


def test_coco_and_remote_sets(tmp_path, coco, write_coco, findings):
    fsspec = pytest.importorskip("fsspec")
    rows = [
        {"id": 1, "image_id": 20, "category_id": 7, "bbox": [5, 5, 20, 20]},
        {"id": 2, "image_id": 10, "category_id": 7, "bbox": [50, 5, 40, 20]},
    ]
    path = write_coco(tmp_path / "set" / "train.json", coco(rows))
    path.write_text(json.dumps(json.loads(path.read_text()), indent=0))
    for k, name in enumerate(("a.png", "b.png")):
        cv2.imwrite(str(path.parent / name), scene(k))
    cv2.imwrite(str(path.parent / "stray name.png"), scene(5))
    local = findings(path.parent)
    assert sorted(local) == ["box-outside", "class-absent", "image-unlabelled"]
    line = local["box-outside"][0].line
    assert path.read_text().splitlines()[line - 1 : line + 1] == ["{", '"id": 2,']
    memory = fsspec.filesystem("memory")
    memory.put(str(path.parent), "/checked", recursive=True)
    try:
        far = findings("memory://checked")
        assert {k: [f.message for f in v] for k, v in far.items()} == {
            k: [f.message for f in v] for k, v in local.items()
        }
        assert far["image-unlabelled"][0].file == "memory://checked/stray name.png"
    finally:
        memory.rm("/checked", recursive=True)


@pytest.mark.parametrize(
    ("name", "want"),
    [("bccd", {"box-tiny": 2}), ("deeppcb", {}), pytest.param("voc07", {"box-tiny": 2, "box-huge": 57})],
)
def test_real_sets_have_their_known_findings_and_no_false_ones(shared, name, want, kinds):
    assert kinds(shared / "data" / name) == want


def test_a_damaged_jpeg_is_one_at_every_scale():
    """`look` decodes in grey and smaller; a training decodes colours. What is damaged for one is so for the other."""
    rng = np.random.default_rng(0)
    options = ([], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 4])
    whole = [cv2.imencode(".jpg", scene(k, *SIZE), option)[1].tobytes() for k in range(4) for option in options]
    damaged = []
    for k in range(300):
        data = bytearray(whole[k % len(whole)])
        at = int(rng.integers(160, len(data) - 2))
        if k % 3 == 0:
            del data[at : at + int(rng.integers(1, 300))]
        elif k % 3 == 1:
            del data[at:-2]
        else:
            data[at] = int(rng.integers(256))
        damaged.append(bytes(data))
    verdicts = [found for _, found in spread(_verdicts, [*whole, *damaged], 2)]
    assert all(len(set(found)) == 1 for found in verdicts)
    bad = sum(gone or bool(words) for (gone, words), *_ in verdicts)
    assert 150 < bad <= len(damaged)


def test_grey_is_decoded_smaller_where_the_sides_allow():
    data = cv2.imencode(".jpg", scene(0, *SIZE))[1].tobytes()
    sides = {least: decode_grey(data, SIZE, least).shape for least in (193, 97, 96, 24, 1)}
    assert sides == {193: (192, 256), 97: (192, 256), 96: (96, 128), 24: (24, 32), 1: (24, 32)}
    assert decode_grey(cv2.imencode(".png", scene(0, *SIZE))[1].tobytes(), SIZE, 1).shape == (192, 256)


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_sizes_are_those_of_the_turned_picture(tmp_path, turn):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = turn
    path = str(tmp_path / "a.jpg")
    Image.fromarray(scene(1, 640, 400)).save(path, exif=exif)
    seen = next(result for _, result in spread(look, [path], 1))
    assert (seen.width, seen.height, seen.orientation) == ((400, 640, turn) if turn >= 5 else (640, 400, turn))


def test_thin_pictures_keep_their_thumbnail_when_scaled():
    wide = cv2.cvtColor(scene(3, 320, 48), cv2.COLOR_BGR2GRAY)[:12]
    small = cv2.resize(wide, (240, 9), interpolation=cv2.INTER_AREA)
    apart = np.abs(thumbnail(wide).astype(int) - thumbnail(small)).mean()
    assert apart < 0.1 * wide.std()


def test_waves_that_are_not_there_have_one_sign():
    """A drawn picture has few of the waves that a hash looks at; a brighter copy of it has the same ones."""
    thumbs = np.full((200, 16, 16), 90, np.uint8)
    rng = np.random.default_rng(0)
    for k in range(100):
        y, x = rng.integers(0, 10, 2)
        thumbs[k, y : y + 4, x : x + 4] = 200
    thumbs[100:] = thumbs[:100] + 1
    codes = hashes(thumbs)
    assert (codes[:100] == codes[100:]).mean() > 0.9
    assert np.array_equal(hashes(thumbs[:7]), codes[:7])
