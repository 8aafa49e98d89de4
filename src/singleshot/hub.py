"""Models on the Hugging Face Hub: `hf://OWNER/NAME[/FILE][@REVISION]` becomes a file in the hub's own cache."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from singleshot.errors import CheckpointError, ConfigError, SingleshotError, printable
from singleshot.extras import needs

log = logging.getLogger(__name__)

SCHEME = "hf://"
# What is read without running anything, and the files that belong to it. Pickles are not fetched.
COMPANIONS: dict[str, tuple[str, ...]] = {
    ".safetensors": (),
    ".onnx": (".json",),
    ".xml": (".bin", ".json"),
    ".tflite": (),
}
MAX_BYTES = 2**31  # of a model's files together: the most that ONNX's format can hold
_FORM = "hf://OWNER/NAME, hf://OWNER/NAME/FILE, each with @REVISION"
_ADDRESS = re.compile(r"hf:/{1,2}(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<file>[^@]+))?(?:@(?P<revision>[\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LOG_IN = "set HF_TOKEN, or log in with `hf auth login`"
_SECONDS = 30.0  # for the hub to answer


@dataclass(frozen=True)
class HubAddress:
    """Where a model is on the hub. repo: OWNER/NAME; file: in it, None for its only model; revision: a branch, a tag or
    a commit, None for the main branch."""

    repo: str
    file: str | None = None
    revision: str | None = None

    @property
    def name(self) -> str:
        """NAME alone."""
        return self.repo.partition("/")[2]

    def __str__(self) -> str:
        file = "" if self.file is None else f"/{self.file}"
        return f"{SCHEME}{self.repo}{file}{'' if self.revision is None else f'@{self.revision}'}"


class HubModel(NamedTuple):
    """A model that was fetched. path: its file in the hub's cache; address: with the commit that it is of."""

    path: Path
    address: HubAddress


def is_hub(model: str | Path) -> bool:
    """Whether it is an address on the hub (which a Path keeps with one slash)."""
    return re.match(r"hf:/{1,2}[^/]", str(model)) is not None


def parse_address(text: str | Path) -> HubAddress:
    """Raises ConfigError for an address that is not of the form."""
    found = _ADDRESS.fullmatch(str(text))
    if found is None:
        raise ConfigError(f"{printable(text)}: want {_FORM}")
    address = HubAddress(found["repo"], found["file"], found["revision"])
    for part in (address.repo, address.file or "a", address.revision or "a"):
        if any(step in ("", ".", "..") for step in part.split("/")) or "\\" in part or not part.isprintable():
            raise ConfigError(f"{printable(text)}: {printable(part, 60)} is no name on the hub; want {_FORM}")
    return address


def local_model(model: str | Path) -> str | Path:
    """The path of a model's file: of one on the hub that in its cache, where it is fetched to; another path as it is.

    Raises as `fetch_model`.
    """
    return fetch_model(parse_address(model)).path if is_hub(model) else model


def pinned_model(model: str) -> str:
    """An address on the hub with its file and its commit, after which `local_model` asks the hub no more; another path
    as it is. Raises as `fetch_model`."""
    return str(fetch_model(parse_address(model)).address) if is_hub(model) else model


def fetch_model(given: HubAddress) -> HubModel:
    """Fetch a model's files into the hub's cache, where they are not there yet; the log says which commit it is.

    Raises:
        CheckpointError: There is no such model, it is too large or of another form, or the hub cannot be reached.
        MissingExtraError: huggingface_hub is not installed.
    """
    with needs("hub", str(given)):
        import huggingface_hub as hub
    if given.file is not None:
        _check_form(given, given.file)
    there = _cached(hub, given)
    if there is not None:
        return HubModel(there, given)
    with hub_errors(given):
        info = hub.HfApi().model_info(given.repo, revision=given.revision, files_metadata=True, timeout=_SECONDS)
    sizes = {one.rfilename: one.size for one in info.siblings or ()}
    file = given.file or _only_model(given, list(sizes))
    if file not in sizes:
        raise CheckpointError(f"{given}: no such file in it; it has {_listed(_models(list(sizes)))}")
    pinned = replace(given, file=file, revision=str(info.sha))
    wanted = [file, *(name for name in _companions(file) if name in sizes)]
    total = sum(sizes[name] or 0 for name in wanted)
    if total > MAX_BYTES:
        raise CheckpointError(f"{given}: {total / 2**30:.1f} GB; want {MAX_BYTES // 2**30} GB at most")
    log.info("%s: is %s, %.1f MB", given, pinned, total / 1e6)
    bar = _bounded()
    with hub_errors(pinned):
        paths = [
            Path(hub.hf_hub_download(given.repo, name, revision=pinned.revision, tqdm_class=bar)) for name in wanted
        ]
    return HubModel(paths[0], pinned)


@contextlib.contextmanager
def hub_errors(address: HubAddress) -> Iterator[None]:
    """Whatever the hub's client raises becomes a CheckpointError of one line, in which no token is."""
    from huggingface_hub import errors, get_token

    try:
        yield
    except (SingleshotError, MemoryError):
        raise
    except (errors.GatedRepoError, errors.RepositoryNotFoundError) as error:
        why = f"no such repository, or it is not yours to see: for a private one {_LOG_IN}"
        raise CheckpointError(f"{address}: {why}") from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{address}: no such revision") from error
    except Exception as error:  # of huggingface_hub, its HTTP client, the disk
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            what = f"the hub wants a token that may do that: {_LOG_IN}"
        elif isinstance(error, OSError | ValueError | RuntimeError) or status is not None or _is_http(error):
            said = str(error).partition("\n")[0] or type(error).__name__
            what = f"HTTP {status}" if status is not None else said.replace(get_token() or "\0", "...")
        else:
            raise
        raise CheckpointError(f"{address}: {printable(what, 160)}") from error


@contextlib.contextmanager
def hub_bars(shown: bool) -> Iterator[None]:
    """Whether the hub's client may draw bars on standard error meanwhile; it has one setting for the whole process."""
    from huggingface_hub import utils

    bars: Any = utils  # its stubs name none of these
    before = bars.are_progress_bars_disabled()
    if not shown and not before:
        bars.disable_progress_bars()
    try:
        yield
    finally:
        if not shown and not before:
            bars.enable_progress_bars()


def _is_http(error: Exception) -> bool:
    """Whether the client's HTTP library raised it, which was requests, httpx and httpx2 by its releases."""
    return any(kind.__module__.partition(".")[0] in ("httpx", "httpx2", "requests") for kind in type(error).__mro__)


def _cached(hub: Any, given: HubAddress) -> Path | None:
    """A file of a commit that was fetched before: it cannot have changed, and the hub is not asked."""
    if given.file is None or _COMMIT.fullmatch(given.revision or "") is None:
        return None
    found = hub.try_to_load_from_cache(given.repo, given.file, revision=given.revision)
    path = Path(found) if isinstance(found, str) else None
    needed = path is not None and path.suffix == ".xml"
    return None if path is None or (needed and not path.with_suffix(".bin").is_file()) else path


def _check_form(given: HubAddress, file: str) -> None:
    if Path(file).suffix.lower() not in COMPANIONS:
        raise CheckpointError(
            f"{given}: of the hub's files only {', '.join(COMPANIONS)} are read; download others by yourself"
        )


def _companions(file: str) -> list[str]:
    stem, dot, suffix = file.rpartition(".")
    return [stem + other for other in COMPANIONS[(dot + suffix).lower()]]


def _models(names: list[str]) -> list[str]:
    return [name for name in names if Path(name).suffix.lower() in COMPANIONS]


def _only_model(given: HubAddress, names: list[str]) -> str:
    """The file that is meant where none is named: the only model, or the only checkpoint."""
    found = _models(names)
    checkpoints = [name for name in found if name.endswith(".safetensors")]
    for some in (found, checkpoints):
        if len(some) == 1:
            return some[0]
    if not found:
        raise CheckpointError(f"{given}: no model in it that is read; want {', '.join(COMPANIONS)}")
    raise CheckpointError(f"{given}: which of its models? Give {SCHEME}{given.repo}/FILE, one of {_listed(found)}")


def _listed(names: list[str]) -> str:
    shown = ", ".join(printable(name, 60) for name in names[:6]) or "no model"
    return shown + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _bounded() -> type:
    """A bar of the hub's client that shows nothing, and ends what becomes larger than the hub said."""
    from tqdm import tqdm

    class Bounded(tqdm):  # type: ignore[misc]
        got = 0

        def __init__(self, *args: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*args, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> None:
            self.got += int(n or 0)
            if self.got > MAX_BYTES:
                raise CheckpointError(f"the hub sends more than {MAX_BYTES // 2**30} GB; want a smaller file")

    return Bounded
