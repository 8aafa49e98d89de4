"""Why a model finds what it finds in an image, and misses what it misses."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from singleshot.api.options import GRADIENTS, Options, check_range
from singleshot.errors import ConfigError, DataError, printable
from singleshot.extras import needs
from singleshot.files import atomic_write
from singleshot.hub import local_model

if TYPE_CHECKING:
    from singleshot.api.explain_labels import LabelledImage
    from singleshot.explaining import Scene
    from singleshot.model_info import ModelInfo
    from singleshot.models.receptive_field import Cell, ReceptiveFields
    from singleshot.postprocess import Traced
    from singleshot.records import ImageDetections, ImageTruth, RawOutput, Targets
    from singleshot.report.explain_image import Fields, ImagePlace, Labels, Source
    from singleshot.report.explanation import Corners, Explanation
    from singleshot.runtime.detections import Detections
    from singleshot.runtime.detector import Detector
    from singleshot.runtime.python_sources import Image
    from singleshot.training.recipes import Recipe

log = logging.getLogger(__name__)

PICTURES = (".png", ".jpg")


@dataclass(frozen=True)
class ExplainOptions(Options):
    """What is explained; see `explain`."""

    model: str
    image: str
    labels: str | None = None
    score_min: float | None = None
    rule: str | None = None
    gradients: int = GRADIENTS
    out: str | None = None
    device: str | None = "auto"
    follow_links: bool = False

    def __post_init__(self) -> None:
        if self.out is not None and Path(self.out).suffix.lower() not in PICTURES:
            raise ConfigError(f"--out {printable(self.out)}: want a name that ends in {' or '.join(PICTURES)}")
        check_range("--score-min", self.score_min, 0, 1)
        check_range("--gradients", self.gradients, 0, 10_000)


def explain(
    model: str | Path,
    image: str | Path,
    *,
    labels: str | Path | None = None,
    score_min: float | None = None,
    rule: str | None = None,
    gradients: int = GRADIENTS,
    out: str | Path | None = None,
    device: str | None = "auto",
    follow_links: bool = False,
) -> Explanation:
    """Where each detection in an image comes from, and why labelled objects were missed.

    The detections are those of `Detector.detect` on the same file. Several images: open an `Explainer` once.

    Args:
        model: A checkpoint, ours or another project's, or an exported file; one that gives boxes alone says little.
        image: The image file.
        labels: A data set that the image is of, in any form that `singleshot data check` reads: its objects are then
            explained too, and which default boxes training gives them.
        score_min: In place of the score from which the model shows a detection.
        rule: Detect as another codebase does, in place of the checkpoint's own thresholds; a name such as "caffe".
        gradients: For how many of the best detections the receptive field is measured by gradient too; each takes about
            as long as running the network.
        out: A picture to write, .png or .jpg.
        device: "cpu", "cuda", "cuda:N", or "auto".
        follow_links: Follow links in the data's folder that lead out of it: for a folder of your own.

    Raises:
        CheckpointError: The model cannot be used.
        ConfigError: An option is wrong, or not for this kind of model.
        DataError: The image cannot be read, or the labels do not have it.
        MissingExtraError: PyTorch is not installed.
    """
    return run_explanation(ExplainOptions.of(locals()))


def run_explanation(options: ExplainOptions) -> Explanation:
    """As `explain`."""
    if Path(options.image).is_dir():
        raise DataError(f"{printable(options.image)}: a folder; want one image file")
    explainer = Explainer(options.model, options.device, options.rule)
    labels: dict[str, Any] = {}
    if options.labels is not None:
        labels = explainer.find_objects(options.labels, options.image, options.follow_links)._asdict()
    explanation = explainer.explain(options.image, score_min=options.score_min, gradients=options.gradients, **labels)
    if options.out is not None:
        _write_picture(explanation, Path(options.out))
    return explanation


def _write_picture(explanation: Explanation, path: Path) -> None:
    import cv2

    from singleshot.images.drawn_mark import mark_picture
    from singleshot.report.explain_picture import draw_explanation

    good, data = cv2.imencode(path.suffix.lower(), cv2.cvtColor(draw_explanation(explanation), cv2.COLOR_RGB2BGR))
    if not good:
        raise ConfigError(f"{printable(path)}: the picture cannot be encoded; give a name that ends in .png")
    with atomic_write(path) as temporary:
        temporary.write_bytes(mark_picture(data.tobytes()))


class Explainer:
    """Explains one image after another by one model. Raises as `explain`."""

    def __init__(self, model: str | Path, device: str | None = "auto", rule: str | None = None) -> None:
        with needs("train", f"{printable(model)}: explaining"):
            import torch  # noqa: F401 - before anything is read
        from singleshot.runtime.engines.table import EngineOptions, is_exported
        from singleshot.runtime.load import open_detector

        model = local_model(model)
        usual = device if device != "auto" or not is_exported(model) else None
        self._take(open_detector(model, None, EngineOptions(usual, rule=rule)), str(model))
        if self._tiles is not None:
            log.warning("%s: %s", printable(model), self._tiles)

    @classmethod
    def of(cls, detector: Detector, name: str) -> Explainer:
        """Of a detector that is open, which stays as it is; name: what explanations call the model.

        Raises MissingExtraError: PyTorch is not installed.
        """
        with needs("train", f"{printable(name)}: explaining"):
            import torch  # noqa: F401
        explainer = cls.__new__(cls)
        explainer._take(copy.copy(detector), name)
        return explainer

    def _take(self, detector: Detector, name: str) -> None:
        assert detector.info is not None
        self.detector, self._path = detector, name
        self._info: ModelInfo = detector.info
        tiling, detector.tiling = detector.tiling, None
        self._tiles: str | None = None
        if tiling is not None:
            self._tiles = f"looks at {tiling.words}, and whole images are explained: cut a tile out and explain that"
        self._fields: ReceptiveFields | None = None
        self._recipe, self._recipe_of = _recipe_of(self._info)

    def prepare(self) -> None:
        """Record a checkpoint's layers now, which the first explanation does otherwise. Nothing else may run meanwhile
        in any network: PyTorch's recorder is in its way."""
        model = getattr(self.detector.engine, "model", None)
        if model is not None:
            from singleshot.models.receptive_field import ReceptiveFields

            self._fields = ReceptiveFields(model)

    def explain(
        self,
        image: Image,
        truth: ImageTruth | None = None,
        *,
        ignored_px: np.ndarray | None = None,
        notes: Sequence[str] = (),
        score_min: float | None = None,
        gradients: int = GRADIENTS,
        receptive_fields: bool = True,
    ) -> Explanation:
        """Everything about one image, as `Detector.detect` takes it.

        truth: what is labelled in it, boxes in its pixels and the model's labels; ignored_px: [K, 4], regions in which
        training takes no default box for a negative; notes: what else is labelled, a line each; receptive_fields:
        whether they are measured, for which the network is taken apart once, in some two seconds; the rest as in
        `explain`.
        """
        from singleshot.report.explain_image import Source, explain_boxes, explain_image

        check_range("score_min", score_min, 0, 1)
        shown = self.detector.score_min if score_min is None else score_min
        name, pixels, square, place = self._prepare(image)
        seen = self._see(square)
        rows, found = self._shown(seen, name, place, shown)
        if seen.raw is None or seen.kept is None:
            return explain_boxes(self._path, self._info, pixels, found, truth, shown, notes)
        import torch

        from singleshot.postprocess import Traced

        kept = Traced(*(values[torch.from_numpy(rows)] for values in seen.kept))
        scene = self._scene(seen.raw, place, shown)
        source = Source(self._path, pixels, self._info.priors, self._info.class_names, place, scene, kept, found)
        labels = None if truth is None else self._labels(source, truth, ignored_px)
        fields = self._fields_of(square, gradients) if receptive_fields else None
        return explain_image(source, labels, fields, (*notes, *self._notes(truth)))

    def find_objects(self, data: str | Path, image: str | Path, follow_links: bool = False) -> LabelledImage:
        """What is labelled in an image of a data set. Raises DataError where it is not there, or there twice."""
        from singleshot.api.explain_labels import find_objects
        from singleshot.evaluation.measured_classes import ModelClasses

        model = ModelClasses(self._info.class_names, self.detector.learnt)
        return find_objects(model, data, image, follow_links)

    def _prepare(self, image: Image) -> tuple[str, np.ndarray, np.ndarray, ImagePlace]:
        """Name and pixels of the image, the network's input, and where the image lies in it, as in detection."""
        from singleshot.report.explain_image import ImagePlace
        from singleshot.runtime.decoding import ReadPlan
        from singleshot.runtime.preparing import make_ready
        from singleshot.runtime.python_sources import frame_of

        spec = self._info.input_spec
        prepared = make_ready(frame_of(image, 0, spec.sixteen_bit), ReadPlan(spec))
        frame = prepared.frame
        assert frame is not None
        if prepared.square is None or prepared.place is None or frame.image is None:
            raise frame.error or DataError(f"{printable(frame.name)}: no image")
        place = ImagePlace(spec, prepared.place, prepared.width, prepared.height)
        return frame.name, frame.image, prepared.square, place

    def _see(self, square: np.ndarray) -> _Seen:
        """Detections as the detector's engine gives them, with what they are made of as far as the file gives it."""
        import torch

        from singleshot.postprocess import Traced
        from singleshot.records import ImageDetections, RawOutput
        from singleshot.runtime.postprocess_numpy import RawDecoder

        engine: Any = self.detector.engine
        images = np.ascontiguousarray(square[None])
        if hasattr(engine, "trace"):
            with torch.inference_mode():
                raw = engine.forward(torch.from_numpy(images).permute(0, 3, 1, 2))
                kept = Traced(*(values.cpu() for values in engine.trace(raw)[0]))
                raw = RawOutput(*(values.float().cpu() for values in raw))
            return _Seen(ImageDetections(*(values.numpy() for values in kept[:3])), kept, raw)
        if not self._info.raw:
            return _Seen(engine(images)[0], None, None)
        outputs = engine.outputs(images)
        decoder = RawDecoder(self._info.priors, self._info.thresholds)
        found, priors = decoder.trace(outputs["offsets"][0], outputs["logits"][0])
        values = RawOutput(*(torch.from_numpy(outputs[name].astype(np.float32)) for name in RawOutput._fields))
        return _Seen(found, Traced(*(torch.from_numpy(np.asarray(one)) for one in (*found, priors))), values)

    def _shown(self, seen: _Seen, name: str, place: ImagePlace, score_min: float) -> tuple[np.ndarray, Detections]:
        """Rows of the detections that are shown, and those as `Detector.detect` gives them."""
        from singleshot.runtime.detections import Detections
        from singleshot.runtime.pixels import select, selected, to_pixels

        found = to_pixels(seen.found, place.place, place.spec, place.width, place.height)
        names = self.detector.class_names
        own = Detections.of(select(found, score_min, None), names, name, place.width, place.height, every_class=names)
        return selected(found, score_min), own

    def _scene(self, raw: RawOutput, place: ImagePlace, score_min: float) -> Scene:
        import torch

        from singleshot.explaining import Scene
        from singleshot.prior_boxes import prior_table

        spec = self._info.priors
        rules = getattr(self.detector.engine, "thresholds", self._info.thresholds)
        priors = torch.from_numpy(prior_table(spec))
        return Scene(raw, priors, spec.variances, rules, score_min, place.window)

    def _targets(
        self, scene: Scene, boxes: np.ndarray, labels: np.ndarray, ignored: np.ndarray | None = None
    ) -> Targets:
        """What training makes of the objects and of regions to ignore."""
        import torch

        from singleshot.matching import match
        from singleshot.records import RawOutput

        recipe = self._recipe
        return match(
            scene.priors,
            torch.from_numpy(boxes),
            torch.from_numpy(np.asarray(labels, np.int64)),
            recipe.iou_min,
            recipe.matching,
            scene.variances,
            ignore_from=recipe.ignore_from,
            spec=self._info.priors,
            raw=RawOutput(*(values[0] for values in scene.raw)),
            activation=scene.rules.activation,
            ignored=None if ignored is None else torch.from_numpy(ignored),
        )

    def _labels(self, source: Source, truth: ImageTruth, ignored_px: np.ndarray | None) -> Labels:
        from singleshot.inputs import boxes_to_square
        from singleshot.losses import LOSS_RULES, mined_negatives
        from singleshot.records import Targets
        from singleshot.report.explain_image import Labels

        recipe, image = self._recipe, source.image
        boxes = boxes_to_square(truth.boxes, image.place, image.spec.sides)
        ignored = None if ignored_px is None else boxes_to_square(ignored_px, image.place, image.spec.sides)
        targets = self._targets(source.scene, boxes, truth.labels, ignored)
        negatives = None
        if self._mines:
            batch = Targets(*(values.unsqueeze(0) for values in targets))
            numbers = recipe.negative_ratio, recipe.min_negatives
            negatives = mined_negatives(source.scene.raw, batch, recipe.loss, *numbers)[0]
        mining = {"loss": recipe.loss, "negative_ratio": recipe.negative_ratio, "min_negatives": recipe.min_negatives}
        rules = {"of": self._recipe_of, "matching": recipe.matching, "iou_min": recipe.iou_min}
        rules |= mining if recipe.loss in LOSS_RULES else {"loss": recipe.loss}
        return Labels(truth, targets, negatives, recipe.iou_min, rules)

    @property
    def _mines(self) -> bool:
        from singleshot.losses import LOSS_RULES

        return self._recipe.loss in LOSS_RULES and self._info.thresholds.activation == "softmax"

    def _fields_of(self, square: np.ndarray, gradients: int) -> Fields | None:
        """Receptive fields of cells, the first `gradients` of them by gradient too; None for an exported file."""
        model = getattr(self.detector.engine, "model", None)
        if model is None:
            return None
        import torch

        from singleshot.models.receptive_field import gradient_fields

        if self._fields is None:
            self.prepare()
        theory = self._fields
        assert theory is not None

        def fields(cells: Sequence[Cell]) -> list[tuple[Corners | None, Corners | None]]:
            images = torch.from_numpy(np.ascontiguousarray(square[None])).permute(0, 3, 1, 2).to(model.mean.device)
            some = list(dict.fromkeys(cells[:gradients]))
            measured = dict(zip(some, gradient_fields(model, images, some) if some else [], strict=True))
            return [(theory.of(cell), measured.get(cell)) for cell in cells]

        return fields

    def _notes(self, truth: ImageTruth | None) -> tuple[str, ...]:
        notes = [] if self._tiles is None else [f"{printable(self._path)}: {self._tiles}"]
        if not hasattr(self.detector.engine, "model"):
            notes.append(f"{printable(self._path)}: an exported file; receptive fields need the checkpoint")
        if truth is not None and not self._mines:
            notes.append("no hard negatives: a model of sigmoids is trained on every default box")
        if truth is not None and self._recipe_of != "the checkpoint":
            notes.append("matching and mining by Caffe's rules: the file does not say how the model was trained")
        return tuple(notes)


class _Seen(NamedTuple):
    """found: all detections of an image, normalised; kept, raw: where they came from; None where the file hides it."""

    found: ImageDetections
    kept: Traced | None
    raw: RawOutput | None


def _recipe_of(info: ModelInfo) -> tuple[Recipe, str]:
    """How the model was trained, and where that is from."""
    from pydantic import ValidationError

    from singleshot.api.train_options import read_recipe
    from singleshot.training.recipes import Recipe

    values = info.training.get("recipe")
    if isinstance(values, Mapping):
        try:
            return read_recipe(values), "the checkpoint"
        except (ValidationError, ConfigError, TypeError, AttributeError):
            log.warning("the recipe in the checkpoint cannot be read; matching and mining go by Caffe's rules")
    return Recipe.model_validate({}), "Caffe"
