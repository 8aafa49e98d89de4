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
    return {
        "required": True,
        "content": {
            "image/*": raw,
            bytes_type: raw,
            form_type: {"schema": {"type": "object", "properties": {"file": files}, "required": ["file"]}},
            json_type: {
                "schema": {
                    "type": "object",
                    "properties": {"images": images},
                    "required": ["images"],
                    "additionalProperties": False,
                }
            },
        },
    }
