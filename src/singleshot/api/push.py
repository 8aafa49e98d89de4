"""Bringing a model to the Hugging Face Hub, with a card of what is known of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from singleshot._version import __version__
from singleshot.api.options import Options
from singleshot.errors import CheckpointError, ConfigError, printable
from singleshot.extras import needs
from singleshot.hub import COMPANIONS, MAX_BYTES, HubAddress, hub_bars, hub_errors, is_hub, parse_address

if TYPE_CHECKING:
    from singleshot.model_info import ModelInfo
    from singleshot.report.run_files import RunFiles

CARD = "README.md"
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")


@dataclass(frozen=True)
class PushOptions(Options):
    """What is brought where. model: a checkpoint, an exported file, or the folder of a run, of which the best is meant;
    to: hf://OWNER/NAME, or with @BRANCH; licence: as the hub spells it, None for none stated; private: of a repository
    that is made for it; replace_card: write the card where there is one already. Raises ConfigError."""

    model: str
    to: str
    licence: str | None = None
    private: bool = False
    replace_card: bool = False

    def __post_init__(self) -> None:
        if not is_hub(self.to):
            raise ConfigError(f"{printable(self.to)}: where to? Want hf://OWNER/NAME")
        address = self.address
        if address.file is not None:
            raise ConfigError(f"{address}: a file is called there as here; want {replace(address, file=None)}")
        if self.licence is not None and _LICENCE.fullmatch(self.licence) is None:
            raise ConfigError(f"--licence {printable(self.licence, 60)}: want the hub's name of one, such as mit")

    @property
    def address(self) -> HubAddress:
        """Where to."""
        return parse_address(self.to)


class Pushed(NamedTuple):
    """What was brought. address: of the model's file, with the commit; files: in the repository; url: of the commit, as
    the hub says it; card: whether one was written."""

    address: HubAddress
    files: tuple[str, ...]
    url: str
    card: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"model": str(self.address), "files": list(self.files), "url": self.url, "card": self.card}


def push(
    model: str | Path, to: str, *, licence: str | None = None, private: bool = False, replace_card: bool = False
) -> Pushed:
    """Bring a model to the Hugging Face Hub; its repository is made where there is none.

    Args:
        model: A checkpoint of singleshot's, an exported file (with what belongs to it), or the folder of a run.
        to: "hf://OWNER/NAME", or "hf://OWNER/NAME@BRANCH" for another branch than the main one.
        licence: As the hub spells it, such as "mit"; None for none stated.
        private: Of a repository that is made.
        replace_card: Write the card in place of one that is there.

    Raises:
        ConfigError: An option is wrong, or the folder has no model.
        CheckpointError: The file is no model of singleshot's, or the hub does not take it.
        MissingExtraError: huggingface_hub is not installed.
    """
    return run_push(PushOptions.of(locals()))


def run_push(options: PushOptions, progress: bool = False) -> Pushed:
    """As `push`; progress: the hub's client may draw bars on standard error."""
    with needs("hub", "push"):
        import huggingface_hub as hub
    from singleshot.report.model_card import CardFacts, model_card

    path = _model_file(Path(options.model))
    files = [path, *(other for other in map(path.with_suffix, COMPANIONS[path.suffix.lower()]) if other.is_file())]
    total = sum(file.stat().st_size for file in files)
    if total > MAX_BYTES:
        raise CheckpointError(f"{printable(path)}: {total / 2**30:.1f} GB; want {MAX_BYTES // 2**30} GB at most")
    info, run = read_description(path), _run_of(path)
    address = options.address
    facts = CardFacts(address.repo, path.name, info, run, _evaluation_of(path, run), options.licence)
    api = hub.HfApi(library_name="singleshot", library_version=__version__)
    with hub_errors(address), hub_bars(shown=progress):
        api.create_repo(address.repo, private=options.private or None, exist_ok=True)
        keeps = not options.replace_card and api.file_exists(address.repo, CARD, revision=address.revision)
        operations = [hub.CommitOperationAdd(file.name, file) for file in files]
        if not keeps:
            operations.append(hub.CommitOperationAdd(CARD, model_card(facts).encode()))
        done = api.create_commit(
            address.repo, operations, commit_message=f"{path.name} by singleshot", revision=address.revision
        )
    pinned = replace(address, file=path.name, revision=str(done.oid))
    return Pushed(pinned, tuple(one.path_in_repo for one in operations), str(done.commit_url), not keeps)


def _model_file(given: Path) -> Path:
    from singleshot.report.run_files import is_run

    path = given / "best.safetensors" if given.is_dir() else given
    if given.is_dir() and not (is_run(given) and path.is_file()):
        raise ConfigError(f"{printable(given)}: no run with a best.safetensors; give a model file")
    if path.suffix.lower() not in COMPANIONS:
        raise ConfigError(f"{printable(path)}: want {', '.join(COMPANIONS)}; `singleshot import` makes one of others")
    if not path.is_file():
        raise CheckpointError(f"{printable(path)}: no such file")
    if re.fullmatch(r"[\w.-]+", path.name, re.ASCII) is None:
        raise ConfigError(f"{printable(path)}: want a name of letters, digits, dots, dashes and underscores on the hub")
    return path


def read_description(path: Path) -> ModelInfo:
    """What a model file of singleshot's says of itself, without PyTorch. Raises CheckpointError where it is none."""
    from safetensors import SafetensorError, safe_open

    from singleshot.model_info import CHECKPOINT, EXPORTED, KEY, ModelInfo
    from singleshot.runtime.model_file import onnx_description, tflite_description

    where, suffix = printable(path), path.suffix.lower()
    if suffix == ".xml":
        from singleshot.runtime.load import open_detector

        info = open_detector(path, "openvino").info
        assert info is not None
        return info
    try:
        if suffix == ".safetensors":
            with safe_open(path, framework="numpy") as file:
                text = (file.metadata() or {}).get(KEY)
        else:
            text = onnx_description(path) if suffix == ".onnx" else tflite_description(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{where}: cannot be read ({printable(error, 80)})") from error
    if text is None:
        raise CheckpointError(f"{where}: no model of singleshot's, it has no description; import or export it first")
    return ModelInfo.from_json(text, where, CHECKPOINT if suffix == ".safetensors" else EXPORTED)


def _run_of(path: Path) -> RunFiles | None:
    """Of the training whose folder the file is in; None where there is none."""
    from singleshot.report.run_files import is_run, read_run

    return read_run(path.parent) if is_run(path.parent) else None


def _evaluation_of(path: Path, run: RunFiles | None) -> dict[str, Any] | None:
    """What its run's eval.json says of this file, not of another one."""
    if run is None or run.evaluation is None or Path(str(run.evaluation.get("model"))).name != path.name:
        return None
    return dict(run.evaluation)
