"""Small valid data sets of every form that is read, as name -> bytes; nothing here touches the disk."""

from __future__ import annotations

import csv
import io
import json
import struct
import tarfile
import zlib
from collections.abc import Callable
from random import Random
from typing import NamedTuple

import cv2
import numpy as np

Files = dict[str, bytes]

CLASSES = ("cat", "dog", "Mülltonne")
# What lies outside of the data set's folder and must never show up in anything that is said or written.
SECRET_TEXT, SECRET_CLASS, SECRET_SIZE = "TOPSECRET", "SECRETCLASS", (37, 29)


class Picture(NamedTuple):
    """One image of a base: stem, ending, the file's bytes, width and height, boxes x0 y0 x1 y1 in pixels, classes."""

    stem: str
    ending: str
    data: bytes
    width: int
    height: int
    boxes: list[tuple[int, int, int, int]]
    labels: list[int]

    @property
    def name(self) -> str:
        return f"{self.stem}.{self.ending}"


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


def _coco_json(pictures: list[Picture]) -> bytes:
    images = [{"id": i, "file_name": p.name, "width": p.width, "height": p.height} for i, p in enumerate(pictures)]
    annotations = [
        {"id": 100 * i + k, "image_id": i, "category_id": label + 1, "iscrowd": 0, "area": 64.5,
         "bbox": [x0, y0, x1 - x0, y1 - y0]}
        for i, p in enumerate(pictures)
        for k, ((x0, y0, x1, y1), label) in enumerate(zip(p.boxes, p.labels, strict=True))
    ]  # fmt: skip
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories}, indent=1).encode()


def _coco(rng: Random, pictures: list[Picture]) -> Files:
    if rng.random() < 0.3:  # one file, whose splits are made
        return {"annotations.json": _coco_json(pictures), **{f"images/{p.name}": p.data for p in pictures}}
    files = {}
    for split, part in (("train", pictures[:2]), ("val", pictures[2:])):
        files[f"annotations/instances_{split}2017.json"] = _coco_json(part)
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
    return files


def _objects(pic: Picture) -> list[tuple[tuple[int, int, int, int], str]]:
    return [(box, CLASSES[label]) for box, label in zip(pic.boxes, pic.labels, strict=True)]


def _cvat(rng: Random, pictures: list[Picture]) -> Files:
    folders, subsets = rng.random() < 0.3, rng.random() < 0.5
    labels = "".join(f"<label><name>{name}</name><type>any</type></label>" for name in CLASSES)
    head = f"<version>1.1</version>\n<meta><task><labels>{labels}</labels></task></meta>\n"
    files: Files = {}
    texts = {"train": "", "val": ""}
    for i, p in enumerate(pictures):
        shapes = ""
        for (x0, y0, x1, y1), name in _objects(p):
            shapes += rng.choice((
                f'<box label="{name}" xtl="{x0}" ytl="{y0}" xbr="{x1}" ybr="{y1}">'
                '<attribute name="difficult">false</attribute></box>\n',
                f'<box label="{name}" xtl="{x0}" ytl="{y0}" xbr="{x1}" ybr="{y1}" rotation="5.0"></box>\n',
                f'<polygon label="{name}" points="{x0},{y0};{x1},{y0};{x1},{y1}"></polygon>\n',
                f'<ellipse label="{name}" cx="{(x0 + x1) / 2}" cy="{(y0 + y1) / 2}" rx="3" ry="2" rotation="30"/>\n',
                f'<mask label="{name}" rle="1, 2" left="{x0}" top="{y0}" width="{x1 - x0}" height="{y1 - y0}"/>\n',
            ))  # fmt: skip
        split = "train" if i < 2 else "val"
        subset = f'subset="{split}" ' if subsets else ""
        size = f'width="{p.width}" height="{p.height}"'
        texts[split] += f'<image id="{i}" name="{p.name}" {subset}{size}>\n{shapes}</image>\n'
        files[f"{split}/images/{p.name}" if folders else f"images/{p.name}"] = p.data
    parts = {f"{split}/": text for split, text in texts.items()} if folders else {"": "".join(texts.values())}
    for place, text in parts.items():
        xml = f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n{head}{text}</annotations>\n'
        files[f"{place}annotations.xml"] = xml.encode()
    return files


def _in_one_or_two(rng: Random, pictures: list[Picture], name: str, make: Callable[[list[Picture]], bytes]) -> Files:
    """One label file beside the images, or one in the folder of each split."""
    if rng.random() < 0.6:
        return {name: make(pictures), **{f"{rng.choice(('', 'images/'))}{p.name}": p.data for p in pictures}}
    files = {}
    for split, part in (("train", pictures[:2]), ("valid", pictures[2:])):
        files[f"{split}/{name}"] = make(part)
        files |= {f"{split}/{p.name}": p.data for p in part}
    return files


def _createml(rng: Random, pictures: list[Picture]) -> Files:
    def make(part: list[Picture]) -> bytes:
        content = []
        for p in part:
            notes = []
            for (x0, y0, x1, y1), name in _objects(p):
                box = {"x": (x0 + x1) / 2, "y": (y0 + y1) / 2, "width": x1 - x0, "height": y1 - y0}
                notes.append({"label": name, "coordinates": box})
            content.append({"image": p.name, "annotations": notes})
        return json.dumps(content, indent=1).encode()

    return _in_one_or_two(rng, pictures, "_annotations.createml.json", make)


def _via(rng: Random, pictures: list[Picture]) -> Files:
    kind = rng.choice(("project", "plain", "csv", "VIA 3"))

    def shape(box: tuple[int, int, int, int]) -> dict[str, object]:
        x0, y0, x1, y1 = box
        return rng.choice((
            {"name": "rect", "x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0},
            {"name": "polygon", "all_points_x": [x0, x1, x1], "all_points_y": [y0, y0, y1]},
            {"name": "circle", "cx": (x0 + x1) / 2, "cy": (y0 + y1) / 2, "r": 3},
            {"name": "ellipse", "cx": (x0 + x1) / 2, "cy": (y0 + y1) / 2, "rx": 3, "ry": 2, "theta": 0.5},
        ))  # fmt: skip

    def project_3(part: list[Picture]) -> bytes:
        marks = [(i, box, name) for i, p in enumerate(part) for box, name in _objects(p)]
        content = {
            "project": {"pid": "__VIA_PROJECT_ID__", "data_format_version": "3.1.1"},
            "attribute": {"1": {"aname": "class", "options": {name: name for name in CLASSES}}},
            "file": {str(i): {"fid": str(i), "fname": p.name, "type": 2} for i, p in enumerate(part)},
            "view": {str(i): {"fid_list": [str(i)]} for i in range(len(part))},
            "metadata": {
                f"{i}_{k}": {"vid": str(i), "flg": 0, "z": [], "av": {"1": name},
                             "xy": [2, b[0], b[1], b[2] - b[0], b[3] - b[1]]}
                for k, (i, b, name) in enumerate(marks)
            },
        }  # fmt: skip
        return json.dumps(content, indent=1).encode()

    def make(part: list[Picture]) -> bytes:
        if kind == "VIA 3":
            return project_3(part)
        entries = {
            f"{p.name}{len(p.data)}": {
                "filename": p.name, "size": len(p.data), "file_attributes": {},
                "regions": [{"shape_attributes": shape(b), "region_attributes": {"class": n}} for b, n in _objects(p)],
            }
            for p in part
        }  # fmt: skip
        if kind == "plain":
            return json.dumps(entries, indent=1).encode()
        if kind == "project":
            return json.dumps({"_via_settings": {}, "_via_img_metadata": entries, "_via_attributes": {}}).encode()
        text = io.StringIO(newline="")
        rows = csv.writer(text)
        rows.writerow(["filename", "file_size", "file_attributes", "region_count", "region_id",
                       "region_shape_attributes", "region_attributes"])  # fmt: skip
        for p in part:
            for k, (box, name) in enumerate(_objects(p)):
                cells = [json.dumps(shape(box)), json.dumps({"class": name})]
                rows.writerow([p.name, len(p.data), "{}", len(p.boxes), k, *cells])
        return text.getvalue().encode()

    return _in_one_or_two(rng, pictures, "via_region_data.csv" if kind == "csv" else "via_region_data.json", make)


def _labelstudio(rng: Random, pictures: list[Picture]) -> Files:
    is_flat = rng.random() < 0.4

    def result(p: Picture, box: tuple[int, int, int, int], name: str) -> dict[str, object]:
        x, y = 100 * box[0] / p.width, 100 * box[1] / p.height
        across, down = 100 * (box[2] - box[0]) / p.width, 100 * (box[3] - box[1]) / p.height
        kind, value = rng.choice((
            ("rectangle", {"x": x, "y": y, "width": across, "height": down, "rotation": rng.choice((0, 0, 5))}),
            ("ellipse", {"x": x + across / 2, "y": y + down / 2, "radiusX": 3, "radiusY": 2, "rotation": 30}),
            ("polygon", {"points": [[x, y], [x + across, y], [x, y + down]], "closed": True}),
        ))  # fmt: skip
        value = {**value, f"{kind}labels": [name]}
        size = {"original_width": p.width, "original_height": p.height}
        return {**value, **size} if is_flat else {"id": "r", "type": f"{kind}labels", **size, "value": value}

    def make(part: list[Picture]) -> bytes:
        content = []
        for i, p in enumerate(part):
            name = rng.choice((p.name, f"/data/upload/1/0a1b2c3d-{p.name}", f"/data/local-files/?d=images/{p.name}"))
            found = [result(p, box, label) for box, label in _objects(p)]
            if is_flat:
                content.append({"image": name, "id": i, "annotation_id": i, "label": found})
            else:
                done = {"id": i, "was_cancelled": False, "result": found}
                content.append({"id": i, "data": {"image": name}, "annotations": [done]})
        return json.dumps(content, indent=1).encode()

    return _in_one_or_two(rng, pictures, "project-1-at-2024.json", make)


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


FORMS: dict[str, Callable[[Random, list[Picture]], Files]] = {
    "voc": _voc, "coco": _coco, "yolo": _yolo, "csv": _csv, "labelme": _labelme, "shards": _shards,
    "cvat": _cvat, "createml": _createml, "via": _via, "labelstudio": _labelstudio,
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
