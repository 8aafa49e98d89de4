"""The same image twice, exactly or nearly."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest

from singleshot.datasets import open_source
from singleshot.datasets.checks import check_source
from singleshot.datasets.checks.duplicates import _confirmed, differences, same_picture
from singleshot.datasets.checks.images import look_at
from singleshot.datasets.checks.prefetch import looking_ahead

BOX = (5, 5, 30, 30)


def scene(seed: int, width: int = 64, height: int = 48) -> np.ndarray:
    """A picture unlike those of other seeds."""
    noise = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def copies(image: np.ndarray) -> dict[str, np.ndarray]:
    again = cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], cv2.IMREAD_COLOR)
    height, width = image.shape[:2]
    return {
        "encoded": again,
        "half": cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA),
        "brighter": cv2.convertScaleAbs(image, alpha=0.8, beta=30),
    }


@pytest.mark.parametrize("how", ["encoded", "half", "brighter"])
def test_near_copies_across_splits(voc, how, findings):
    objects = {stem: [("cat", (5, 5, 20, 20))] for stem in "abcd"}
    root = voc(objects, {"train": ["a", "b"], "val": ["c", "d"]}, sizes=dict.fromkeys("abcd"))
    image = scene(50, 160, 120)
    cv2.imwrite(str(root / "JPEGImages" / "a.png"), image)
    cv2.imwrite(str(root / "JPEGImages" / "c.png"), copies(image)[how])
    found = findings(root)
    assert list(found) == ["image-in-two-splits"]
    (finding,) = found["image-in-two-splits"]
    assert Path(finding.file).name == "c.png"
    assert "in val: nearly the same picture as" in finding.message
    assert "a.png in train" in finding.message


def test_exact_copies_by_bytes_and_pixels(voc, findings):
    objects = {stem: [("cat", BOX)] for stem in "abcdef"}
    splits = {"train": ["a", "b", "f"], "val": ["c", "d"], "test": ["e"], "trainval": ["a", "b", "c", "d", "f"]}
    root = voc(objects, splits)
    images = root / "JPEGImages"
    (images / "c.png").write_bytes((images / "a.png").read_bytes())
    cv2.imwrite(str(images / "e.png"), cv2.imread(str(images / "a.png")), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    (images / "f.png").write_bytes((images / "b.png").read_bytes())
    found = findings(root)
    said = {(f.kind, Path(f.file).name): f.message for of_kind in found.values() for f in of_kind}
    assert sorted(said) == [("image-duplicated", "f.png"), ("image-in-two-splits", "c.png"),
                            ("image-in-two-splits", "e.png")]  # fmt: skip
    assert "in val: the same bytes as" in said["image-in-two-splits", "c.png"]
    assert "in test: the same pixels as" in said["image-in-two-splits", "e.png"]


def test_pairs_that_are_too_many_are_counted(voc, monkeypatch, findings):
    from singleshot.datasets.checks import duplicates

    monkeypatch.setattr(duplicates, "_MAX_CONFIRMED", 2)
    root = voc({stem: [("cat", BOX)] for stem in "abcd"}, {"train": ["a", "b", "c"], "val": ["d"]})
    for k, stem in enumerate("abcd"):
        image = cv2.GaussianBlur(scene(0), (0, 0), 0.4 + k / 20)
        cv2.imwrite(str(root / "JPEGImages" / f"{stem}.png"), image)
    found = findings(root)
    assert len(found["image-in-two-splits"]) == 2  # those across splits come first
    (note,) = found["image-duplicated"]
    assert note.message.startswith("4 more pairs of images look alike")


def test_looking_ahead_changes_nothing(voc):
    root = voc({f"a{k}": [("cat", (1, 1, 2 + k % 40, 20))] for k in range(40)})
    (root / "JPEGImages" / "a3.png").write_bytes(b"")
    (root.parent / "out.png").write_bytes((root / "JPEGImages" / "a5.png").read_bytes())
    (root / "JPEGImages" / "stray.png").write_bytes((root / "JPEGImages" / "a4.png").read_bytes())
    source = open_source(root)
    slow = check_source(source, workers=2).to_dict()
    there = {str(path) for path in (root / "JPEGImages").iterdir()}
    with looking_ahead(source, 2, least=1) as ahead:
        assert {path for path, _ in ahead.looks(there)} == there
    with looking_ahead(source, 2, least=1000) as ahead:
        assert list(ahead.looks(there)) == []
    fast = check_source(source, workers=2, prefetch_least=1).to_dict()
    assert {**slow, "seconds": 0} == {**fast, "seconds": 0}
    assert slow["counts"]["image-unlabelled"] == slow["counts"]["image-corrupt"] == 1


def test_looking_ahead_ends_with_its_context(voc, monkeypatch):
    import multiprocessing

    from singleshot.datasets.checks import prefetch as ahead

    root = voc({f"a{k}": [("cat", BOX)] for k in range(20)})
    with pytest.raises(KeyboardInterrupt), looking_ahead(open_source(root), 2, least=1):
        raise KeyboardInterrupt
    assert multiprocessing.active_children() == []
    real = ahead.look

    def die(path):
        if path.endswith("a7.png"):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(path)

    monkeypatch.setattr(ahead, "look", die)
    assert check_source(open_source(root), workers=2, prefetch_least=1).findings == []


def test_equal_grey_is_not_equal(tmp_path):
    """Two colours that decode to one grey are two pictures."""
    grey = np.full((20, 30, 3), 76, np.uint8)
    red = np.zeros((20, 30, 3), np.uint8)
    red[..., 2] = 255
    assert cv2.cvtColor(red, cv2.COLOR_BGR2GRAY)[0, 0] == 76
    from singleshot.datasets.checks.duplicates import exact_groups

    paths = []
    for name, image in (("grey", grey), ("red", red), ("red2", red)):
        paths.append(str(tmp_path / f"{name}.bmp"))
        cv2.imwrite(paths[-1], image)
    assert exact_groups(look_at(paths, 1), 1) == [[1, 2]]


def test_one_list_naming_what_another_has(voc, findings, kinds):
    objects = {stem: [("cat", BOX)] for stem in "abc"}
    root = voc(objects, {"train": ["a", "b"], "val": ["b", "c"]})
    (finding,) = findings(root)["image-in-two-splits"]
    assert finding.message.startswith("is listed in train and in val")
    root = voc(objects, {"train": ["a", "b"], "val": ["c"], "fold1": ["a", "c"], "fold2": ["b", "c"]})
    (root / "ImageSets" / "Main" / "trainval.txt").write_text("a\nb\nc\n")
    assert kinds(root) == {}


def test_a_board_with_one_more_flaw_is_another_picture():
    board = np.full((640, 640), 255, np.uint8)
    for x in range(20, 640, 60):
        board[:, x : x + 20] = 0
    flawed = board.copy()
    flawed[300:312, 80:100] = 255  # a wire is open
    assert not same_picture(board, flawed)
    noisy = cv2.imdecode(cv2.imencode(".jpg", board, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_GRAYSCALE)
    assert same_picture(board, noisy)
    assert same_picture(board, cv2.resize(board, (320, 320), interpolation=cv2.INTER_AREA))
    assert differences(board, np.full_like(board, 7))[0] == np.inf


def test_files_decoded_once_are_compared_as_two_pictures_are(tmp_path):
    pictures = {"a": scene(1, 400, 300)}
    pictures |= {f"a {how}": image for how, image in copies(pictures["a"]).items()}
    pictures |= {"small": cv2.resize(pictures["a"], (120, 90)), "other": scene(2, 400, 300), "blank": scene(1) // 64}
    paths = [str(tmp_path / f"{name}.png") for name in pictures]
    for path, image in zip(paths, pictures.values(), strict=True):
        cv2.imwrite(path, image)
    looks = look_at(paths, 1)
    pairs = list(itertools.combinations(range(len(paths)), 2))
    grey = [cv2.imread(path, cv2.IMREAD_GRAYSCALE) for path in paths]
    expected = [(i, j) for i, j in pairs if same_picture(grey[i], grey[j])]
    assert sorted(_confirmed(looks, pairs, 1)) == expected
    assert len(expected) > 3
