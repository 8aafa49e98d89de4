"""What requests and answers look like, for the OpenAPI page."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class DetectedObject(BaseModel):
    """box: x0 y0 x1 y1 in pixels of the image; label: 0-based."""

    box: tuple[float, float, float, float]
    score: float
    label: int
    name: str


class DetectedImage(BaseModel):
    """image: what the image is called."""

    image: str
    width: int
    height: int
    detections: list[DetectedObject]


class Times(BaseModel):
    """Milliseconds: the longest wait of an image, the longest run, the whole request."""

    queue: float
    detect: float
    total: float


class DetectAnswer(BaseModel):
    """orientations: of each image, how its file says that its pixels are turned, 1 to 8 as EXIF has it; boxes are those
    of the upright image."""

    model: str
    images: list[DetectedImage]
    orientations: list[int]
    times_ms: Times


class PriorPlace(BaseModel):
    """A default box. prior: its number; map, row, column: of its cell; shape: which box of the cell; all from 0; box,
    cell: in pixels of the image, also beyond it."""

    prior: int
    map: int
    row: int
    column: int
    shape: int
    box: tuple[float, float, float, float]
    cell: tuple[float, float, float, float]


class RunnerUp(BaseModel):
    """A weaker box that non-maximum suppression removed for a detection. iou: of the two."""

    place: PriorPlace
    box: tuple[float, float, float, float]
    score: float
    iou: float


class Origin(BaseModel):
    """Where a detection comes from. offsets: what the network said at the default box, dx dy dw dh; arrow: from the
    default box's centre to the detection's; scores: of each class at that default box; background: null for models of
    sigmoids; runners_up: the best of those removed; removed: how many there are; field: what the cell can see by the
    layers, null for an exported file; gradient: null here."""

    place: PriorPlace
    offsets: tuple[float, float, float, float]
    arrow: tuple[float, float, float, float]
    scores: dict[str, float]
    background: float | None
    runners_up: list[RunnerUp]
    removed: int
    field: tuple[float, float, float, float] | None
    gradient: tuple[float, float, float, float] | None


class ExplainedObject(DetectedObject):
    origin: Origin


class ExplainedImage(BaseModel):
    """maps: rows and columns of each feature map; notes: what cannot be explained, a line each."""

    image: str
    width: int
    height: int
    detections: list[ExplainedObject]
    maps: list[tuple[int, int]]
    notes: list[str]


class ExplainTimes(BaseModel):
    """Milliseconds: the longest wait of an image, the longest explanation, the whole request."""

    queue: float
    explain: float
    total: float


class ExplainAnswer(BaseModel):
    """As DetectAnswer, with where each detection comes from."""

    model: str
    images: list[ExplainedImage]
    orientations: list[int]
    times_ms: ExplainTimes


class ModelInput(BaseModel):
    width: int
    height: int
    channels: int
    resize: str


class ModelThresholds(BaseModel):
    score_min: float
    nms_iou: float


class ModelTile(BaseModel):
    """Tiles of `side` pixels of the image that share `overlap` of it; whole: the whole image is looked at too."""

    side: int
    overlap: float
    whole: bool


class ModelExplain(BaseModel):
    """Whether /v1/explain takes the model, and whether it knows receptive fields; reason: why not."""

    available: bool
    receptive_fields: bool
    reason: str | None


class ModelAnswer(BaseModel):
    """colours: by class, "#rrggbb", as `detect` draws them; tile: what is looked at without the option `tile`, null for
    whole images."""

    name: str
    classes: list[str]
    colours: dict[str, str]
    input: ModelInput
    thresholds: ModelThresholds
    tile: ModelTile | None
    engine: str | None
    explain: ModelExplain
    default: bool


class ModelsAnswer(BaseModel):
    models: list[ModelAnswer]


class ErrorText(BaseModel):
    code: str
    message: str


class ErrorAnswer(BaseModel):
    """code: a word for programs; message: a line for people."""

    error: ErrorText


def error_values(code: str, message: str) -> dict[str, dict[str, str]]:
    """An ErrorAnswer as plain values: what every refusal of the service says."""
    return {"error": {"code": code, "message": message}}


_MEANINGS = {
    400: "The body is not what its type says",
    401: "The API key is missing or wrong",
    404: "No such model",
    408: "The body did not arrive in time",
    413: "Too many bytes, pixels or images",
    415: "A type of body that is not read",
    422: "An option or an image that cannot be used",
    503: "Too busy, or starting: see Retry-After",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text} for status, text in _MEANINGS.items()
}


def request_body(bytes_type: str, form_type: str, json_type: str) -> dict[str, Any]:
    """The body of a request for detection in OpenAPI's terms."""
    raw = {"schema": {"type": "string", "format": "binary"}}
    files = {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}
    encoded = {"type": "string", "contentEncoding": "base64", "minLength": 1}
    named = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "data": encoded},
        "required": ["data"],
        "additionalProperties": False,
    }
    images = {"type": "array", "items": {"anyOf": [encoded, named]}, "minItems": 1}

    def only(name: str, values: dict[str, Any]) -> dict[str, Any]:
        return {"type": "object", "properties": {name: values}, "required": [name], "additionalProperties": False}

    return {
        "required": True,
        "content": {
            "image/*": raw,
            bytes_type: raw,
            form_type: {"schema": only("file", files)},
            json_type: {"schema": only("images", images)},
        },
    }
