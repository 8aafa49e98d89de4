"""`detect --cluster`: the parts of a job over the machines of a Ray cluster."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from singleshot.api.class_names import read_groups
from singleshot.api.detect import DetectOptions
from singleshot.api.options import check_range
from singleshot.cluster.addresses import list_inputs
from singleshot.cluster.job import FORMS, Folder, Job, PartCounts
from singleshot.cluster.part_detector import PartDetector
from singleshot.errors import ConfigError, printable
from singleshot.extras import needs
from singleshot.runtime.journal import digest

BLOCK = 500


@dataclass(frozen=True)
class ClusterOptions:
    """Where and in which pieces. address: "local" for this machine, "auto" for the cluster that it is part of, else
    what ray.init takes; actors: processes that hold the model, None for all that the processors have room for; block:
    images of a part; column: of tables, which has the addresses. Raises ConfigError for a value out of range."""

    address: str
    actors: int | None = None
    block: int = BLOCK
    column: str | None = None

    def __post_init__(self) -> None:
        check_range("--actors", self.actors, 1, 100_000)
        check_range("--block", self.block, 1, 100_000)


class ClusterDone(NamedTuple):
    """How a run ended. counts: of the whole job; resumed: parts that were finished before; parts: of all."""

    counts: PartCounts
    parts: int
    resumed: int
    repeated: int
    place: str


# Called with the counts so far, of this run and those before, and finished and all parts.
OnPart = Callable[[PartCounts, int, int], None]


def run_on_cluster(
    options: DetectOptions, cluster: ClusterOptions, on_part: OnPart = lambda counts, done, parts: None
) -> ClusterDone:
    """Detect in all images of the sources; one that cannot be read is listed in failures.jsonl and ends nothing.

    Raises:
        ConfigError: An option is wrong, or not for a cluster; the folder holds something else or another job.
        DataError: The sources hold no image.
        CheckpointError, MissingExtraError: As `load`.
    """
    _check(options)
    with needs("ray", "--cluster"):
        import ray
    classes = None if options.classes is None else read_groups(options.classes)
    asked = _asked(options, cluster, classes)
    job = Job.open(Folder(str(options.out)), asked, list_inputs(options.sources, cluster.column), cluster.block)
    left = job.unfinished()
    resumed = job.parts - len(left)
    counts = PartCounts()
    for part in sorted(set(range(job.parts)) - set(left)):
        counts += job.counts_of(part)
    if left:
        values = {**options.to_dict(), "classes": classes, "form": "json", "threads": options.threads or 1}
        with _connected(ray, cluster.address):
            for done, one in enumerate(_run(ray, values, job, left, cluster.actors), resumed + 1):
                counts += one
                on_part(counts, done, job.parts)
    return ClusterDone(job.end(), job.parts, resumed, job.repeated, job.folder.place)


def _check(options: DetectOptions) -> None:
    """Raise ConfigError for what is not done on a cluster."""
    if options.out is None:
        raise ConfigError("--cluster: where do results go? Give --out, a folder that all machines share or an address")
    if options.form not in FORMS:
        raise ConfigError(f"--format {options.form}: on a cluster want {' or '.join(FORMS)}")
    refused = {"draw": options.draw, "crop": options.crop, "limit": options.limit is not None, "track": options.track}
    for name, given in refused.items():
        if given:
            raise ConfigError(f"--{name}: not on a cluster; leave it out, or leave out --cluster")


def _asked(options: DetectOptions, cluster: ClusterOptions, classes: Any) -> dict[str, Any]:
    """What a run that goes on must have been begun with: whatever decides the results and their parts."""
    names = ("sources", "form", "score_min", "rule", "tile", "tiles_only", "engine", "precision")
    return {
        **{name: getattr(options, name) for name in names},
        "model": digest(options.model) or options.model,
        "classes": classes,
        "block": cluster.block,
        "column": cluster.column,
    }


@contextlib.contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    """A Ray cluster for as long as a run takes: its own, or a connection to one."""
    if ray.is_initialized():
        yield
        return
    more = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **more)
    except Exception as error:  # ConnectionError, ValueError, RuntimeError, by what the address is
        raise ConfigError(f"--cluster {printable(address)}: cannot be reached ({printable(error, 160)})") from error
    try:
        yield
    finally:
        ray.shutdown()


def _run(ray: Any, values: dict[str, Any], job: Job, left: list[int], actors: int | None) -> Iterator[PartCounts]:
    """Counts of each part as it is finished. A part whose actor or node is lost goes to another."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    for name in ("ray.data", "ray.data._internal"):
        logging.getLogger(name).setLevel(logging.ERROR)
    device = str(values["device"])
    share = {"num_gpus": 1} if device.startswith("cuda") else {"num_cpus": values["threads"]}
    room = int(ray.cluster_resources().get("GPU" if "num_gpus" in share else "CPU", 1)) // int(*share.values())
    most = max(1, min(actors or max(1, room), len(left)))
    # Of a pool that may grow, Ray Data starts one actor and the others after its first part.
    pool = ray.data.ActorPoolStrategy(min_size=max(1, min(most, room)), max_size=most)
    parts = ray.data.from_items([{"part": part} for part in left], override_num_blocks=len(left))
    done = parts.map_batches(
        PartDetector,
        fn_constructor_args=(values, job.folder.place),
        batch_size=1,
        compute=pool,
        **share,
    )
    for row in done.iter_rows():
        yield PartCounts(int(row["images"]), int(row["objects"]), int(row["failures"]))
