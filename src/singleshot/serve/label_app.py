"""The HTTP side of `singleshot label`: one user's page, which reads and saves the labels of one data set.

Every address that gives or takes data is under /v1/ and wants the token. What changes something is JSON, which a form
of another site cannot send, and a request of another page than this service's own is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import cv2
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from singleshot.api.label_orders import ORDERS, ModelViews
from singleshot.api.label_store import (
    MAX_OBJECTS,
    LabelStore,
    RefusedError,
    Shown,
    StaleError,
    WantedObject,
    shown_values,
)
from singleshot.errors import SingleshotError, printable
from singleshot.images.decode import read_image
from singleshot.runtime.drawing import class_colours
from singleshot.serve.app import PAGE, add_errors, add_files
from singleshot.serve.bodies import JSON_TYPE, RequestError, read_body
from singleshot.serve.guard import Guard
from singleshot.serve.metrics import Metrics
from singleshot.serve.options import ServeOptions
from singleshot.serve.schema import error_values

LABEL_PAGE = Path(__file__).with_name("label_page")
SHARED_FILES = ("page.css", "icon.svg", "api.js", "draw.js")  # of the page of `serve`
_LONGEST_SIDE = 4096  # of the picture that the page gets; boxes are those of the image
_JPEG_QUALITY = 92

T = TypeVar("T")
Body = TypeVar("Body", bound=BaseModel)


class _Object(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    number: int | None
    name: str = Field(max_length=1000)
    box: tuple[float, float, float, float] = Field(strict=False)


class _Save(BaseModel):
    """version: of the labels that were shown; objects: all that are to be there."""

    model_config = ConfigDict(extra="forbid", strict=True)
    version: str = Field(max_length=100)
    objects: list[_Object] = Field(max_length=MAX_OBJECTS)


class _Looked(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    looked: bool


class _NewClass(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: str = Field(max_length=1000)


class LabelService:
    """What the routes work on. form: of the data set, for people; score: where the slider starts."""

    def __init__(self, form: str, store: LabelStore, views: ModelViews | None, options: ServeOptions) -> None:
        self.form, self.store, self.views, self.options = form, store, views, options
        self.metrics = Metrics()

    def about(self) -> dict[str, Any]:
        """The data set."""
        store, views = self.store, self.views
        colours = {name: "#{:02x}{:02x}{:02x}".format(*rgb) for name, rgb in class_colours(store.classes).items()}
        model = None if views is None else {"left_out": views.left_out, "score_min": views.score_min}
        return {"data": store.tree.root, "form": self.form, "classes": store.classes, "colours": colours,
                "orders": ORDERS if views is not None else ORDERS[:1], "model": model}  # fmt: skip

    def add_class(self, new: _NewClass) -> dict[str, Any]:
        """A class more; gives the data set as it is then."""
        self.store.add_class(new.name)
        return self.about()

    def images(self, order: str) -> dict[str, Any]:
        """All images in an order; looked: which were looked at."""
        if order not in ORDERS or (order != "name" and self.views is None):
            there = ", ".join(ORDERS if self.views is not None else ORDERS[:1])
            raise RequestError(422, "bad_option", f"order {printable(order, 40)!r}: want one of {there}")
        store, looked = self.store, self.store.looked
        pairs: list[tuple[int, float | None]] = [(i, None) for i in range(len(store.images))]
        if order != "name" and self.views is not None:
            pairs = self.views.order(order)
        rows = [{"id": i, "name": store.names[i], "looked": i in looked, "value": value} for i, value in pairs]
        return {"images": rows, "detected": None if self.views is None else self.views.done}

    def show(self, i: int) -> dict[str, Any]:
        """An image with its labels and what is suspected of them."""
        return self._values(i, self.store.show(self._there(i)))

    def save(self, i: int, save: _Save) -> dict[str, Any]:
        """Its labels made others."""
        wanted = [WantedObject(one.number, one.name, one.box) for one in save.objects]
        return self._values(i, self.store.save(self._there(i), save.version, wanted))

    def look(self, i: int, looked: _Looked) -> dict[str, Any]:
        """Note that it was looked at."""
        self.store.look(self._there(i), looked.looked)
        return {"looked": looked.looked}

    def proposals(self, i: int) -> dict[str, Any]:
        """What the model finds in it."""
        self._there(i)
        if self.views is None:
            raise RequestError(404, "no_model", "there is no model; start singleshot label with --model FILE")
        return {"proposals": [one._asdict() for one in self.views.proposals(i)]}

    def picture(self, i: int) -> bytes:
        """The upright picture as the network sees it, as JPEG: browsers do not show every form."""
        image = read_image(self.store.readable(self._there(i)))
        longest = max(image.shape[:2])
        if longest > _LONGEST_SIDE:
            scale = _LONGEST_SIDE / longest
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        done, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        assert done
        return data.tobytes()

    def _there(self, i: int) -> int:
        if not 0 <= i < len(self.store.images):
            raise RequestError(404, "no_image", f"image {i}: there are {len(self.store.images)}, from 0")
        return i

    def _values(self, i: int, shown: Shown) -> dict[str, Any]:
        suspects = [] if self.views is None else self.views.suspects(i, shown)
        more = {"id": i, "name": self.store.names[i], "looked": i in self.store.looked}
        return {**more, **shown_values(shown), "suspects": [one._asdict() for one in suspects]}


def create_label_app(service: LabelService) -> FastAPI:
    """The application; whoever calls this starts and stops the model's run."""
    app = FastAPI(title="singleshot label", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.service = service
    add_errors(app)

    async def stale(_: Request, error: Exception) -> Response:
        message = "the labels of this image were changed elsewhere in the meantime; load them again"
        return JSONResponse(error_values("changed_elsewhere", message), 409)

    async def refused(_: Request, error: Exception) -> Response:
        return JSONResponse(error_values("refused", printable(error, 400)), 422)

    async def not_written(_: Request, error: Any) -> Response:
        message = f"nothing was saved: {error.strerror or type(error).__name__}"
        return JSONResponse(error_values("not_written", message), 507)

    app.add_exception_handler(StaleError, stale)
    app.add_exception_handler(RefusedError, refused)
    app.add_exception_handler(SingleshotError, refused)
    app.add_exception_handler(OSError, not_written)
    _add_routes(app, service)
    add_files(app, [*LABEL_PAGE.iterdir(), *(PAGE / name for name in SHARED_FILES)])
    app.add_middleware(Guard, options=service.options, metrics=service.metrics, own_pages_only=True)
    return app


def _add_routes(app: FastAPI, service: LabelService) -> None:
    async def answer(call: Callable[..., T], *arguments: object) -> JSONResponse:
        return JSONResponse(await asyncio.to_thread(call, *arguments), headers={"Cache-Control": "no-store"})

    @app.get("/v1/set")
    async def about() -> Response:
        return await answer(service.about)

    @app.post("/v1/classes")
    async def add_class(request: Request) -> Response:
        return await answer(service.add_class, await _body(request, service.options, _NewClass))

    @app.get("/v1/images")
    async def images(order: str = "name") -> Response:
        return await answer(service.images, order)

    @app.get("/v1/images/{i}")
    async def show(i: int) -> Response:
        return await answer(service.show, i)

    @app.get("/v1/images/{i}/picture")
    async def picture(i: int) -> Response:
        data = await asyncio.to_thread(service.picture, i)
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "no-store"})

    @app.get("/v1/images/{i}/proposals")
    async def proposals(i: int) -> Response:
        return await answer(service.proposals, i)

    @app.put("/v1/images/{i}/objects")
    async def save(i: int, request: Request) -> Response:
        return await answer(service.save, i, await _body(request, service.options, _Save))

    @app.put("/v1/images/{i}/looked")
    async def look(i: int, request: Request) -> Response:
        return await answer(service.look, i, await _body(request, service.options, _Looked))


async def _body(request: Request, options: ServeOptions, form: type[Body]) -> Body:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON_TYPE:
        raise RequestError(415, "content_type", f"want {JSON_TYPE}", close=True)
    data = await read_body(request, options, lambda count: None)
    try:
        return await asyncio.to_thread(partial(form.model_validate_json, data))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RequestError(400, "bad_body", printable(f"{where or 'the body'}: {first['msg']}")) from error
