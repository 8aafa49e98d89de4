"""Small valid data sets of every form that is read, as name -> bytes; nothing here touches the disk."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zlib
from collections.abc import Callable
from random import Random

import annotators
import cv2
import numpy as np
from picture import CLASSES, Files, Picture
from records import Value, example, labelled, record_file

# What lies outside of the data set's folder and must never show up in anything that is said or written.
SECRET_TEXT, SECRET_CLASS, SECRET_SIZE = "TOPSECRET", "SECRETCLASS", (37, 29)


# ---------------------------------------------------------------------------------------------- images


def _pixels(rng: Random, width: int, height: int, channels: int = 3, depth: type = np.uint8) -> np.ndarray:
    noise = np.random.default_rng(rng.randrange(2**32))
    small = noise.integers(0, 256, (4, 5, channels), np.uint8)
    image = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, channels)
    return image if depth is np.uint8 else image.astype(depth) * 257


def _encode(ending: str, image: np.ndarray, *flags: int) -> bytes:
    good, data = cv2.imencode(f".{ending}", image, flags)
    assert good, ending
    return data.tobytes()


def chunk(name: bytes, body: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def interlaced_png(width: int, height: int, filler: bytes) -> bytes:
    """An 8-bit RGB PNG in Adam7's order, its pixels cut from `filler`."""
    rows, at = [], 0
    for x0, y0, dx, dy in ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)):  # fmt: skip
        count = 3 * max(0, -(-(width - x0) // dx))
        for _ in range(max(0, -(-(height - y0) // dy)) if count else 0):
            rows.append(b"\0" + filler[at : at + count])
            at += count
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")


def _exif(jpeg: bytes, orientation: int) -> bytes:
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\0\0" + tiff + jpeg[2:]


def _draw(rng: Random, width: int, height: int) -> tuple[str, bytes]:
    """(ending, file) in one of the ways in which images are written."""
    image = _pixels(rng, width, height)
    makers: tuple[tuple[str, Callable[[], bytes]], ...] = (
        ("jpg", lambda: _encode("jpg", image)),
        ("jpg", lambda: _encode("jpg", image, cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2)),
        ("jpeg", lambda: _exif(_encode("jpg", image[:, :, :1]), 3)),
        ("png", lambda: _encode("png", image)),
        ("png", lambda: _encode("png", _pixels(rng, width, height, 4, np.uint16))),
        ("png", lambda: interlaced_png(width, height, image.tobytes())),
        ("webp", lambda: _encode("webp", image, cv2.IMWRITE_WEBP_QUALITY, 60)),
        ("webp", lambda: _encode("webp", _pixels(rng, width, height, 4), cv2.IMWRITE_WEBP_QUALITY, 101)),
        ("tif", lambda: _encode("tif", image, cv2.IMWRITE_TIFF_COMPRESSION, rng.choice((1, 5, 8, 32773)))),
        ("tiff", lambda: _encode("tiff", _pixels(rng, width, height, 3, np.uint16))),
        ("bmp", lambda: _encode("bmp", image)),
        ("gif", lambda: _encode("gif", image)),
    )
    ending, make = rng.choice(makers)
    return ending, make()


def _pictures(rng: Random, count: int) -> list[Picture]:
    pictures = []
    for i in range(count):
        width, height = rng.randrange(40, 81), rng.randrange(40, 81)
        ending, data = _draw(rng, width, height)
        boxes = []
        for _ in range(rng.randrange(1, 4)):
            x, y = rng.randrange(width - 12), rng.randrange(height - 12)
            boxes.append((x, y, x + rng.randrange(8, width - x), y + rng.randrange(8, height - y)))
        labels = [rng.randrange(len(CLASSES)) for _ in boxes]
        pictures.append(Picture(f"img{i}", ending, data, width, height, boxes, labels))
    return pictures


# ---------------------------------------------------------------------------------------------- forms


def _voc(rng: Random, pictures: list[Picture]) -> Files:
    files = {}
    for pic in pictures:
        objects = "".join(
            f"<object>\n<name>{CLASSES[label]}</name><difficult>{rng.randrange(2)}</difficult>"
            f"<bndbox><xmin>{box[0] + 1}</xmin><ymin>{box[1] + 1}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax>"
            "</bndbox>\n</object>\n"
            for box, label in zip(pic.boxes, pic.labels, strict=True)
        )
        size = f"<size><width>{pic.width}</width><height>{pic.height}</height><depth>3</depth></size>"
        xml = f"<annotation>\n<filename>{pic.name}</filename>\n{size}\n{objects}</annotation>\n"
        files[f"Annotations/{pic.stem}.xml"] = xml.encode()
        files[f"JPEGImages/{pic.name}"] = pic.data
    if rng.random() < 0.7:
        stems = [pic.stem for pic in pictures]
        files["ImageSets/Main/train.txt"] = "".join(f"{stem}\n" for stem in stems[:2]).encode()
        files["ImageSets/Main/val.txt"] = "".join(f"{stem}\n" for stem in stems[2:]).encode()
    if rng.random() < 0.2:
        files["singleshot-classes.json"] = json.dumps(CLASSES).encode()
    return files


def _coco_json(pictures: list[Picture], masks: bool = False) -> bytes:
    images = [{"id": i, "file_name": p.name, "width": p.width, "height": p.height} for i, p in enumerate(pictures)]
    annotations: list[dict[str, object]] = [
        {"id": 100 * i + k, "image_id": i, "category_id": label + 1, "iscrowd": 0, "area": 64.5,
         "bbox": [x0, y0, x1 - x0, y1 - y0]}
        for i, p in enumerate(pictures)
        for k, ((x0, y0, x1, y1), label) in enumerate(zip(p.boxes, p.labels, strict=True))
    ]  # fmt: skip
    if masks:  # of the first and the last object: COCO's run lengths as numbers and as text
        first, last, counts = pictures[0], pictures[-1], [3, 5, 60, 5]
        annotations[0] |= {"bbox": None, "segmentation": {"size": [first.height, first.width], "counts": counts}}
        annotations[-1] |= {"bbox": [], "segmentation": {"size": [last.height, last.width], "counts": "35i10m1"}}
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories}, indent=1).encode()


def _coco(rng: Random, pictures: list[Picture]) -> Files:
    masks = rng.random() < 0.3
    if rng.random() < 0.3:  # one file, whose splits are made
        return {"annotations.json": _coco_json(pictures, masks), **{f"images/{p.name}": p.data for p in pictures}}
    files = {}
    for split, part in (("train", pictures[:2]), ("val", pictures[2:])):
        files[f"annotations/instances_{split}2017.json"] = _coco_json(part, masks)
        files |= {f"{split}2017/{p.name}": p.data for p in part}
    return files


def _yolo_txt(pic: Picture) -> bytes:
    rows = []
    for (x0, y0, x1, y1), label in zip(pic.boxes, pic.labels, strict=True):
        w, h = pic.width, pic.height
        rows.append(
            f"{label} {(x0 + x1) / 2 / w:.6f} {(y0 + y1) / 2 / h:.6f} {(x1 - x0) / w:.6f} {(y1 - y0) / h:.6f}\n"
        )
    return "".join(rows).encode()


def _yolo(rng: Random, pictures: list[Picture]) -> Files:
    files, flat = {}, rng.random() < 0.3
    for i, pic in enumerate(pictures):
        place = "" if flat else "train/" if i < 2 else "val/"
        files[f"images/{place}{pic.name}"] = pic.data
        files[f"labels/{place}{pic.stem}.txt"] = _yolo_txt(pic)
    if flat:
        files["classes.txt"] = "\n".join(CLASSES).encode()
    elif rng.random() < 0.7:
        names = "".join(f"  {i}: {name}\n" for i, name in enumerate(CLASSES))
        files["data.yaml"] = f"path: .\ntrain: images/train\nval: images/val\nnc: 3\nnames:\n{names}".encode()
    else:
        files["data.yaml"] = b"train: train.txt\nval: val.txt\nnames: [cat, dog, bin]\n"
        for split in ("train", "val"):
            listed = [name for name in files if name.startswith(f"images/{split}/")]
            files[f"{split}.txt"] = "".join(f"./{name}\n" for name in listed).encode()
    if rng.random() < 0.2:
        label = next(name for name in files if name.startswith("labels/"))
        files["singleshot-flags.csv"] = f"label,object,difficult,crowd\n{label},0,1,0\n".encode()
    return files


def _csv(rng: Random, pictures: list[Picture]) -> Files:
    files = {p.name: p.data for p in pictures}
    kind = rng.randrange(3)
    rows = [
        (p, box, CLASSES[label]) for p in pictures for box, label in zip(p.boxes, p.labels, strict=True)
    ]  # fmt: skip
    if kind == 0:
        lines = ["filename,width,height,class,xmin,ymin,xmax,ymax"]
        lines += [f"{p.name},{p.width},{p.height},{c},{b[0]},{b[1]},{b[2]},{b[3]}" for p, b, c in rows]
        return {**files, "annotations.csv": "\n".join([*lines, ""]).encode()}
    if kind == 1:
        lines = ["split,file,xmin,ymin,xmax,ymax,class,difficult,crowd"]
        split = {p.stem: "train" if i < 2 else "val" for i, p in enumerate(pictures)}
        lines += [f"{split[p.stem]},{p.name},{b[0]},{b[1]},{b[2]},{b[3]},{c},0,0" for p, b, c in rows]
        return {**files, "boxes.csv": "\r\n".join([*lines, ""]).encode(), "classes.txt": "\n".join(CLASSES).encode()}
    lines = [f"{p.name},{b[0]},{b[1]},{b[2]},{b[3]},{c}" for p, b, c in rows]
    classes = "".join(f"{name},{i}\n" for i, name in enumerate(CLASSES)).encode()
    half = len(pictures[0].boxes) + len(pictures[1].boxes)
    train, val = ("\n".join([*part, ""]).encode() for part in (lines[:half], lines[half:]))
    return {**files, "train.csv": train, "val.csv": val, "classes.csv": classes}


def _labelme(rng: Random, pictures: list[Picture]) -> Files:
    files, folders = {}, rng.random() < 0.4
    for i, p in enumerate(pictures):
        shapes = [
            {"label": CLASSES[label], "points": [[x0, y0], [x1, y1]], "shape_type": "rectangle", "flags": {}}
            if rng.random() < 0.7
            else {"label": CLASSES[label], "points": [[x0, y0], [x1, y0], [x1, y1]], "shape_type": "polygon"}
            for (x0, y0, x1, y1), label in zip(p.boxes, p.labels, strict=True)
        ]
        content = {"version": "5.0", "flags": {}, "shapes": shapes, "imagePath": p.name, "imageData": None,
                   "imageHeight": p.height, "imageWidth": p.width}  # fmt: skip
        place = ("train/" if i < 2 else "val/") if folders else ""
        files[f"{place}{p.stem}.json"] = json.dumps(content, indent=2).encode()
        files[f"{place}{p.name}"] = p.data
    return files if folders else {**files, **annotators.own_lists(rng, [p.name for p in pictures])}


def make_tar(members: list[tuple[str, bytes]]) -> bytes:
    """A plain tar of these members."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return held.getvalue()


def _shards(rng: Random, pictures: list[Picture]) -> Files:
    files, splits = {}, {}
    for split, part in (("train", pictures[:2]), ("val", pictures[2:])):
        members = []
        for i, p in enumerate(part):
            label = {
                "file": p.name, "id": p.stem, "width": p.width, "height": p.height, "boxes": p.boxes,
                "classes": p.labels, "names": [CLASSES[k] for k in p.labels], "difficult": [0] * len(p.boxes),
                "crowd": [0] * len(p.boxes), "area": [64.0] * len(p.boxes),
            }  # fmt: skip
            ending = {"jpeg": "jpg", "tiff": "tif"}.get(p.ending, p.ending)
            members += [(f"{i:09d}-{p.stem}.{ending}", p.data), (f"{i:09d}-{p.stem}.json", json.dumps(label).encode())]
        tar = make_tar(members)
        files[f"{split}-000000.tar"] = tar
        objects = sum(len(p.boxes) for p in part)
        splits[split] = [
            {"name": f"{split}-000000.tar", "samples": len(part), "objects": objects, "bytes": len(tar), "sha256": ""}
        ]
    index = {"version": 1, "class_names": list(CLASSES), "declared": True, "splits": splits}
    return {**files, "shards.json": json.dumps(index, indent=1).encode()}


def _tfrecord(rng: Random, pictures: list[Picture]) -> Files:
    files: Files = {}
    by_number, shards = rng.random() < 0.5, rng.random() < 0.3
    for split, part in (("train", pictures[:2]), ("val", pictures[2:])):
        made = []
        for p in part:
            texts: dict[str, Value] = {"image/object/class/text": [CLASSES[k].encode() for k in p.labels]}
            numbers: dict[str, Value] = {"image/object/class/label": [k + 1 for k in p.labels]}
            flags: dict[str, Value] = {"image/object/difficult": [rng.randrange(2) for _ in p.labels]}
            keys = {**labelled(p.data, p.name, p.width, p.height, p.boxes), **flags}
            made.append(example({**keys, **(numbers if by_number else {**texts, **numbers})}, rng.random() < 0.7))
        if shards:
            files |= {f"{split}.record-{i:05d}-of-{len(made):05d}": record_file([one]) for i, one in enumerate(made)}
        else:
            files[f"{split}.tfrecord"] = record_file(made)
    if by_number or rng.random() < 0.5:
        items = (f"item {{\n  id: {i}\n  name: '{name}'\n}}\n" for i, name in enumerate(CLASSES, 1))
        files["label_map.pbtxt"] = "".join(items).encode()
    return files


FORMS: dict[str, Callable[[Random, list[Picture]], Files]] = {
    "voc": _voc, "coco": _coco, "yolo": _yolo, "csv": _csv, "labelme": _labelme, "shards": _shards,
    "cvat": annotators.cvat, "createml": annotators.createml, "labelstudio": annotators.labelstudio,
    "via JSON": annotators.via_json, "via CSV": annotators.via_csv, "via 3": annotators.via_3,
    "results": annotators.results, "tfrecord": _tfrecord, "fiftyone": annotators.fiftyone,
    "keras-yolo3": annotators.keras_txt, "kitti": annotators.kitti, "rows": annotators.rows,
    "number rows": annotators.number_rows,
}  # fmt: skip


def make_base(rng: Random, form: str) -> Files:
    """A valid data set of 3 or 4 images with a few objects each."""
    return FORMS[form](rng, _pictures(rng, rng.randrange(3, 5)))


def secrets() -> Files:
    """What lies beside the data set's folder: whatever of it is read could be recognised."""
    width, height = SECRET_SIZE
    image = _encode("png", np.full((height, width, 3), 77, np.uint8))
    box = f"<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>{width}</xmax><ymax>{height}</ymax></bndbox>"
    size = f"<size><width>{width}</width><height>{height}</height></size>"
    pic = Picture("secret", "png", image, width, height, [(0, 0, width, height)], [0])
    coco = _coco_json([pic]).replace(b'"cat"', f'"{SECRET_CLASS}"'.encode())
    return {
        "secret.txt": f"{SECRET_TEXT}\n{SECRET_CLASS}\n".encode(),
        "secret.csv": f"file,xmin,ymin,xmax,ymax,class\nsecret.png,0,0,9,9,{SECRET_CLASS}\n".encode(),
        "secret.yaml": f"train: .\nnames: [{SECRET_CLASS}]\n".encode(),
        "secret.xml": f"<annotation>{size}<object><name>{SECRET_CLASS}</name>{box}</object></annotation>".encode(),
        "secret.json": coco,
        "secret.tar": _shards(Random(0), [pic])["train-000000.tar"],
        **{f"secret.{ending}": image for ending in ("png", "jpg", "jpeg", "webp", "tif", "tiff", "bmp", "gif")},
    }
