"""A client of `singleshot serve`, which needs the runtime's packages alone.

from singleshot.client import Client

with Client("http://127.0.0.1:8000") as client:
    for found in client.detect(["a.jpg", "b.jpg"], score_min=0.5):
        print(found.image, found.summary())
"""

from __future__ import annotations

import http.client
import json
import random
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import numpy as np

from singleshot.errors import ConfigError, DataError, SingleshotError, printable
from singleshot.report.explanation import Origin, PriorPlace, RunnerUp
from singleshot.runtime.detections import Detections
from singleshot.storage import read_limited

Image = bytes | str | Path
_MOST_BYTES = 256 * 2**20
_LONGEST_PAUSE = 5.0


class ServiceError(SingleshotError):
    """The service refused a request, or does not answer.

    Attributes:
        status: HTTP's; None where there was no answer.
        code: The service's word for the reason.
        retry_after: Seconds after which it may take the request; None where it did not say.
    """

    def __init__(
        self, message: str, status: int | None = None, code: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after = status, code, retry_after


@dataclass(frozen=True)
class Model:
    """A model of the service. classes: their names, by label; width, height: of its input; explainable: whether
    `Client.explain` takes it."""

    name: str
    classes: tuple[str, ...]
    width: int
    height: int
    score_min: float
    nms_iou: float
    default: bool
    explainable: bool = False


@dataclass(frozen=True)
class Explained:
    """What an image has, and where each detection comes from, row by row. maps: rows and columns of each feature map;
    notes: what cannot be explained, a line each."""

    found: Detections
    origins: tuple[Origin, ...]
    maps: tuple[tuple[int, int], ...]
    notes: tuple[str, ...]


class Client:
    """Asks a service for detections, over one connection that is kept. Not for several threads at once.

    Args:
        url: The service's address, such as "http://127.0.0.1:8000".
        api_key: What it was started with, if it was.
        timeout: Seconds for an answer.
        retries: How often a request is sent again that was refused because the service is busy, or lost its connection.

    Raises:
        ConfigError: The address is none.
    """

    def __init__(self, url: str, *, api_key: str | None = None, timeout: float = 60.0, retries: int = 3) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
            raise ConfigError(f"service {printable(url)}: want an address such as http://127.0.0.1:8000")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname, parts.port, timeout=timeout)
        self._prefix = parts.path.rstrip("/")
        self._where = f"{parts.scheme}://{parts.netloc}"
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._retries = retries

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    def detect(
        self,
        images: Image | Sequence[Image],
        *,
        model: str | None = None,
        score_min: float | None = None,
        nms_iou: float | None = None,
        tile: int | str | bool | None = None,
    ) -> list[Detections]:
        """Objects in each image, in one request.

        Args:
            images: Paths of image files or their bytes; one alone is a list of one.
            model: A name of `models`; None for the service's default.
            score_min: In place of the model's own.
            nms_iou: Of two boxes of a class that overlap more, the weaker is dropped.
            tile: Look at tiles of that many pixels a side too; "640:0.25" with the overlap; False
                for none. None: what the service does by itself, for a model that was trained on tiles these.

        Raises:
            DataError: A file cannot be read.
            ServiceError: The service refused the request, or does not answer.
        """
        options = {
            "model": model,
            "score_min": score_min,
            "nms_iou": nms_iou,
            "tile": "none" if tile is False else tile,
        }
        return [_detections(one, name) for one, name in self._images("/v1/detect", images, options)]

    def explain(
        self, images: Image | Sequence[Image], *, model: str | None = None, score_min: float | None = None
    ) -> list[Explained]:
        """Where the objects in each image come from, in one request: whole images, not tiles, by a model that is
        `explainable`.

        Args:
            images: As `detect` takes them.
            model: Likewise.
            score_min: Likewise.

        Raises:
            DataError: A file cannot be read.
            ServiceError: The service refused the request, does not answer, or does not explain this model.
        """
        options = {"model": model, "score_min": score_min}
        return [
            Explained(
                _detections(one, name),
                tuple(_origin(found["origin"]) for found in one["detections"]),
                tuple((rows, columns) for rows, columns in one["maps"]),
                tuple(one["notes"]),
            )
            for one, name in self._images("/v1/explain", images, options)
        ]

    def _images(
        self, path: str, images: Image | Sequence[Image], options: Mapping[str, Any]
    ) -> list[tuple[dict[str, Any], str | None]]:
        """What the service says of each image, and the image's path."""
        given = [images] if isinstance(images, (bytes, str, Path)) else list(images)
        boundary = secrets.token_hex(24)
        body = b"".join(_part(one, index, boundary) for index, one in enumerate(given)) + f"--{boundary}--\r\n".encode()
        query = urlencode({name: value for name, value in options.items() if value is not None})
        kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        answer = self._ask("POST", f"{path}{'?' if query else ''}{query}", body, kind)
        names = [None if isinstance(one, bytes) else str(one) for one in given]
        return list(zip(answer["images"], names, strict=True))

    def models(self) -> list[Model]:
        """The models of the service. Raises ServiceError."""
        return [
            Model(
                one["name"],
                tuple(one["classes"]),
                one["input"]["width"],
                one["input"]["height"],
                one["thresholds"]["score_min"],
                one["thresholds"]["nms_iou"],
                one["default"],
                one.get("explain", {}).get("available", False),
            )
            for one in self._ask("GET", "/v1/models")["models"]
        ]

    def is_ready(self) -> bool:
        """Whether the service can detect now."""
        try:
            self._once("GET", "/readyz", None, {})
        except ServiceError:
            return False
        return True

    def _ask(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Any:
        for attempt in range(self._retries + 1):
            try:
                return self._once(method, path, body, headers or {})
            except ServiceError as error:
                if attempt == self._retries or error.status not in (None, 503):
                    raise
                pause = error.retry_after or 0.1 * 2**attempt
                time.sleep(min(pause, _LONGEST_PAUSE) * random.uniform(0.5, 1.0))
        raise AssertionError

    def _once(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Any:
        try:
            self._connection.request(method, self._prefix + path, body, {**self._headers, **headers})
            response = self._connection.getresponse()
            status, text = response.status, response.read(_MOST_BYTES)
            retry_after = response.headers.get("Retry-After", "")
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise ServiceError(f"{self._where}: no answer ({printable(error or type(error).__name__, 100)})") from error
        try:
            values = json.loads(text)
            if status == 200:
                return values
            code, message = values["error"]["code"], values["error"]["message"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ServiceError(f"{self._where}: no answer of `singleshot serve` (status {status})", status) from error
        seconds = float(retry_after) if retry_after.isdigit() else None
        raise ServiceError(f"{self._where}: {printable(message, 400)}", status, str(code), seconds)


def _part(image: Image, index: int, boundary: str) -> bytes:
    data = image if isinstance(image, bytes) else read_limited(image, _MOST_BYTES, "image")
    if not data:
        raise DataError(f"{f'image {index}' if isinstance(image, bytes) else printable(image)}: an empty file")
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="image {index}"\r\n\r\n'
    return head.encode() + data + b"\r\n"


def _detections(values: Mapping[str, Any], name: str | None) -> Detections:
    found = values["detections"]
    return Detections(
        np.array([one["box"] for one in found], np.float32).reshape(-1, 4),
        np.array([one["score"] for one in found], np.float32),
        np.array([one["label"] for one in found], np.int64),
        tuple(one["name"] for one in found),
        name or values["image"],
        values["width"],
        values["height"],
    )


def _origin(values: Mapping[str, Any]) -> Origin:
    def tuples(of: Mapping[str, Any]) -> dict[str, Any]:
        return {key: tuple(one) if isinstance(one, list) else one for key, one in of.items()}

    weaker = tuple(
        RunnerUp(**tuples(one) | {"place": PriorPlace(**tuples(one["place"]))}) for one in values["runners_up"]
    )
    return Origin(**tuples(values) | {"place": PriorPlace(**tuples(values["place"])), "runners_up": weaker})
