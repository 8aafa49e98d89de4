"""Data sets on disk and on servers that the tests of this folder share."""

from __future__ import annotations

import functools
import http.server
import json
import multiprocessing
from pathlib import Path

import cv2
import numpy as np
import pytest

from singleshot.datasets import open_source
from singleshot.datasets.checks import check_source
from singleshot.datasets.findings import CollectErrors, Finding
from singleshot.datasets.raw import RawImage, RawObject, RawSet
from singleshot.datasets.writers.shards import read_contents, write_shards


def scene(seed: int, width: int = 64, height: int = 48) -> np.ndarray:
    """A picture unlike those of other seeds."""
    noise = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def voc(tmp_path, voc_xml, write_voc):
    """voc({stem: objects}, {split: stems}, sizes={stem: (w, h)}): a VOC folder of pictures that differ."""

    def make(objects, splits=None, sizes=None):
        xmls = {stem: voc_xml(objects, size=(sizes or {}).get(stem, (64, 48))) for stem, objects in objects.items()}
        root = write_voc(tmp_path / "set", xmls, splits or {"train": list(objects)})
        for k, stem in enumerate(objects):
            cv2.imwrite(str(root / "JPEGImages" / f"{stem}.png"), scene(k))
        return root

    return make


@pytest.fixture
def raw(tmp_path, write_image) -> RawSet:
    """Three images in two folders, two of them called a.png."""
    images = []
    boxes = [[RawObject("dog", (0.0, 1.5, 10.25, 48.0), difficult=True, area=99.5), RawObject("cat", (3.0, 3, 9, 9))],
             [RawObject("cat", (1.0, 2.0, 3.0, 4.0), crowd=True)], []]  # fmt: skip
    for name, objects in zip(("x/a.png", "y/a.png", "y/b.jpg"), boxes, strict=True):
        write_image(tmp_path / "from" / name, 64, 48)
        images.append(RawImage(str(tmp_path / "from" / name), name, 0, 0, objects, f"{name}.label"))
    return RawSet("voc", str(tmp_path / "from"), ("dog", "cat", "axe"), images, {"train": [0, 2], "val": [1]})


@pytest.fixture
def folder(tmp_path, write_image):
    """folder({name: text}, images=...): a data set; images are 64 x 48."""

    def make(files, images=("a.png", "b.png")) -> Path:
        root = tmp_path / "set"
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        for name in images:
            write_image(root / name, 64, 48)
        return root

    return make


NAMES = ["a.png", "b c.jpg", "d.e.png", "sub/ü.png", "f.png", "g.jpg", "h.png"]


@pytest.fixture
def coco_set(tmp_path, write_image):
    """A folder with train (7 images) and val (2): crowds, difficult objects, told areas, an image without objects."""
    root = tmp_path / "data"
    rng = np.random.default_rng(0)
    for split, names in (("train", NAMES), ("val", ["v.png", "w.png"])):
        images, annotations = [], []
        for i, name in enumerate(names):
            width, height = 40 + 3 * i, 30 + i
            write_image(root / split / name, width, height)
            images.append({"id": 100 - i, "file_name": name, "width": width, "height": height})
            for k in range(i % 4):
                x, y, w, h = (rng.random(4) * [20, 15, 18, 13] + [0, 0, 1, 1]).tolist()
                one = {"id": len(annotations), "image_id": 100 - i, "category_id": 3 + k, "bbox": [x, y, w, h]}
                more = {"iscrowd": int(k == 2), "difficult": int(k == 1)} | ({"area": w * h / 3} if k else {})
                annotations.append(one | more)
        categories = [{"id": 3, "name": "cat"}, {"id": 4, "name": "dog"}, {"id": 5, "name": "crowd"},
                      {"id": 9, "name": "never"}]  # fmt: skip
        root.joinpath(f"{split}.json").write_text(
            json.dumps({"images": images, "annotations": annotations, "categories": categories})
        )
    return root


@pytest.fixture
def shards(tmp_path, coco_set) -> Path:
    write(coco_set, tmp_path / "shards", per_shard=3)
    return tmp_path / "shards"


def write(data: Path, out: Path, splits: tuple[str, ...] = (), clip_boxes: bool = False, **options):
    return write_shards(read_contents(open_source(data), splits, clip_boxes), out, **options)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; HTTP/1.1 keeps connections open as real servers do."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # or headers and body would wait for each other

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def serve_folder(serve):
    return lambda folder: serve(functools.partial(Quiet, directory=str(folder)))


@pytest.fixture
def memory():
    """memory(folder): its files under memory://set/."""
    import fsspec

    system = fsspec.filesystem("memory")

    def copy(folder: Path) -> str:
        for path in folder.rglob("*"):
            if path.is_file():
                system.pipe_file(f"/set/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return "memory://set"

    yield copy
    if system.exists("/set"):
        system.rm("/set", recursive=True)


@pytest.fixture
def local(tmp_path):
    root = tmp_path / "set"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "a.txt").write_text("a")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "s.txt").write_text("s")
    return root


@pytest.fixture
def yolo(tmp_path, write_image):
    """yolo({path: text}): writes the files below one folder, images (64 x 48, text unused) by their endings."""

    def make(files, root=tmp_path / "set"):
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix in (".png", ".jpg", ".JPG"):
                write_image(path, 64, 48)
            else:
                path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return root

    return make


@pytest.fixture
def problems(yolo):
    """problems(files, split=None): the findings of reading the folder."""

    def make(files, split=None):
        found = CollectErrors()
        raw = open_source(yolo(files)).read(split, found)
        return raw, found.findings

    return make


@pytest.fixture
def kinds():
    """kinds(root, **options): kind of finding -> how many a check finds."""

    def kinds(root: Path, **options) -> dict[str, int]:
        return check_source(open_source(root), workers=2, **options).counts

    return kinds


@pytest.fixture
def findings():
    """findings(root, **options): kind -> the findings of a check."""

    def findings(root: Path, **options) -> dict[str, list[Finding]]:
        found: dict[str, list[Finding]] = {}
        for finding in check_source(open_source(root), workers=2, **options).findings:
            found.setdefault(finding.kind, []).append(finding)
        return found

    return findings


@pytest.fixture
def in_a_child():
    """in_a_child(call): its result, from a forked process."""

    def in_a_child(call, seconds=20.0):
        """What call() gives in a forked process; an error's text if it raises."""
        context = multiprocessing.get_context("fork")
        mine, its = context.Pipe()

        def work() -> None:
            try:
                its.send(call())
            except Exception as error:
                its.send(repr(error))

        child = context.Process(target=work)
        child.start()
        try:
            assert mine.poll(seconds), "the child hangs"
            return mine.recv()
        finally:
            child.kill()
            child.join()

    return in_a_child


@pytest.fixture
def by_id():
    """by_id(dataset): what each image holds, by its id."""

    def by_id(dataset) -> dict:
        """Everything that a data set says of each image, whatever their order."""
        return {
            dataset.image_ids[i]: [dataset.sizes[i].tolist(), dataset.sample(i).image.tolist()]
            + [None if part is None else part.tolist() for part in dataset.truth(i)]
            for i in range(len(dataset))
        }

    return by_id


@pytest.fixture
def respond(serve):
    """respond(answer): a server whose answer(handler) writes the whole response to any GET."""

    def start(answer) -> str:
        return serve(type("Answering", (Quiet,), {"do_GET": answer, "do_HEAD": answer}))

    return start


@pytest.fixture(scope="session")
def stems() -> tuple[str, ...]:
    """Names of images that forms, addresses and file systems must quote or not."""
    return (
        "plain",
        "with space",
        "it's",
        'say "so"',
        "100%",
        "%41",
        "a&amp;b",
        "猫 кот",
        "a#b",
        "q?x=1",
        "a+b;c",
        "d,e=f~",
        "..a",
    )


@pytest.fixture
def voc_set(tmp_path, voc_xml, write_voc, stems):
    xml = voc_xml([("cat", (1, 1, 5, 5))])
    return write_voc(tmp_path / "voc", dict.fromkeys(stems, xml), {"train": list(stems)})
