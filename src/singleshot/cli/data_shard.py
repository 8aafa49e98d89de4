"""`singleshot data shard`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from singleshot.cli.common import FollowLinksOption, JsonOption, LabelScoreOption, QuietOption, count_of, progress_bar
from singleshot.errors import ConfigError, printable
from singleshot.files import is_free

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}
_MIN_BYTES, _MAX_BYTES = 10_240, 2**40


def shard(
    data: Annotated[str, typer.Argument(help="Folder or file of a data set, or its address.")],
    out: Annotated[Path, typer.Argument(help="New folder for the shards.")],
    shard_size: Annotated[
        str | None, typer.Option(help="Most bytes in a shard, such as 100M or 2G. Default: 500M.")
    ] = None,
    per_shard: Annotated[int | None, typer.Option(min=1, help="Images in a shard, instead of --shard-size.")] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(help="This split; may be repeated. Default: all, but for trainval where train and val are there."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the order in which images are written.")] = 0,
    clip_boxes: Annotated[
        bool, typer.Option("--clip-boxes", help="Clip boxes to the image and drop empty ones instead of stopping.")
    ] = False,
    score_min: LabelScoreOption = None,
    follow_links: FollowLinksOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Pack a data set into WebDataset shards: tar files that are read in a stream, from a disk or over a network.

    Training wants several shards for each process and each worker; the shuffling is best with eight or more.

    Example: singleshot data shard path/to/VOC2007 shards --shard-size 50M, then singleshot train shards
    """
    if shard_size is not None and per_shard is not None:
        raise ConfigError("--shard-size and --per-shard exclude each other: a shard is full by one of them")
    size = parse_size(shard_size or "500M")
    if not is_free(out):
        raise ConfigError(f"{printable(out)}: is there already; give another folder, or remove it")
    from singleshot.datasets import open_source
    from singleshot.datasets.writers.shards import read_contents, write_shards

    source = open_source(data, score_min=score_min, follow_links=follow_links)
    contents = read_contents(source, split or (), clip_boxes)
    images = sum(map(len, contents.splits.values()))
    with progress_bar(images, "packing images", quiet) as advance:
        written = write_shards(contents, out, size, per_shard, seed, advance)
    if as_json:
        splits = {
            name: {"shards": len(shards), "images": sum(shard["samples"] for shard in shards)}
            for name, shards in written.splits.items()
        }
        totals = {"images": written.images, "objects": written.objects, "bytes": written.size}
        print(json.dumps({"folder": str(out), **totals, "splits": splits}))
        return
    for name, shards in written.splits.items():
        print(
            f"{printable(name)}: {count_of(sum(shard['samples'] for shard in shards), 'image')}"
            f" in {count_of(len(shards), 'shard')}"
        )
    if not quiet:
        megabytes = written.size / 2**20
        held = f"{count_of(written.images, 'image')}, {count_of(written.objects, 'object')}"
        print(f"written: {printable(out)} ({held}, {megabytes:.1f} MB)", file=sys.stderr)


def parse_size(text: str) -> int:
    """Bytes of "500M", "2G", "64k" or plain bytes; a k is 1024. Raises ConfigError."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*([kmg]?)i?b?", text.strip().lower())
    if found is None:
        raise ConfigError(f"--shard-size {printable(text)!r}: want a size such as 100M or 2G")
    size = int(float(found[1]) * _UNITS[found[2]])
    if not _MIN_BYTES <= size <= _MAX_BYTES:
        raise ConfigError(f"--shard-size {printable(text)}: want 10k to 1024G")
    return size
