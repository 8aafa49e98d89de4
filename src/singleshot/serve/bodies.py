"""A request's body, bounded in bytes and time, becomes encoded images: raw, in a form, or as base64 in JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from singleshot.errors import printable
from singleshot.serve.options import MB, ServeOptions

JSON_TYPE, FORM_TYPE, BYTES_TYPE = "application/json", "multipart/form-data", "application/octet-stream"
HELD_BYTES = 64 * MB  # of all bodies that are being read or worked on
_MOST_MARKS = 10_000  # brackets, commas and colons of JSON: each becomes an object
_DEEPEST = 8
_NAME_LETTERS = 200
_MOST_HEADERS, _HEADER_BYTES = 8, 4096  # of a part of a form
_LARGE = MB  # bytes that are parsed in a thread


class RequestError(Exception):
    """A request that is refused. status: HTTP's; code: a word for programs; close: the connection goes too, since the
    rest of the body is not wanted; headers: more of the answer's."""

    def __init__(
        self, status: int, code: str, message: str, *, close: bool = False, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code = status, code
        self.headers = {**(headers or {}), **({"Connection": "close"} if close else {})}


class Upload(NamedTuple):
    """An image of a request. base64: how its bytes are written."""

    name: str
    data: bytes
    base64: bool = False


class HeldBytes:
    """How many bytes of bodies all requests together hold."""

    def __init__(self, most: int) -> None:
        self._most, self.now = most, 0

    def add(self, count: int) -> None:
        """Raise RequestError where that would be too many."""
        if self.now + count > self._most:
            raise RequestError(
                503, "too_much_held", "too many large requests at once", close=True, headers={"Retry-After": "1"}
            )
        self.now += count

    def release(self, count: int) -> None:
        """Give back bytes that are held no longer."""
        self.now -= count


async def read_body(request: Request, options: ServeOptions, hold: Callable[[int], None]) -> bytes:
    """The whole body; hold: called with the size of each piece. Raises RequestError."""
    most = options.max_mb * MB
    too_large = RequestError(413, "too_many_bytes", f"the body has more than {options.max_mb} MB", close=True)
    if request.headers.get("content-encoding", "identity") != "identity":
        raise RequestError(415, "content_encoding", "compressed bodies are not read here", close=True)
    length = request.headers.get("content-length", "0")
    if not length.isdigit() or int(length) > most:
        raise too_large
    pieces, size = [], 0
    try:
        async with asyncio.timeout(options.body_seconds):
            async for piece in request.stream():
                size += len(piece)
                if size > most:
                    raise too_large
                hold(len(piece))
                pieces.append(piece)
    except TimeoutError as error:
        message = f"the body did not arrive within {options.body_seconds:g} s"
        raise RequestError(408, "body_timeout", message, close=True) from error
    except ClientDisconnect as error:
        raise RequestError(400, "gone", "the connection ended before the body", close=True) from error
    return b"".join(pieces)


async def uploads_of(content_type: str, body: bytes, most: int) -> list[Upload]:
    """The images of a body, one to `most`. Raises RequestError."""
    kind, parameters = parse_options_header(content_type)
    kind = kind.lower()
    if kind == FORM_TYPE.encode():
        parse = partial(_of_form, body, parameters.get(b"boundary", b""), most)
    elif kind == JSON_TYPE.encode():
        parse = partial(_of_json, body, most)
    elif kind == BYTES_TYPE.encode() or kind.startswith(b"image/"):
        parse = partial(_of_bytes, body)
    else:
        raise RequestError(
            415, "content_type",
            f"Content-Type {printable(content_type, 60) or 'is missing'}: want an image/... type, {BYTES_TYPE},"
            f" {FORM_TYPE} or {JSON_TYPE}",
        )  # fmt: skip
    uploads = await asyncio.to_thread(parse) if len(body) > _LARGE else parse()
    if not uploads or not all(one.data for one in uploads):
        raise RequestError(400, "no_image", "no image in the body, or an empty one")
    return uploads


def _of_bytes(body: bytes) -> list[Upload]:
    return [Upload("image", body)]


def _too_many(most: int) -> RequestError:
    return RequestError(413, "too_many_images", f"more than {most} images in a request; send several")


class _Form:
    """Takes what the parser of forms reports."""

    def __init__(self, most: int) -> None:
        self.uploads: list[Upload] = []
        self._most = most
        self._headers: dict[bytes, bytes] = {}
        self._field, self._value, self._data = b"", b"", bytearray()

    def part_begin(self) -> None:
        self._headers, self._data = {}, bytearray()

    def header_begin(self) -> None:
        self._field = self._value = b""

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        self._headers[self._field.lower()] = self._value

    def part_data(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]

    def part_end(self) -> None:
        kind, parameters = parse_options_header(self._headers.get(b"content-disposition", b""))
        if kind != b"form-data" or b"filename" not in parameters:
            field = printable(parameters.get(b"name", b"").decode("utf-8", "replace"), 40)
            raise RequestError(
                400, "form_field", f"form field {field!r}: want files only; options go into the address, ?score_min=0.5"
            )
        if b"content-transfer-encoding" in self._headers:
            raise RequestError(400, "form_field", "Content-Transfer-Encoding is not read; send the bytes as they are")
        if len(self.uploads) == self._most:
            raise _too_many(self._most)
        name = _name(parameters[b"filename"].decode("utf-8", "replace"), len(self.uploads))
        self.uploads.append(Upload(name, bytes(self._data)))


def _of_form(body: bytes, boundary: bytes, most: int) -> list[Upload]:
    form, ended = _Form(most), []
    try:
        if not boundary:
            raise FormParserError("no boundary in its Content-Type")
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": form.part_begin,
                "on_part_data": form.part_data,
                "on_part_end": form.part_end,
                "on_header_begin": form.header_begin,
                "on_header_field": form.header_field,
                "on_header_value": form.header_value,
                "on_header_end": form.header_end,
                "on_end": lambda: ended.append(True),
            },
            max_header_count=_MOST_HEADERS,
            max_header_size=_HEADER_BYTES,
        )
        parser.write(body)
        parser.finalize()
        if not ended:
            raise FormParserError("cut short")
    except FormParserError as error:
        raise RequestError(400, "bad_form", f"not a form ({printable(error, 100)})") from error
    return form.uploads


def _of_json(body: bytes, most: int) -> list[Upload]:
    if sum(body.count(mark) for mark in (b"[", b"{", b",", b":")) > _MOST_MARKS:
        raise RequestError(400, "bad_json", "JSON of too many values")
    try:
        if _depth(body) > _DEEPEST:
            raise ValueError("nested too deeply")
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, "bad_json", f"not JSON ({printable(error, 100)})") from error
    if not isinstance(values, dict) or set(values) != {"images"} or not isinstance(values["images"], list):
        wanted = '{"images": ["BASE64", {"name": "a.jpg", "data": "BASE64"}]}'
        raise RequestError(400, "bad_json", f"want {wanted}; options go into the address, ?score_min=0.5")
    if len(values["images"]) > most:
        raise _too_many(most)
    return [_of_value(value, index) for index, value in enumerate(values["images"])]


def _of_value(value: Any, index: int) -> Upload:
    name: Any = None
    if isinstance(value, dict) and set(value) <= {"name", "data"}:
        name, value = value.get("name"), value.get("data")
    if not isinstance(value, str) or not isinstance(name, str | None):
        raise RequestError(400, "bad_json", f'image {index}: want "BASE64" or {{"name": "a.jpg", "data": "BASE64"}}')
    if value.startswith("data:image/"):
        value = value.partition(";base64,")[2]
    elif "://" in value[:20]:
        raise RequestError(400, "address", f"image {index}: addresses are not fetched; send the image's bytes")
    return Upload(_name(name or "", index), value.encode("ascii", "replace"), base64=True)


def _depth(body: bytes) -> int:
    """How deep brackets are nested, at most; those in texts count too."""
    depth = deepest = 0
    for byte in body.translate(None, delete=_NO_BRACKETS):
        depth += 1 if byte in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def _name(given: str, index: int) -> str:
    """What an answer calls an image: the last part of its file's name, never a path."""
    last = given.replace("\\", "/").rpartition("/")[2]
    return printable(last, _NAME_LETTERS) or f"image {index}"
