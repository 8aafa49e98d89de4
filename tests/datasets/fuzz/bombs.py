"""Small files that ask for much: name -> bytes; and what one of them costs, measured in a process of its own.

python tests/datasets/fuzz/bombs.py FOLDER        # writes all, then prints a line of JSON on each
"""

from __future__ import annotations

import json
import os
import resource
import struct
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from bases import chunk

SIDE = 9999  # just within the limit of 100 million pixels
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


# ---------------------------------------------------------------------------------------------- PNG


def zeros(count: int) -> bytes:
    """A zlib stream of so many zero bytes, made in no time: the same block again and again."""
    packer, step = zlib.compressobj(9), 1 << 24
    head = packer.compress(bytes(step)) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(step)) + packer.flush(zlib.Z_FULL_FLUSH)
    whole, rest = divmod(count, step)
    last = zlib.compressobj(9, wbits=-15)
    tail = last.compress(bytes(rest)) + last.flush()
    return (head if whole else b"\x78\xda") + block * max(0, whole - 1) + tail + struct.pack(">HH", count % 65521, 1)


def png(
    width: int,
    height: int,
    depth: int = 8,
    colour: int = 2,
    interlaced: bool = False,
    extra: bytes = b"",
    spare: int = 0,
) -> bytes:
    channels = {0: 1, 2: 3, 6: 4}[colour]
    count = height * (1 + width * channels * depth // 8)
    if interlaced:
        count = 0
        for x0, y0, dx, dy in (
            (0, 0, 8, 8),
            (4, 0, 8, 8),
            (0, 4, 4, 8),
            (2, 0, 4, 4),
            (0, 2, 2, 4),
            (1, 0, 2, 2),
            (0, 1, 1, 2),
        ):
            count += -(-(height - y0) // dy) * (1 + -(-(width - x0) // dx) * channels * depth // 8)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced)))
    return _SIGNATURE + head + extra + chunk(b"IDAT", zeros(count + spare)) + chunk(b"IEND", b"")


def _texts(count: int) -> bytes:
    packed = zlib.compress(bytes(8_000_000), 9)
    return chunk(b"zTXt", b"Comment\0\0" + packed) * count


def _lying_png() -> bytes:
    data = png(64, 64)
    at = data.index(b"IDAT")
    return data[: at - 4] + struct.pack(">I", 0x7FFFFFF0) + data[at:]


# ---------------------------------------------------------------------------------------------- others


def _encode(ending: str, image: np.ndarray, *flags: int) -> bytes:
    good, data = cv2.imencode(f".{ending}", image, flags)
    assert good, ending
    return data.tobytes()


def _plain(side: int = SIDE, channels: int = 3) -> np.ndarray:
    return np.zeros((side, side, channels), np.uint8)


def _scans(times: int) -> bytes:
    """A progressive JPEG whose last scan is there so many times."""
    data = _encode("jpg", _plain(2000, 1), cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    at = data.rfind(b"\xff\xda")
    return data[:at] + data[at:-2] * times + data[-2:]


def _patched(data: bytes, at: int, form: str, *values: int) -> bytes:
    field = struct.pack(form, *values)
    return data[:at] + field + data[at + len(field) :]


def _four_inks() -> bytes:
    data = _encode("jpg", _plain(1000))
    at = data.index(b"\xff\xc0")
    frame = (
        data[at : at + 2]
        + struct.pack(">HBHHB", 8 + 12, 8, SIDE, SIDE, 4)
        + bytes((1, 17, 0, 2, 17, 0, 3, 17, 0, 4, 17, 0))
    )
    return data[:at] + frame + data[at + 19 :]


def _run_length_bmp() -> bytes:
    palette, body = bytes(1024), b"\0\1"  # a run of nothing: the end at once
    start = 14 + 40 + len(palette)
    head = struct.pack("<IiiHHIIiiII", 40, SIDE, SIDE, 1, 8, 1, len(body), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + head + palette + body


def _tiff_tag(data: bytes, tag: int, value: int) -> bytes:
    start = struct.unpack("<I", data[4:8])[0]
    count = struct.unpack("<H", data[start : start + 2])[0]
    for i in range(count):
        at = start + 2 + 12 * i
        if struct.unpack("<H", data[at : at + 2])[0] == tag:
            return _patched(data, at + 2, "<HII", 4, 1, value)
    raise AssertionError(tag)


IMAGES: dict[str, Callable[[], bytes]] = {
    # Within the limit of pixels: may be read, in the time and memory that are allowed.
    "deep-interlaced.png": lambda: png(SIDE, SIDE, depth=16, colour=6, interlaced=True),
    "thin.png": lambda: png(99_000_000, 1, colour=0),
    "progressive.jpg": lambda: _encode("jpg", _plain(), cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "full-colour.jpg": lambda: _encode(
        "jpg", _plain(), cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    ),
    "wide.webp": lambda: _encode("webp", _plain(), cv2.IMWRITE_WEBP_QUALITY, 10),
    "wide.tif": lambda: _encode("tif", _plain(), cv2.IMWRITE_TIFF_COMPRESSION, 8),
    "heavy.gif": lambda: _patched(_encode("gif", _plain(50)), 6, "<HH", 7000, 7000),
    "wide.bmp": _run_length_bmp,
    # Over a limit, or not what they say.
    "pixels.png": lambda: png(30_000, 30_000),
    "sides.jpg": lambda: _patched(_encode("jpg", _plain(50)), _encode("jpg", _plain(50)).index(b"\xff\xc0") + 5, ">HH", 65_000, 65_000),
    "pixels.gif": lambda: _patched(_encode("gif", _plain(50)), 6, "<HH", SIDE, SIDE),
    "texts.png": lambda: png(64, 64, extra=_texts(400)),
    "spare.png": lambda: png(64, 64, spare=20_000_000_000),
    "spare-wide.png": lambda: png(SIDE, SIDE, spare=20_000_000_000),
    "lying.png": _lying_png,
    "scans.jpg": lambda: _scans(3000),
    "inks.jpg": _four_inks,
    "strip.tif": lambda: _tiff_tag(_encode("tif", _plain(), cv2.IMWRITE_TIFF_COMPRESSION, 8), 278, SIDE),
    "sides.webp": lambda: b"RIFF" + struct.pack("<I", 40) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff\xff\xff" * 2 + bytes(16),
}  # fmt: skip
REFUSED = tuple(IMAGES)[tuple(IMAGES).index("pixels.png") :]


# ---------------------------------------------------------------------------------------------- labels


def _laughs(levels: int = 30) -> str:
    entities = "".join(f'<!ENTITY e{i + 1} "{f"&e{i};" * 10}">' for i in range(levels))
    return f'<!DOCTYPE a [<!ENTITY e0 "lol">{entities}]><annotation><filename>a.jpg</filename><object><name>&e{levels};</name></object></annotation>'


def _quadratic() -> str:
    return f'<!DOCTYPE a [<!ENTITY e "{"x" * 200_000}">]><annotation><object><name>{"&e;" * 200_000}</name></object></annotation>'


def _aliases(levels: int = 40) -> str:
    lines = ["a0: &a0 [x, x]"] + [f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}]" for i in range(levels)]
    return "\n".join((*lines, f"names: *a{levels}", "train: images", ""))


_MASK = '[{"id": 1, "image_id": 1, "category_id": 1, "segmentation": {"size": [1000000, 1000000], "counts": [%s]}}]'
_BRUSH = (
    '{"type": "brushlabels", "original_width": 64, "original_height": 64, "value": {"rle": [%s], "brushlabels": ["a"]}}'
)
_TASK = '[{"data": {"image": "a.jpg"}, "annotations": [{"result": [%s]}]}]'
_COCO = '{"images": [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 64}], "categories": [{"id": 1, "name": "a"}], "annotations": %s}'

# Each a data set of one image, images/a.jpg or a.jpg, and a label file.
LABELS: dict[str, tuple[str, Callable[[], str]]] = {
    "laughs": ("Annotations/a.xml", _laughs),
    "quadratic": ("Annotations/a.xml", _quadratic),
    "deep-xml": ("Annotations/a.xml", lambda: "<annotation>" + "<object>" * 3_000_000),
    "attributes": ("Annotations/a.xml", lambda: "<annotation " + " ".join(f"a{i}='1'" for i in range(1_000_000)) + "/>"),
    "many-objects": ("Annotations/a.xml", lambda: "<annotation>" + "<object/>" * 2_000_000 + "</annotation>"),
    "aliases": ("data.yaml", _aliases),
    "deep-yaml": ("data.yaml", lambda: "names: " + "[" * 200_000),
    "long-yaml": ("data.yaml", lambda: "train: images\nnames:\n" + "".join(f"- c{i}\n" for i in range(1_000_000))),
    "deep-json": ("annotations.json", lambda: _COCO % ("[" * 2_000_000)),
    "nested-json": ("annotations.json", lambda: _COCO % ('{"a":' * 200_000 + "1" + "}" * 200_000)),
    "digits": ("annotations.json", lambda: _COCO % ("[" + "9" * 5_000_000 + "]")),
    "deep-labelme": ("a.json", lambda: '{"shapes": ' + "[" * 1_000_000),
    "long-line": ("annotations.csv", lambda: "file,xmin,ymin,xmax,ymax,class\n" + "a" * 50_000_000),
    "many-cells": ("annotations.csv", lambda: "file,xmin,ymin,xmax,ymax,class\na.jpg" + "," * 5_000_000),
    "open-quote": ("annotations.csv", lambda: 'file,xmin,ymin,xmax,ymax,class\n"' + "a,1,2,3,4,b\n" * 500_000),
    "mask": ("annotations.json", lambda: _COCO % _MASK % "0, 1000000000000"),
    "many-runs": ("annotations.json", lambda: _COCO % _MASK % ("1," * 3_000_000 + "1")),
    "brush": ("project.json", lambda: _TASK % _BRUSH % ("255," * 3_000_000 + "1")),
    "deep-cvat": ("annotations.xml", lambda: "<annotations>" + "<image>" * 3_000_000),
    "entities-cvat": ("annotations.xml", lambda: _laughs().replace("annotation>", "annotations>")),
    "deep-via": ("via.json", lambda: '{"_via_img_metadata": ' + "[" * 1_000_000),
    "open-quote-via": (
        "via.csv", lambda: 'filename,region_shape_attributes,region_attributes\n"' + "a,{},{}\n" * 500_000
    ),
    "long-label": ("labels/a.txt", lambda: "0 .5 .5 .1 .1 " * 3_000_000),
}  # fmt: skip


def write_labels(name: str, folder: Path) -> Path:
    """One data set of LABELS in the folder."""
    label, make = LABELS[name]
    place = {"Annotations": "JPEGImages/", "labels": "images/", "data.yaml": "images/"}.get(label.partition("/")[0], "")
    for file in (label, f"{place}a.jpg"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
    if label == "data.yaml":
        (folder / "labels").mkdir()
        (folder / "labels/a.txt").write_text("0 .5 .5 .2 .2\n")
    (folder / f"{place}a.jpg").write_bytes(_encode("jpg", _plain(64)))
    (folder / label).write_text(make())
    return folder


# Within the limits, but seconds of work each.
HEAVY = frozenset(
    {"deep-interlaced.png", "full-colour.jpg", "wide.webp", "wide.tif", "spare-wide.png", "attributes", "open-quote",
     "many-runs"}
)  # fmt: skip


# ---------------------------------------------------------------------------------------------- measuring


def measured(work: Callable[[], str]) -> dict[str, object]:
    """What `work` says, seconds, and megabytes at most, in a fork of this process."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what decoders print
        start, cpu = time.perf_counter(), time.process_time()
        try:
            said = work()
        except BaseException as error:
            said = f"Traceback: {type(error).__name__}: {error}"[:2000]
        spent = {"seconds": round(time.perf_counter() - start, 2), "cpu": round(time.process_time() - cpu, 2)}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        os.write(writer, json.dumps({"said": said[:2000], **spent, "megabytes": peak}).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    return (
        json.loads(told) if told else {"said": f"Traceback: died with {status}", "seconds": 0, "cpu": 0, "megabytes": 0}
    )


def main() -> None:
    from singleshot.datasets import open_source
    from singleshot.datasets.checks import check_source
    from singleshot.datasets.checks import images as pictures
    from singleshot.errors import SingleshotError
    from singleshot.images.decode import read_image

    root, all_of_them = Path(sys.argv[1]), sys.argv[2:] == ["all"]
    cv2.setNumThreads(0)

    def tell(name: str, way: str, work: Callable[[], object]) -> None:
        def call() -> str:
            try:
                return str(work())
            except SingleshotError as error:
                return f"refused: {error}"

        print(json.dumps({"name": name, "way": way, **measured(call)}), flush=True)

    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    for name, make in IMAGES.items():
        if name in HEAVY and not all_of_them:
            continue
        path = root / "images" / name
        path.write_bytes(make())
        (root / "labels" / f"{path.stem}.txt").write_text("0 .5 .5 .5 .5\n")
        tell(name, "read", lambda path=path: read_image(path).shape)
        tell(name, "look", lambda path=path: pictures.look(str(path)).message)
    for name in LABELS:
        if name in HEAVY and not all_of_them:
            continue
        folder = write_labels(name, root / "labelled" / name)
        tell(
            name,
            "check",
            lambda folder=folder: " | ".join(map(str, check_source(open_source(folder), workers=1).findings[:5])),
        )


if __name__ == "__main__":
    main()
