"""Bases of the forms that annotation programs write, with all images in one label file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from random import Random

from picture import CLASSES, Files, Picture


def _objects(pic: Picture) -> list[tuple[tuple[int, int, int, int], str]]:
    return [(box, CLASSES[label]) for box, label in zip(pic.boxes, pic.labels, strict=True)]


def cvat(rng: Random, pictures: list[Picture]) -> Files:
    """CVAT for images 1.1."""
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


def own_lists(rng: Random, images: list[str]) -> Files:
    """Lists of splits and classes, as they stand in some converted sets."""
    if rng.random() < 0.7:
        return {}
    lists = [{"split": "train", "files": images[1:]}, {"split": "my part", "files": images[:2]}]
    texts = {"singleshot-splits.json": json.dumps(lists), "singleshot-classes.json": json.dumps(CLASSES)}
    return {name: text.encode() for name, text in texts.items()}


def _in_one_or_two(rng: Random, pictures: list[Picture], name: str, make: Callable[[list[Picture]], bytes]) -> Files:
    """One label file beside the images, or one in the folder of each split."""
    if rng.random() < 0.6:
        files = {f"{rng.choice(('', 'images/'))}{p.name}": p.data for p in pictures}
        return {name: make(pictures), **files, **own_lists(rng, list(files))}
    files = {}
    for split, part in (("train", pictures[:2]), ("valid", pictures[2:])):
        files[f"{split}/{name}"] = make(part)
        files |= {f"{split}/{p.name}": p.data for p in part}
    return files


def createml(rng: Random, pictures: list[Picture]) -> Files:
    """Create ML's JSON."""

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


def via_json(rng: Random, pictures: list[Picture]) -> Files:
    """The JSON of VIA 2 or 1, or a project of VIA 2."""
    return _via(rng, pictures, rng.choice(("project", "plain", "plain", "VIA 1")))


def via_csv(rng: Random, pictures: list[Picture]) -> Files:
    """VIA's CSV."""
    return _via(rng, pictures, "csv")


def via_3(rng: Random, pictures: list[Picture]) -> Files:
    """A project of VIA 3."""
    return _via(rng, pictures, "VIA 3")


def _via(rng: Random, pictures: list[Picture], kind: str) -> Files:
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
        if kind == "VIA 1":
            entries = {key: {**one, "regions": dict(enumerate(one["regions"]))} for key, one in entries.items()}  # type: ignore[arg-type]
        if kind in ("plain", "VIA 1"):
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


def fiftyone(rng: Random, pictures: list[Picture]) -> Files:
    """FiftyOne's own detection form."""
    by_name = rng.random() < 0.5

    def make(part: list[Picture]) -> bytes:
        labels = {}
        for p in part:
            found = []
            for (x0, y0, x1, y1), label in zip(p.boxes, p.labels, strict=True):
                box = [x0 / p.width, y0 / p.height, (x1 - x0) / p.width, (y1 - y0) / p.height]
                found.append({"label": CLASSES[label] if by_name else label, "bounding_box": box, "confidence": None})
            labels[p.stem] = found
        return json.dumps({"classes": list(CLASSES), "labels": labels}, indent=1).encode()

    return _in_one_or_two(rng, pictures, "labels.json", make)


def keras_txt(rng: Random, pictures: list[Picture]) -> Files:
    """keras-yolo3's lines."""

    def make(part: list[Picture]) -> bytes:
        rows = []
        for p in part:
            boxes = [",".join(map(str, (*box, label))) for box, label in zip(p.boxes, p.labels, strict=True)]
            rows.append(" ".join([p.name, *boxes]))
        return "".join(f"{row}\n" for row in rows).encode()

    return {**_in_one_or_two(rng, pictures, "_annotations.txt", make), "_classes.txt": "\n".join(CLASSES).encode()}


def kitti(rng: Random, pictures: list[Picture]) -> Files:
    """KITTI's label_2/ and image_2/, in training/ or alone."""
    top = rng.choice(("training/", ""))
    files: Files = {}
    for p in pictures:
        rest = "1.5 1.6 3.7 -1.84 1.47 8.41 0.01" + " 0.75" * rng.randrange(2)
        rows = [f"{name} 0.00 0 -1.58 {' '.join(map(str, box))} {rest}\n" for box, name in _objects(p)]
        rows.append("DontCare -1 -1 -10 1 2 3 4 -1 -1 -1 -1000 -1000 -1000 -10\n")
        files |= {f"{top}image_2/{p.name}": p.data, f"{top}label_2/{p.stem}.txt": "".join(rows).encode()}
    if rng.random() < 0.3:
        files |= {"ImageSets/train.txt": f"{pictures[0].stem}\n".encode()}
        files |= {"ImageSets/val.txt": "".join(f"{p.stem}\n" for p in pictures[1:]).encode()}
    return files


def rows(rng: Random, pictures: list[Picture]) -> Files:
    """Rows of class and corners, or BBox-Label-Tool's."""
    counted, files = rng.random() < 0.5, {}
    for p in pictures:
        boxes = [(" ".join(map(str, box)), name) for box, name in _objects(p)]
        lines = [f"{box} {name}" if counted else f"{name} {box}" for box, name in boxes]
        text = "\n".join([str(len(lines))] * counted + lines)
        files |= {f"images/{p.name}": p.data, f"labels/{p.stem}.txt": text.encode()}
    return files


def number_rows(rng: Random, pictures: list[Picture]) -> Files:
    """Rows of a class number and a corner and size in pixels, with commas or without; or YOLO's in numbered folders,
    each a set."""
    separator, tops = rng.choice((" ", ",")), rng.choice((("",), ("part1/", "part2/")))
    files: Files = {f"{top}obj.names": b"cat\ndog\n" for top in tops}
    for k, p in enumerate(pictures):
        width, height, top = p.width // 3, p.height // 4, tops[k % len(tops)]
        boxes = [(0, 0, width, height), (p.width - width, p.height - height, width, height)]
        lines = [separator.join(map(str, (i, *box))) for i, box in enumerate(boxes)]
        lines = lines if top == "" else ["0 0.5 0.5 0.25 0.5", f"1 0.25 0.5 0.5 0.{k + 1}"]
        files |= {f"{top}images/{p.name}": p.data, f"{top}labels/{p.stem}.txt": "\n".join(lines).encode()}
    return files


def _brush(p: Picture, box: tuple[int, int, int, int]) -> list[int]:
    """A filled box as Label Studio packs it, in runs of up to 2^16 values."""
    x0, y0, x1, y1 = box
    runs: list[tuple[int, int]] = [(0, 4 * (y0 * p.width + x0))]
    for _ in range(y0, y1):
        runs += [(255, 4 * (x1 - x0)), (0, 4 * (p.width - x1 + x0))]
    runs[-1] = (0, 4 * (p.width - x1 + p.width * (p.height - y1)))
    bits = f"{4 * p.width * p.height:032b}{7:05b}" + f"{15:04b}" * 4
    bits += "".join(f"100{length - 1:016b}{value:08b}" for value, length in runs if length)
    bits += "0" * (-len(bits) % 8)
    return [int(bits[k : k + 8], 2) for k in range(0, len(bits), 8)]


def results(rng: Random, pictures: list[Picture]) -> Files:
    """What `detect --format json` writes."""

    def make(part: list[Picture]) -> bytes:
        images = [
            {"image": rng.choice((p.name, f"some/where/{p.name}")), "width": p.width, "height": p.height, "detections": [
                {"box": list(box), "score": 0.5, "label": CLASSES.index(name), "name": name} for box, name in _objects(p)]}
            for p in part
        ]  # fmt: skip
        return json.dumps({"model": "m.safetensors", "classes": list(CLASSES), "images": images}).encode()

    return _in_one_or_two(rng, pictures, "results.json", make)


def labelstudio(rng: Random, pictures: list[Picture]) -> Files:
    """Label Studio's JSON or JSON-MIN."""
    is_flat = rng.random() < 0.4

    def result(p: Picture, box: tuple[int, int, int, int], name: str) -> dict[str, object]:
        x, y = 100 * box[0] / p.width, 100 * box[1] / p.height
        across, down = 100 * (box[2] - box[0]) / p.width, 100 * (box[3] - box[1]) / p.height
        kind, value = rng.choice((
            ("rectangle", {"x": x, "y": y, "width": across, "height": down, "rotation": rng.choice((0, 0, 5))}),
            ("ellipse", {"x": x + across / 2, "y": y + down / 2, "radiusX": 3, "radiusY": 2, "rotation": 30}),
            ("polygon", {"points": [[x, y], [x + across, y], [x, y + down]], "closed": True}),
            ("brush", {"format": "rle", "rle": _brush(p, box)}),
        ))  # fmt: skip
        value = {**value, f"{kind}labels": [name]}
        flags = rng.choice(({}, {}, {"meta": {"difficult": True}}))
        size = {"original_width": p.width, "original_height": p.height}
        return {**value, **size} if is_flat else {"id": "r", "type": f"{kind}labels", **size, "value": value, **flags}

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
