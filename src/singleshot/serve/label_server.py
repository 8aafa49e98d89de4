"""`singleshot label` from its start to its end: the socket, the token, the thread of the model."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
from collections.abc import Callable

from singleshot.api.label_orders import ModelViews
from singleshot.api.label_store import LabelStore
from singleshot.serve.connections import server_for
from singleshot.serve.label_app import LabelService, create_label_app
from singleshot.serve.options import ServeOptions
from singleshot.serve.server import address_of, listen, on_signals

_MAX_MB = 8  # of the objects of an image


def label_options(host: str, port: int, token: str | None = None) -> ServeOptions:
    """Options of such a service: they name no model that requests could choose; the token is their key."""
    token = secrets.token_urlsafe(24) if token is None else token
    return ServeOptions(("label",), host=host, port=port, api_key=token, max_mb=_MAX_MB, connections=64)


def serve_labels(
    form: str, store: LabelStore, views: ModelViews | None, options: ServeOptions, ready: Callable[[str], None]
) -> None:
    """Serve until a signal ends it. ready: called with the address, which has the token. Raises ConfigError."""
    with listen(options.host, options.port) as listener, store.held(), contextlib.ExitStack() as stack:
        if views is not None:
            detecting = threading.Thread(target=views.run, name="label-model")
            detecting.start()
            stack.callback(detecting.join)
            stack.callback(views.stop)
        server = server_for(options, create_label_app(LabelService(form, store, views, options)))

        async def run() -> None:
            on_signals(server.stop)
            ready(f"{address_of(listener)}/#token={options.api_key}")
            await server.serve(sockets=[listener])

        asyncio.run(run())
