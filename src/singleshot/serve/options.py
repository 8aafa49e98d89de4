"""How a service is run."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from singleshot.api.options import check_range
from singleshot.errors import ConfigError, printable

MB = 2**20


@dataclass(frozen=True)
class ServeOptions:
    """What `singleshot serve` takes. Raises ConfigError for a value that is out of range.

    Attributes:
        models: Model files, "PATH" or "NAME=PATH"; the first is the default one.
        host: Address to listen on.
        port: 0 for any that is free.
        workers: Processes that detect.
        api_key: What requests must bring; None for no key.
        allow_origins: Web pages' origins that may read answers (CORS).
        allow_hosts: Names in addresses of requests; None for those of this machine where `host` is one, else any.
        max_mb: The largest body, in MB.
        max_pixels: Of an image, by its header.
        max_images: In a request.
        max_tiles: Of an image.
        queue: Images that wait, at most.
        max_wait: Seconds from an image's body to its answer, as expected, at most; more are refused.
        batch: Images in a run of the network, at most.
        batch_wait: Milliseconds that an image waits for others that are arriving.
        body_seconds: For a body to arrive.
        request_seconds: From a body to its answer.
        connections: Open at once.
        engine, device, threads, precision, cache: As for `detect`.
        score_min: In place of the model's own.
        tile: Likewise, of what is looked at: "640", "640:0.25" with the overlap, or "none" for whole images.
    """

    models: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    api_key: str | None = None
    allow_origins: tuple[str, ...] = ()
    allow_hosts: tuple[str, ...] | None = None
    max_mb: int = 32
    max_pixels: int = 50_000_000
    max_images: int = 32
    max_tiles: int = 200
    queue: int = 64
    max_wait: float = 0.6
    batch: int = 8
    batch_wait: float = 2.0
    body_seconds: float = 10.0
    request_seconds: float = 30.0
    connections: int = 512
    engine: str | None = None
    device: str | None = None
    threads: int | None = None
    precision: str | None = None
    cache: str | None = None
    score_min: float | None = None
    tile: str | None = None

    def __post_init__(self) -> None:
        if not self.models:
            raise ConfigError("serve: no model file; give one, such as best.onnx")
        bounds: dict[str, tuple[float, float]] = {
            "port": (0, 65535), "workers": (1, 64), "max_mb": (1, 256), "max_pixels": (1, 100_000_000),
            "max_images": (1, 1000), "max_tiles": (1, 10_000), "queue": (1, 100_000), "max_wait": (0.01, 600),
            "batch": (1, 256), "batch_wait": (0, 1000), "body_seconds": (0.01, 3600), "request_seconds": (0.01, 3600),
            "connections": (1, 100_000),
        }  # fmt: skip
        for name, (least, most) in bounds.items():
            check_range(f"--{name.replace('_', '-')}", getattr(self, name), least, most)
        if self.score_min is not None and not 0 <= self.score_min <= 1:
            raise ConfigError(f"--score-min {self.score_min}: want a number from 0 to 1")
        try:
            self._check_tile()
        except ConfigError as error:
            raise ConfigError(f"--{error}") from error
        if self.api_key is not None and (len(self.api_key) < 16 or not self.api_key.isascii()):
            came = f"{len(self.api_key)} characters" + ("" if self.api_key.isascii() else ", not all of ASCII")
            raise ConfigError(
                f"the API key (--api-key-file FILE, or SINGLESHOT_API_KEY) has {came}; want 16 or more of ASCII,"
                " as openssl rand -hex 16 prints"
            )
        for origin in self.allow_origins:
            if not origin.startswith(("http://", "https://")) or origin.count("/") != 2:
                raise ConfigError(f"--allow-origin {printable(origin, 60)}: want one such as https://example.org")

    def _check_tile(self) -> None:
        if self.tile is not None:  # the service itself needs no array otherwise
            from singleshot.tiling import choose_tiling

            choose_tiling(None, self.tile)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches the service."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def hosts(self) -> tuple[str, ...] | None:
        """Names that a request's Host may have, None for any. A web page whose name resolves here has another."""
        if self.allow_hosts is not None:
            return tuple(host.lower() for host in self.allow_hosts)
        return ("localhost", "127.0.0.1", "::1", self.host.lower()) if self.is_loopback else None
