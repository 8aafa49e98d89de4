"""The one description in every model file, a checkpoint's and an exported file's: JSON in the file's metadata.

No torch here: both halves read and write it. What a checkpoint's network is built from is in weights.checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from singleshot._version import __version__
from singleshot.class_selection import ClassSelection
from singleshot.errors import CheckpointError, ConfigError, printable
from singleshot.inputs import InputSpec
from singleshot.pretrained import PretrainedWeights
from singleshot.prior_boxes import PriorSpec
from singleshot.thresholds import Thresholds
from singleshot.tiling import Tiling

if TYPE_CHECKING:
    from singleshot.models import SSD

KEY = "singleshot"  # in the file's metadata
FORMAT = 1
# What the description of each kind of file must hold, apart from its format.
CHECKPOINT = ("version", "model", "classes", "priors", "input", "thresholds")
EXPORTED = ("classes", "input", "thresholds", "outputs")
# Fields that have another name in the file.
_NAMES_IN_FILE = {
    "class_names": "classes", "prior_spec": "priors", "input_spec": "input", "selection": "class_members",
}  # fmt: skip


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model, apart from its weights.

    Attributes:
        class_names: By label.
        input_spec: How an image becomes its input.
        model: The name of its preset, or where an imported network came from.
        prior_spec: None for an exported file of another maker, whose boxes come decoded.
        thresholds: How raw outputs become detections.
        metrics: Figures that it reached, by name.
        training: How it was trained, as plain values.
        version: Of the singleshot that wrote it.
        graph: Of an imported network, as models.graph.Graph.to_dict gives it.
        outputs: Of an exported file: "raw" for offsets and logits, "detections" for boxes, scores, labels and counts.
        precision: Of an exported file's weights.
        category_ids: COCO's number of each class, of the data that it was trained on; None for other forms.
        selection: Which of its training data's classes these are, where they were selected or renamed.
        pretrained: What it was started from and that licence, where it did not start from scratch and that is known.
        tiling: The tiles that it was trained on, None for whole images: detection looks at the same.
        more: What else the description holds.
    """

    class_names: tuple[str, ...]
    input_spec: InputSpec
    model: str = ""
    prior_spec: PriorSpec | None = None
    thresholds: Thresholds = field(default_factory=Thresholds)
    metrics: Mapping[str, float] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    version: str = __version__
    graph: Mapping[str, Any] | None = None
    outputs: str | None = None
    precision: str | None = None
    category_ids: Mapping[str, int] | None = None
    selection: ClassSelection | None = None
    pretrained: PretrainedWeights | None = None
    tiling: Tiling | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: SSD,
        class_names: tuple[str, ...],
        thresholds: Thresholds | None = None,
        metrics: Mapping[str, float] | None = None,
        training: Mapping[str, Any] | None = None,
        category_ids: Mapping[str, int] | None = None,
    ) -> ModelInfo:
        """Of a model in memory, for its checkpoint."""
        graph = getattr(model.backbone, "graph", None)
        return cls(
            tuple(class_names),
            model.input_spec,
            model.name,
            model.prior_spec,
            thresholds or Thresholds(),
            metrics or {},
            training or {},
            graph=None if graph is None else graph.to_dict(),
            category_ids=category_ids,
            pretrained=model.pretrained,
        )

    def exported(self, raw: bool, precision: str = "float32", more: Mapping[str, Any] | None = None) -> ModelInfo:
        """Of the file that the model is exported to. raw: it ends with offsets and logits."""
        outputs = "raw" if raw else "detections"
        return replace(self, training={}, graph=None, outputs=outputs, precision=precision, more=more or {})

    @property
    def raw(self) -> bool:
        """Whether it is an exported file that ends with offsets and logits."""
        return self.outputs == "raw"

    @property
    def priors(self) -> PriorSpec:
        """The default boxes. Raises CheckpointError where the file does not name them."""
        if self.prior_spec is None:
            raise CheckpointError("the file's description names no priors; export it again")
        return self.prior_spec

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, under the names that they have in the file."""
        values: dict[str, Any] = {"format": FORMAT}
        for name in (one.name for one in fields(self)):
            value = getattr(self, name)
            of_the_other_kind = name == "training" and self.outputs is not None
            if name != "more" and value is not None and not of_the_other_kind:
                values[_NAMES_IN_FILE.get(name, name)] = _plain(value)
        return {**values, **self.more}

    def to_json(self) -> str:
        """The description as it stands in a file."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelInfo:
        """Inverse of `to_dict`; ConfigError, KeyError, TypeError or ValueError where it is none."""
        names = {_NAMES_IN_FILE.get(one.name, one.name): one.name for one in fields(cls) if one.name != "more"}
        given = {names[key]: value for key, value in values.items() if key in names and value is not None}
        for name, read in _READERS.items():
            if name in given:
                given[name] = read(given[name])
        more = {key: value for key, value in values.items() if key not in names and key != "format"}
        selection = given.get("selection")
        if selection is not None and selection.names != given.get("class_names"):
            raise ConfigError("its class_members are not those of its classes")
        return cls(**{"version": "", **given}, more=more)

    @classmethod
    def from_json(cls, text: str, where: str, wanted: tuple[str, ...] = CHECKPOINT) -> ModelInfo:
        """From a file's description. wanted: what it must hold, CHECKPOINT or EXPORTED.

        Raises CheckpointError that names `where` and what is wrong.
        """
        try:
            values = json.loads(text)
            _refuse_newer(values, where)
            for key in (*wanted, *(("priors",) if values.get("outputs") == "raw" else ())):
                if values[key] is None:
                    raise KeyError(key)
            return cls.from_dict(values)
        except ConfigError as error:
            raise CheckpointError(f"{where}: {error}") from error
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            reason = printable(f"{type(error).__name__}: {error}", 100)
            remedy = "; export it again" if wanted is EXPORTED else ""
            raise CheckpointError(f"{where}: its description cannot be read ({reason}){remedy}") from error


def _plain(value: Any) -> Any:
    """A field's value as JSON has it."""
    if hasattr(value, "to_dict"):
        return value.to_dict()
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _refuse_newer(values: Mapping[str, Any], where: str) -> None:
    """Raise CheckpointError for a description of a later format, KeyError or TypeError where it does not name one."""
    if values["format"] > FORMAT:
        raise CheckpointError(
            f"{where}: made by singleshot {printable(values.get('version'))}, which is newer than this one"
            f" ({__version__}); upgrade with: pip install -U singleshot"
        )


def read_names(names: object) -> tuple[str, ...]:
    """Class names, one at least, from a list or tuple of them. Raises ConfigError."""
    if not isinstance(names, (list, tuple)) or not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"its classes are not a list of names: {printable(names, 60)}")
    return tuple(names)


def read_input(values: Mapping[str, Any]) -> InputSpec:
    """How an image becomes the network's input. ConfigError, TypeError or ValueError for anything else."""
    return InputSpec.from_dict(values)


def read_category_ids(values: Mapping[str, Any]) -> dict[str, int]:
    """COCO's number of each class. TypeError or ValueError for anything else."""
    if any(isinstance(ident, bool) or not isinstance(ident, int) for ident in values.values()):
        raise ValueError("category ids: want a whole number for each class")
    return dict(values)


_READERS: dict[str, Callable[[Any], object]] = {
    "class_names": read_names,
    "input_spec": read_input,
    "prior_spec": PriorSpec.from_dict,
    "thresholds": Thresholds.from_dict,
    "category_ids": read_category_ids,
    "selection": ClassSelection.from_dict,
    "pretrained": PretrainedWeights.from_dict,
    "tiling": Tiling.from_dict,
    "model": str,
    "version": str,
}
