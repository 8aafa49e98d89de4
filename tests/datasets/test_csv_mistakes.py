"""What is wrong in a CSV of boxes ends in a line that says where."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import strategies as st

from singleshot.datasets import available_splits, open_dataset, open_source
from singleshot.datasets.findings import CollectErrors
from singleshot.datasets.readers import csv_columns, csv_rows

FIXED = "file,xmin,ymin,xmax,ymax,class\n"


def read(path, wanted=None):
    """What a reader that goes on gives, and its findings."""
    problems = CollectErrors()
    return open_source(path).read(wanted, problems), problems.findings


names = st.text(st.characters(codec="utf-8", exclude_characters="/\\\0", exclude_categories=("Cs",)), max_size=12)


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=9).filter(str.strip)


sides = st.floats(0, 1000, width=32)


rows = st.lists(st.tuples(names, st.none() | st.tuples(sides, sides, sides, sides, texts)), min_size=1, max_size=8)


OPEN = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsGroupOf\n"


CODES = "/m/01g317,Person\n/m/0k4j,Car\n"


CAT, DOG = FIXED + "a.png,1,1,9,9,cat\n", FIXED + "b.png,1,1,9,9,dog\n"


BAD_ROWS = {
    "a.png,1,2,9": "has 4 columns; want 6",
    "a.png,1,2,9,9,cat,dog": "has 7 columns; want 6",
    "a.png": "has 1 columns; want 6",
    ",1,2,9,9,cat": "image ''; want the name of a file",
    "a.png,12px,2,9,9,cat": "object 1 (cat): xmin '12px' is not a number",
    "a.png,1,2,,9,cat": "object 1 (cat): xmax '' is not a number",
    "a.png,1,2,9,1_0,cat": "object 1 (cat): ymax '1_0' is not a number",
    "a.png,,,,,cat": "object 1 (cat): xmin '' is not a number",
    "a.png,1,2,9,9,": "object 1: has no class",
    "a.png,1,2,9,9,  ": "object 1: has no class",
    "a.png,1,2,9,9,c\0t": "holds a NUL byte",
    'a.png,1,2,9,9,"cat" x': "is not CSV (",
    b"a.png,1,2,9,9,c\xe9t": "is not UTF-8",
}


@pytest.mark.parametrize("row", BAD_ROWS)
def test_rows_that_cannot_be_used_are_said_with_their_line(folder, row, one_line):
    good = b"b.png,0,0,5,5,dog\n"
    row_bytes = row if isinstance(row, bytes) else row.encode()
    root = folder({"train.csv": FIXED.encode() + good + row_bytes + b"\n" + good})
    text = one_line(open_dataset, root)
    assert "train.csv:3: " in text
    assert BAD_ROWS[row] in text
    raw, findings = read(root)
    assert [(f.kind, f.line) for f in findings] == [("annotation-malformed", 3)]
    objects = {image.ident: image.objects for image in raw.images}
    assert [obj.line for obj in objects["b"]] == [2, 4]
    assert objects.get("a", []) == []
    assert raw.class_names == ("dog",)


@pytest.mark.parametrize("value", ["nan", "inf", "-Infinity", "1e308", "1" * 400, "-1e999"])
@pytest.mark.parametrize(
    "form", [FIXED + "a.png,0,0,{},9,cat\n", OPEN + "a,x,cat,1,0,{},0,1,0,0\nb,x,cat,1,0,1,0,1,0,0\n"]
)
def test_what_is_no_place_is_refused(folder, value, form, one_line, recwarn):
    text = one_line(open_dataset, folder({"train.csv": form.format(value)}))
    assert "train.csv:2: object 0 (cat): box [" in text
    assert "is not a place" in text
    assert not recwarn.list


@pytest.mark.parametrize("flag", ["difficult", "iscrowd"])
def test_a_senseless_flag_is_refused(folder, flag, one_line):
    root = folder({"train.csv": f"file,xmin,ymin,xmax,ymax,class,{flag}\na.png,1,1,9,9,cat,very\n"})
    assert f"train.csv:2: object 0 (cat): {flag.removeprefix('is')} 'very'; want 0 or 1" in one_line(open_dataset, root)


SIZES = "file,width,height,xmin,ymin,xmax,ymax,class\n"


@pytest.mark.parametrize(
    ("width", "height"), [("wide", 48), (-1, 48), (64, "1e9"), ("nan", 48), (64.5, 48), (64, "inf")]
)
def test_a_senseless_size_is_refused(folder, width, height, one_line):
    root = folder({"train.csv": SIZES + f"a.png,{width},{height},1,1,9,9,cat\n"})
    assert "train.csv:2: image a.png: " in one_line(open_dataset, root)
    raw, _ = read(root)
    assert (raw.images[0].width, raw.images[0].height) == (0, 0)


def test_sizes_that_disagree_are_said(folder, one_line):
    rows = ["a.png,64,48,1,1,9,9,cat", "a.png,,,2,1,9,9,cat", "a.png,64.0,48,3,1,9,9,cat", "a.png,48,64,4,1,9,9,cat"]
    root = folder({"train.csv": SIZES + "\n".join(rows)})
    text = one_line(open_dataset, root)
    assert "train.csv:5: image a.png: is 48 x 64 pixels here, 64 x 48 in a row above" in text
    raw, findings = read(root)
    assert len(findings) == 1
    assert (raw.images[0].width, raw.images[0].height, len(raw.images[0].objects)) == (64, 48, 4)


def test_a_quote_that_never_closes_costs_no_memory_and_is_said(folder, one_line):
    rest = "".join(f"b.png,0,0,5,{k % 9 + 1},dog\n" for k in range(60_000))
    root = folder({"train.csv": FIXED + "a.png,1,2,9,9,cat\n" + '"a.png,1,2,9,9,cat\n' + rest})
    assert "train.csv:3: is not CSV (" in one_line(open_dataset, root)
    raw, findings = read(root)
    assert len(findings) == 1
    assert findings[0].line == 3
    assert "are lost" in findings[0].message
    assert len(raw.images[1].objects) > 40_000
    short = folder({"train.csv": FIXED + "a.png,1,2,9,9,cat\n" + '"a.png,1,2,9,9,cat\nb.png,,,,,\n'})
    assert "train.csv:3: is not CSV (" in one_line(open_dataset, short)


def test_a_line_without_end_is_given_up_on(folder, one_line):
    text = FIXED + "a.png,1,2,9,9,cat\n" + "x" * (2 * csv_columns.MAX_LINE) + "\na.png,1,2,9,9,cat\n"
    root = folder({"train.csv": text})
    assert "train.csv:3: has a line of more than 1 MB" in one_line(open_dataset, root)
    raw, findings = read(root)
    assert [f.kind for f in findings] == ["annotation-unreadable"]
    assert len(raw.images[0].objects) == 1


def test_too_large_a_file_is_refused(folder, monkeypatch, one_line):
    root = folder({"train.csv": CAT})
    monkeypatch.setattr(csv_rows, "MAX_CSV_BYTES", 20)
    assert "train.csv: larger than" in one_line(open_dataset, root)


@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/passwd", "..\\secret.png", "x/../../secret.png", "http://h/secret.png"]
)
def test_no_name_leaves_the_folder(folder, tmp_path, write_image, name, one_line):
    write_image(tmp_path / "secret.png", 8, 8)
    root = folder({"train.csv": CAT + f"{name},1,1,9,9,cat\n"})
    assert "leaves the data set's folder" in one_line(open_dataset, root)
    raw, findings = read(root)
    assert [(f.kind, f.line) for f in findings] == [("image-missing", 3)]
    assert [image.ident for image in raw.images] == ["a"]


def test_links_out_of_the_folder_are_refused(folder, tmp_path, one_line):
    root = folder({"train.csv": CAT})
    (root / "a.png").rename(tmp_path / "a.png")
    (root / "a.png").symlink_to(tmp_path / "a.png")
    assert "a link that leads out" in one_line(open_dataset, root)
    (root / "a.png").unlink()
    (tmp_path / "out").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "out" / "a.png")
    (root / "images").symlink_to(tmp_path / "out")
    assert "a link that leads out" in one_line(open_dataset, root)


def test_missing_images_are_counted_and_named_with_their_line(folder, one_line):
    root = folder({"train.csv": CAT + "gone.png,1,1,9,9,cat\nnote.txt,1,1,9,9,cat\n", "note.txt": "x"})
    text = one_line(open_dataset, root)
    assert "train.csv:3: image 'gone.png' is missing (2 of 3 are not in" in text
    raw, findings = read(root)
    assert [(f.kind, f.line) for f in findings] == [("image-missing", 3), ("image-missing", 4)]
    assert len(raw.images) == 1


NOT = {
    "class-descriptions.csv": CODES,
    "results.csv": "epoch,map,loss,time,lr,x\n1,2,3,4,5,6\n",
    "numbers.csv": "1,2,3,4,5,6\n",
    "singleshot-flags.csv": "image,object,difficult,crowd\na,0,1,0\n",
    "empty.csv": "",
    "broken.csv": b'"a.png,1,2,3,4,cat\n',
    "bytes.csv": bytes(range(256)) * 9,
    "nul.csv": FIXED[:5] + "\0" + FIXED[5:],
}


def test_other_csv_files_are_none_of_ours(folder, one_line):
    root = folder(NOT)
    assert "no data set of a known form" in one_line(open_dataset, root)
    for name in NOT:
        text = one_line(open_dataset, root / name)
        assert f"{name}:1: no CSV of boxes: want a header like " in text
    (root / "train.csv").write_text(CAT)
    assert available_splits(root) == ("train",)
    assert open_dataset(root).class_names == ("cat",)


def test_nothing_labelled_is_said(folder, one_line):
    root = folder({"train.csv": FIXED + "a.png,,,,,\n", "val.csv": FIXED})
    assert "no annotation has an object" in one_line(open_dataset, root)
    assert open_dataset(root, class_names=["cat"]).ptr.tolist() == [0, 0]
    assert len(open_dataset(root, "val", class_names=["cat"])) == 0


def test_lines_are_found_for_messages(folder):
    text = FIXED + '\n"a.png",1,1,9,9,"c\nat"\n\nb.png,,,,,\na.png,2,2,9,9,dog\n'
    raw, _ = read(folder({"train.csv": text}))
    for data in (text.encode(), text.encode("utf-8-sig")):
        places = [(o.number, o.line) for image in raw.images for o in image.objects]
        assert places == [(0, 3), (2, 7)]
        assert csv_columns.sniff_columns(data) is not None
    path = raw.images[0].file
    opened = open_source(Path(path).parent)
    assert [opened.line(path, number) for number, _ in places] == [3, 7]
    assert opened.line(path, 99) is None


def test_a_hundred_thousand_rows_take_a_second_or_so(folder):
    rows = "".join(f"a.png,{k % 50},{k % 30},{k % 50 + 5},{k % 30 + 9}.5,c{k % 80}\n" for k in range(100_000))
    root = folder({"train.csv": FIXED + rows})
    start = time.process_time()
    assert len(read(root)[0].images[0].objects) == 100_000
    assert time.process_time() - start < 5
