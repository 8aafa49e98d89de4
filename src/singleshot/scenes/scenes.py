"""Embedded scenes: synthetic pictures of rings, stars, crosses and leaves, written as a VOC folder.

They let `singleshot demo`, the tests and a first training run work without a download. The same seed gives
the same boxes on every machine, and picture i of a split is the same however many pictures are written.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from singleshot.datasets.raw import CORNERS, RawImage, RawObject
from singleshot.datasets.writers import voc
from singleshot.datasets.writers.common import WritePlan
from singleshot.errors import ConfigError, DataError, printable
from singleshot.files import atomic_folder
from singleshot.scenes.layout import HIDDEN_MAX, hidden_shares, lay_out
from singleshot.scenes.painting import paint
from singleshot.scenes.shapes import SHAPES

log = logging.getLogger(__name__)

SCENE_CLASSES: tuple[str, ...] = tuple(SHAPES)
SCENES_VERSION = 2
MARKER = "scenes.json"
SPLITS = ("train", "val", "test")

# Width and height of the pictures; one in three is portrait.
FRAMES = ((320, 240), (360, 240), (384, 288), (400, 300), (320, 320), (352, 272))


class SceneObject(NamedTuple):
    """One object of a picture.

    label: index into SCENE_CLASSES; box_px: (x0, y0, x1, y1) continuous, whole numbers, tight around the
    whole silhouette inside the picture, also where another object covers it; difficult: hidden by more than
    HIDDEN_MAX, or painted faintly; truncated: it reaches over the picture's edge; hidden: share of its
    silhouette that is covered or outside; pose: float [2, 3], from unit coordinates (x, y, 1) of its shape to pixels.
    """

    label: int
    box_px: tuple[float, float, float, float]
    difficult: bool
    truncated: bool
    hidden: float
    pose: np.ndarray


def render_scene(
    rng: np.random.Generator, width: int, height: int, empty: bool = False
) -> tuple[np.ndarray, list[SceneObject]]:
    """Compose one picture: uint8 RGB [H, W, 3] and its objects, those drawn last on top.

    Where objects lie and how they look come from two generators spawned from `rng`: a colour that another
    OpenCV rounds differently cannot move a box. `empty` leaves the objects out, not the clutter.
    """
    layout_rng, paint_rng = rng.spawn(2)
    items = [] if empty else lay_out(layout_rng, width, height)
    image = paint(paint_rng, items, width, height)
    objects = []
    for item, hidden in zip(items, hidden_shares(items), strict=True):
        shown = item.silhouette()
        rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
        objects.append(
            SceneObject(
                label=item.label,
                box_px=(float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)),
                difficult=item.faint or hidden > HIDDEN_MAX,
                truncated=item.truncated,
                hidden=hidden,
                pose=item.patch.pose + np.array([[0, 0, item.left], [0, 0, item.top]]),
            )
        )
    return image, objects


def make_scene(seed: int, split: str, index: int) -> tuple[np.ndarray, list[SceneObject]]:
    """Picture `index` of a split ("train", "val", "test"): uint8 RGB [H, W, 3] and its objects.

    Every tenth picture holds no object.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    width, height = FRAMES[int(rng.integers(len(FRAMES)))]
    if rng.random() < 1 / 3:
        width, height = height, width
    return render_scene(rng, width, height, empty=index % 10 == 9)


def write_scenes(folder: str | Path, train: int = 400, test: int = 100, seed: int = 0, val: int = 50) -> None:
    """Write a VOC folder of scenes: JPEGImages, Annotations, ImageSets/Main/{train,val,test,trainval}.txt.

    It appears whole or not at all. A folder written before with the same settings is kept as it is.
    Raises DataError when the folder holds anything else, ConfigError for bad counts and where it cannot be written.
    """
    counts = {"train": train, "val": val, "test": test}
    if min(counts.values()) < 0 or sum(counts.values()) == 0 or seed < 0:
        raise ConfigError(
            f"scenes: train {train}, val {val}, test {test}, seed {seed}: want 0 or more, and some picture"
        )
    folder = Path(folder)
    marker = {"version": SCENES_VERSION, "seed": seed, **counts, "classes": list(SCENE_CLASSES)}
    if _holds(folder, marker):
        return
    try:
        with atomic_folder(folder) as temporary:
            _write_all(temporary, counts, seed, marker)
    except OSError as error:
        # Another process may have finished the same folder meanwhile.
        if not _holds(folder, marker):
            raise ConfigError(
                f"{printable(folder)}: cannot write there ({error.strerror}); give another --out"
            ) from error
    log.info("wrote %d scenes to %s", sum(counts.values()), folder)


def _holds(folder: Path, marker: dict[str, Any]) -> bool:
    """Whether these very scenes lie there; False for nothing or an empty folder, DataError for anything else."""
    try:
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return False
        found = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if found == marker:
        return True
    what = "other scenes" if isinstance(found, dict) and "seed" in found else "something else"
    raise DataError(f"{printable(folder)}: holds {what} already; give another folder or remove it")


def _write_all(root: Path, counts: dict[str, int], seed: int, marker: dict[str, Any]) -> None:
    (root / "JPEGImages").mkdir()
    images: list[RawImage] = []
    splits: dict[str, list[int]] = {}
    for split in SPLITS:
        splits[split] = list(range(len(images), len(images) + counts[split]))
        for i in range(counts[split]):
            image, objects = make_scene(seed, split, i)
            path = root / "JPEGImages" / f"{split}_{i:05d}.jpg"
            done, jpeg = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
            assert done
            path.write_bytes(jpeg.tobytes())
            labels = [RawObject(SCENE_CLASSES[found.label], found.box_px, found.difficult) for found in objects]
            images.append(RawImage(path.name, path.stem, image.shape[1], image.shape[0], labels, ""))
    splits["trainval"] = splits["train"] + splits["val"]
    names = [image.path for image in images]
    classes = tuple(sorted({found.name for image in images for found in image.objects}))
    voc.write(WritePlan(CORNERS, str(root), classes, images, names, splits), root)
    (root / MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
