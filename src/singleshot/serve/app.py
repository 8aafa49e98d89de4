"""The routes, and errors as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from singleshot._version import __version__
from singleshot.errors import printable
from singleshot.serve.api_page import render_page
from singleshot.serve.batching import Question, QueueFullError
from singleshot.serve.bodies import BYTES_TYPE, FORM_TYPE, JSON_TYPE, RequestError
from singleshot.serve.guard import Guard
from singleshot.serve.schema import ERRORS, DetectAnswer, ExplainAnswer, ModelsAnswer, error_values, request_body
from singleshot.serve.service import Service
from singleshot.serve.wire import ImageRefusedError

# What Tiling.of takes; it says more of what it does not take than a pattern could.
_TILE = r"^none$|^(3[2-9]|[4-9][0-9]|[1-9][0-9]{2,4}|100000)(:0(\.[0-8][0-9]{0,5})?)?$"
_STYLED = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
PAGE = Path(__file__).with_name("page")
_PAGE_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

Model = Annotated[str | None, Query(min_length=1, max_length=100, description="A name of /v1/models.")]
Share = Annotated[float | None, Query(ge=0, le=1, allow_inf_nan=False)]


def create_app(service: Service) -> FastAPI:
    """The application of a service whose pool is started and stopped by whoever calls this."""
    app = FastAPI(
        title="singleshot",
        version=__version__,
        description="Objects in images.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    app.state.service = service
    add_errors(app)
    _add_detection(app, service)
    _add_state(app, service)
    _add_page(app)
    if service.options.allow_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(service.options.allow_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key"],
        )
    app.add_middleware(Guard, options=service.options, metrics=service.metrics)
    return app


def _add_detection(app: FastAPI, service: Service) -> None:
    images = {"requestBody": request_body(BYTES_TYPE, FORM_TYPE, JSON_TYPE)}

    @app.post(
        "/v1/detect",
        summary="Objects in one image or several",
        response_model=DetectAnswer,
        responses=ERRORS,
        openapi_extra=images,
    )
    async def detect(
        request: Request,
        model: Model = None,
        score_min: Share = None,
        nms_iou: Share = None,
        tile: Annotated[
            str | None,
            Query(
                max_length=20,
                description="Pixels of a tile's side, 32 to 100000, or SIDE:OVERLAP, or none. Default: the model's.",
                json_schema_extra={"pattern": _TILE},
            ),
        ] = None,
    ) -> Response:
        _refuse_unknown(request, ("model", "score_min", "nms_iou", "tile"))
        question = Question(model or service.default, "", score_min, nms_iou, tile)
        return Response(await service.answer(request, question), media_type=JSON_TYPE)

    @app.post(
        "/v1/explain",
        summary="Where the objects in one image or several come from: whole images, by models that say so",
        response_model=ExplainAnswer,
        responses=ERRORS,
        openapi_extra=images,
    )
    async def explain(request: Request, model: Model = None, score_min: Share = None) -> Response:
        _refuse_unknown(request, ("model", "score_min"))
        question = Question(model or service.default, "", score_min, explain=True)
        return Response(await service.answer(request, question), media_type=JSON_TYPE)

    @app.get("/v1/models", summary="The models that are served", response_model=ModelsAnswer, responses=ERRORS)
    async def models() -> Response:
        return JSONResponse({"models": service.models()})


def _refuse_unknown(request: Request, options: tuple[str, ...]) -> None:
    """Options that are not known or given twice are not ignored."""
    given = [key for key, _ in request.query_params.multi_items()]
    for key in given:
        if key not in options or given.count(key) > 1:
            what = "is given twice" if key in options else f"is not known; there are {', '.join(options)}"
            raise RequestError(422, "bad_option", f"option {printable(key, 40)!r} {what}")


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", summary="Whether the service runs")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", summary="Whether it can detect now", responses={503: ERRORS[503]})
    async def readyz() -> Response:
        ready = service.pool.ready
        return JSONResponse(
            {"status": "ready" if ready else "starting", "workers": ready},
            status_code=200 if ready else 503,
            headers={} if ready else {"Retry-After": "1"},
        )

    @app.get("/metrics", summary="Figures in Prometheus' form", response_class=PlainTextResponse)
    async def metrics() -> Response:
        service.metrics.waiting.set(len(service.queue))
        service.metrics.workers.set(service.pool.ready)
        return Response(service.metrics.text(), media_type=service.metrics.content_type)


def _add_page(app: FastAPI) -> None:
    """Every file of page/ under its own address: no address leads to any other file."""

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(
            render_page(app.openapi()), media_type="text/html", headers={"Content-Security-Policy": _STYLED}
        )

    add_files(app, (one for one in PAGE.rglob("*") if one.is_file()))


def add_files(app: FastAPI, paths: Iterable[Path]) -> None:
    """Each file under its name, index.html at / too."""

    async def send(_: Request, *, data: bytes, media_type: str) -> Response:
        return Response(data, media_type=media_type, headers={"Cache-Control": "no-cache"})

    for path in sorted(paths):
        endpoint = partial(send, data=path.read_bytes(), media_type=_PAGE_TYPES[path.suffix])
        for address in (f"/{path.name}", *(["/"] if path.name == "index.html" else [])):
            app.add_api_route(address, endpoint, methods=["GET"], include_in_schema=False)


def add_errors(app: FastAPI) -> None:
    """Every refusal as JSON with a word for programs and a line for people."""

    def answer(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
        app.state.service.metrics.refused.labels(code).inc()
        return JSONResponse(error_values(code, message), status, headers)

    async def refused(_: Request, error: Any) -> Response:
        return answer(error.status, error.code, str(error), getattr(error, "headers", None))

    async def full(_: Request, error: Any) -> Response:
        headers = {"Retry-After": str(error.seconds), **({"Connection": "close"} if error.close else {})}
        return answer(503, "queue_full", str(error), headers)

    async def invalid(_: Request, error: Any) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return answer(422, "bad_option", printable(f"option {where!r}: {first['msg']}"))

    async def no_route(_: Request, error: Any) -> Response:
        return answer(error.status_code, "no_route", printable(error.detail), error.headers)

    async def our_mistake(_: Request, error: Exception) -> Response:
        return answer(500, "failed", f"our own mistake ({type(error).__name__}); the log has more")

    app.add_exception_handler(RequestError, refused)
    app.add_exception_handler(ImageRefusedError, refused)
    app.add_exception_handler(QueueFullError, full)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, no_route)
    app.add_exception_handler(Exception, our_mistake)
