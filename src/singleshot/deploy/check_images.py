"""Images to check an export with: drawn scenes, a folder's, or a data set's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from singleshot.datasets import available_splits, open_dataset
from singleshot.datasets.dataset import Dataset
from singleshot.datasets.tiles import TiledSamples
from singleshot.errors import DataError, printable
from singleshot.evaluation.engine_loop import PlacedSquare, placed_square
from singleshot.images.decode import read_image
from singleshot.images.suffixes import IMAGE_SUFFIXES
from singleshot.inputs import InputSpec, to_square
from singleshot.models import SSD
from singleshot.scenes.scenes import make_scene
from singleshot.tiling import Tiling

SCENES, MOST = 8, 16
_KEPT_BYTES = 400 * 2**20  # of squares that are kept in memory


def check_pictures(source: str | None, model: SSD) -> np.ndarray:
    """What an export is checked on.

    Args:
        source: An image, a folder or a data set, up to 16 images of it, spread evenly; None: 8 drawn scenes.
        model: Whose input rule.

    Returns:
        uint8 [N, H, W, C].

    Raises:
        DataError: There are no images, or one cannot be read.
    """
    if source is None:
        scenes = (make_scene(0, "test", i)[0] for i in range(SCENES))
        return np.stack([to_square(scene, model.input_spec)[0] for scene in scenes])
    return np.stack([preprocess(name, model.input_spec).square for name in _names(source)])


def _names(source: str) -> list[str]:
    path = Path(source)
    if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES:
        return [str(path)]
    try:
        inside = sorted(path.iterdir()) if path.is_dir() else []
    except OSError as error:
        raise DataError(f"{printable(path)}: cannot be read ({error.strerror})") from error
    names = [str(p) for p in inside if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
    if not names:
        splits = available_splits(source)
        split = next((name for name in ("val", "valid", "test") if name in splits), splits[0] if splits else "train")
        dataset = open_dataset(source, split)
        names = [dataset.names[i] for i in spread(len(dataset), MOST)]
    if not names:
        raise DataError(f"{printable(path)}: no images in it")
    return [names[i] for i in spread(len(names), MOST)]


def spread(count: int, most: int) -> list[int]:
    """Up to `most` positions of `count`, evenly over them all, the same each time."""
    return sorted(set(np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist())) if count else []


def preprocess(path: str, spec: InputSpec) -> PlacedSquare:
    """Read an image file for a model's input. Raises DataError."""
    return placed_square(read_image(path, spec.sixteen_bit), spec)


class PreprocessedImages:
    """Images of a data set as the model sees them, or their tiles, by position; kept in memory while they are few.

    Args:
        dataset: Whose images.
        model: Whose input rule.
        kept_bytes: How many bytes of squares are kept.
        tiling: The tiles that the model looks at, None for whole images; `tiles` are those of the data set.
        most: At most that many, spread evenly over them.
    """

    def __init__(
        self,
        dataset: Dataset,
        model: SSD,
        kept_bytes: int = _KEPT_BYTES,
        tiling: Tiling | None = None,
        most: int | None = None,
    ) -> None:
        self.dataset, self.spec = dataset, model.input_spec
        self.tiles = None if tiling is None else TiledSamples(dataset, tiling, self.spec.sides)
        count = len(dataset if self.tiles is None else self.tiles)
        self._chosen = spread(count, count if most is None else most)
        self.kept: dict[int, PlacedSquare] = {}
        self._most_kept = kept_bytes // (int(np.prod(self.spec.shape)))

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, i: int) -> PlacedSquare:
        """Raises DataError; IndexError past the end."""
        if i >= len(self):
            raise IndexError(i)
        if i in self.kept:
            return self.kept[i]
        k = self._chosen[i]
        if self.tiles is None:
            made = preprocess(self.dataset.names[k], self.spec)
        else:
            made = placed_square(self.tiles.sample(k).image, self.spec)
        if len(self.kept) < self._most_kept:
            self.kept[i] = made
        return made
