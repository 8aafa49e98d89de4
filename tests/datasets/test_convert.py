"""Every form holds what another one held: written, and read again by the readers."""

from __future__ import annotations

import math
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from singleshot.datasets import open_source
from singleshot.datasets.checks import check_source, duplicates
from singleshot.datasets.checks import images as check_images
from singleshot.datasets.formats import written_formats
from singleshot.datasets.raw import RawImage, RawObject, RawSet
from singleshot.datasets.writers.common import clean_name, unique_names
from singleshot.datasets.writing import write_dataset
from singleshot.errors import DataError

FORMS = tuple(written_formats())


SIZES = ((64, 48), (33, 70), (7, 5))


# Names of splits that every form holds as they are.
SPLITS = ("train", "val", "test", "trainval", "minival", "my part", "Überprüfung", "a_test", "-x", "'quoted'", "list")


ODD_STEMS = ("a b", "a", "A", "a-2", "it's \"quoted\"", "line\nbreak", "tab\tand\rreturn", "-dash", "--", "猫の写真",
             "e\u0301", "é", "a 1", "a -1", "b 0", "-1", " blank ", "dots..", ".hidden", "train", "classes", "con",
             "semi;colon,comma", "<tag>&amp;", "#hash", "%41", "$HOME", "x" * 240, "\udcff\udcfe", "\u2028", "~",
             "\ufeffbom", "C:x", "..", "\\back\\slash", "images", "labels", "null", "a*?|b", "\x7f\x1b[3m")  # fmt: skip


CLASSES = ("cat", "dog", "Cat", "it's", 'a "b"', "猫", "yes", "1", "null", "a, b", "<x> & y", "two  blanks", "#no", "-",
           "=1+1", "zebra", "a: b", "[x]", "{", "é", "~", "class 7")  # fmt: skip


ENDINGS = (".png", ".PNG", ".jpg", ".webp")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, write_image) -> dict[tuple[int, int], bytes]:
    found = {}
    for width, height in SIZES:
        path = tmp_path_factory.mktemp("pictures") / "x.png"
        write_image(path, width, height)
        found[width, height] = path.read_bytes()
    return found


def coordinates(side: int) -> st.SearchStrategy[float]:
    anywhere = st.floats(-0.4 * side, 1.3 * side).map(lambda v: v if abs(v) > 1e-9 else 0.0)
    return st.one_of(
        st.integers(0, side).map(float),
        st.sampled_from([0.0, float(side), -1.0, side + 1.5, 0.1, side - 0.3]),
        st.integers(0, side * 1000).map(lambda v: v / 1000),
        anywhere,
    )


@st.composite
def labelled(draw, size, classes):
    width, height = size
    xs, ys = (draw(st.tuples(coordinates(side), coordinates(side))) for side in (width, height))
    if draw(st.integers(0, 9)):  # one in ten as it comes: turned or flat
        xs, ys = sorted(xs), sorted(ys)
    if not draw(st.integers(0, 9)):  # less than a pixel wide
        xs = (xs[0], xs[0] + draw(st.sampled_from([0.25, 0.5, 0.0])))
    return RawObject(draw(st.sampled_from(classes)), (xs[0], ys[0], xs[1], ys[1]), draw(st.booleans()),
                     not draw(st.integers(0, 4)))  # fmt: skip


stems = st.sampled_from(ODD_STEMS) | st.text(
    st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), min_size=1, max_size=20
)


@st.composite
def data_sets(draw):
    """What `build` makes files of: class names, [(stem, ending, size, what is said of it, objects)], splits."""
    classes = draw(st.permutations(CLASSES))[: draw(st.integers(1, 6))]
    images = []
    for _ in range(draw(st.integers(1, 6))):
        size = draw(st.sampled_from(SIZES))
        objects = draw(st.lists(labelled(size, classes), max_size=4))
        said = draw(st.sampled_from(["size", "nothing", "parts"]))
        images.append((draw(stems), draw(st.sampled_from(ENDINGS)), size, said, objects))
    everything = list(range(len(images)))
    names = draw(st.lists(st.sampled_from(SPLITS), min_size=1, max_size=4, unique=True))
    splits = {name: draw(st.lists(st.sampled_from(everything), unique=True, min_size=1)) for name in names}
    if draw(st.booleans()):
        splits = {"train": everything[::2], "val": everything[1::2], "trainval": everything}
    elif draw(st.booleans()):
        splits = {"train": everything[::2], "test": everything[1::2]}
    # Each image is somewhere.
    rest = sorted(set(everything) - {i for members in splits.values() for i in members})
    first = next(iter(splits))
    splits[first] = splits[first] + rest
    return classes, images, {name: members for name, members in splits.items() if members}


def build(root: Path, pictures, data) -> RawSet:
    classes, described, splits = data
    images = []
    for i, (stem, ending, size, said, objects) in enumerate(described):
        folder = root / "from" / str(i)
        folder.mkdir(parents=True)
        path = os.fsdecode(os.fsencode(folder)) + "/" + stem + ending
        # Bytes after the end of a PNG tell one copy from another.
        Path(path).write_bytes(pictures[size] + b"%d" % i)
        width, height = size
        if said == "parts":
            scale = (width, height, width, height)
            own = [t._replace(box=tuple(v / s for v, s in zip(t.box, scale, strict=True))) for t in objects]
        else:
            own = objects
        told = size if said == "size" else (0, 0)
        images.append(RawImage(path, stem, *told, own, "x", relative=said == "parts"))
    return RawSet("test", "x", tuple(classes), images, splits, declared=True)


def pixels(image: RawImage, size) -> list[RawObject]:
    scale = np.array([*size, *size]) if image.relative else np.ones(4)
    return [obj._replace(box=tuple((np.array(obj.box) * scale).tolist())) for obj in image.objects]


def content(raw: RawSet, sizes) -> tuple[dict[bytes, list[RawObject]], dict[str, list[bytes]]]:
    """What a data set says, by the bytes of its images: objects in pixels, and splits."""
    key = [Path(image.path).read_bytes() for image in raw.images]
    assert len(set(key)) == len(key), "an image twice"
    for image, data in zip(raw.images, key, strict=True):
        assert (image.width, image.height) in ((0, 0), sizes[data])
    objects = {data: pixels(image, sizes[data]) for image, data in zip(raw.images, key, strict=True)}
    return objects, {split: sorted(key[i] for i in members) for split, members in raw.splits.items()}


# The forms that keep every bit of a box; those with width and height may miss the last bit of its end.
EXACT, SPANS = ("voc", "coco", "csv", "cvat", "via", "labelme"), ("coco", "via")


def upright(box):
    return (min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3]))


def assert_same(have: RawSet, want: RawSet, sizes, steps: list[str], relative: bool, names: bool) -> None:
    exact = not relative and set(steps) <= set(EXACT)
    (objects, splits), (things_wanted, splits_wanted) = content(have, sizes), content(want, sizes)
    assert have.class_names == want.class_names
    assert objects.keys() == things_wanted.keys()
    assert sorted(splits.values()) == sorted(splits_wanted.values())
    if names:
        assert splits == splits_wanted
    for key, first in things_wanted.items():
        got, wanted = objects[key], first
        assert [(t.name, t.difficult, t.crowd) for t in got] == [(t.name, t.difficult, t.crowd) for t in wanted]
        if "labelme" in steps:  # two corners of a rectangle, in any order
            got, wanted = ([t._replace(box=upright(t.box)) for t in told] for told in (got, wanted))
        for a, b in zip(got, wanted, strict=True):
            np.testing.assert_allclose(a.box, b.box, rtol=0, atol=1e-9)
            for start, end in ((0, 2), (1, 3)):
                if exact:
                    assert a.box[start] == b.box[start]
                if exact and 0 <= b.box[start] <= b.box[end]:
                    assert abs(a.box[end] - b.box[end]) <= (math.ulp(b.box[end]) if set(steps) & set(SPANS) else 0)


ODD = ([("a", ".png", (64, 48), "size", [RawObject("dog", (0.1, 1.1, 10.9, 47.7), True, True)])]
       + [(stem, ending, (7, 5), "nothing", []) for stem in ODD_STEMS for ending in (".png", ".jpg")])  # fmt: skip


NEWER = ("cvat", "createml", "via", "labelstudio", "labelme")


@pytest.mark.parametrize(
    "forms", [*((form,) for form in FORMS if form not in NEWER), NEWER], ids=lambda forms: forms[0]
)
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(data=data_sets(), pick=st.integers(0, 29), by_way_of=st.sampled_from(FORMS))
@example(data=(["cat", "dog"], ODD, {"train": list(range(0, len(ODD), 2)), "val": list(range(1, len(ODD), 2))}),
         pick=0, by_way_of="voc")  # fmt: skip
@example(data=(["zebra", "dog"], ODD, {"my part": list(range(len(ODD))), "val": [0]}), pick=1, by_way_of="yolo")
def test_nothing_is_lost_on_the_way_and_back(forms, data, pick, by_way_of, tmp_path_factory, pictures):
    form = forms[pick % len(forms)]
    there_and_back(data, (form, by_way_of, form), tmp_path_factory.mktemp("round"), pictures)


def test_odd_names_of_images_survive_the_newer_forms(tmp_path, pictures):
    there_and_back((["zebra", "dog"], ODD, {"my part": list(range(len(ODD)))}), NEWER, tmp_path, pictures)
    halves = {"train": list(range(0, len(ODD), 2)), "val": list(range(1, len(ODD), 2))}
    there_and_back((["zebra", "dog"], ODD, halves), NEWER, tmp_path / "halves", pictures)


def there_and_back(data, forms, root: Path, pictures) -> None:
    """Written in one form after the other and read again; each says what the one before and the first said."""
    raw = build(root, pictures, data)
    sizes = {Path(im.path).read_bytes(): d[2] for im, d in zip(raw.images, data[1], strict=True)}
    # A COCO folder's only file is divided unless its name is a usual one.
    names = len(raw.splits) > 1 or next(iter(raw.splits)) in SPLITS[:5]
    relative, now, steps = any(image.relative for image in raw.images), raw, []
    for n, step in enumerate(forms):
        out = root / f"{n}-{step}"
        written = write_dataset(now, out, step)
        source = open_source(out)
        assert source.form == step
        before, now = now, source.read(None)
        assert not now.made
        steps.append(step)
        for old in (before, raw):
            assert_same(now, old, sizes, steps, relative, names)
        assert written.images == len(now.images)
        assert written.objects == sum(len(image.objects) for image in now.images)
        assert Counter(written.splits.values()) == Counter(map(len, now.splits.values()))
        assert set(source.splits) == set(now.splits) == set(written.splits)


def in_this_process(work, items, *_, **__):
    yield from enumerate(map(work, items))


@pytest.mark.parametrize("form", [form for form in FORMS if form != "yolo"])
def test_boxes_that_lie_within_a_pixel_once_others_are_dropped_are_refused(form, tmp_path, pictures):
    boxes = [RawObject("cat", box) for box in ((9.0, 9.0, 9.0, 9.0), (0.0, 0.0, 0.25, 0.1))]
    raw = build(tmp_path, pictures, (["cat"], [("a", ".png", (64, 48), "size", boxes)], {"train": [0]}))
    with pytest.raises(DataError, match="they are parts of the image"):
        write_dataset(raw, tmp_path / "b", form, strict=True, clip_boxes=True)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=24, suppress_health_check=list(HealthCheck))
@given(data=data_sets(), clip=st.booleans())
def test_what_is_converted_strictly_has_no_error(form, data, clip, tmp_path_factory, pictures):
    root = tmp_path_factory.mktemp("strict")
    raw = build(root, pictures, data)
    try:
        written = write_dataset(raw, root / "b", form, strict=True, clip_boxes=clip)
    except DataError as error:
        assert "\n" not in str(error)
        assert "--fix" in str(error) or "no image has an object" in str(error)
        other = "no image has an object", "they are parts of the image"  # what clipping does not repair
        assert not clip or any(words in str(error) for words in other)
        assert [path.name for path in root.iterdir()] == ["from"]
        return
    with pytest.MonkeyPatch.context() as patched:
        for module in (check_images, duplicates):
            patched.setattr(module, "spread", in_this_process)
        result = check_source(open_source(root / "b"))
    assert not [str(one) for one in result.findings if one.severity == "error"]
    assert (result.images, result.objects) == (written.images, written.objects)


@given(st.lists(st.tuples(st.text(max_size=40), st.sampled_from([".png", ".PNG", ".jpg"])), max_size=12), st.booleans())
def test_names_are_unique_everywhere_and_stay_put(wanted, by_stem):
    wanted = [(clean_name(stem, "image"), ending) for stem, ending in wanted]
    names = unique_names(wanted, by_stem)
    keys = [name.rpartition(".")[0].casefold() if by_stem else name.casefold() for name in names]
    assert len(set(keys)) == len(keys)
    for (stem, ending), name in zip(wanted, names, strict=True):
        assert name.startswith(stem)
        assert name.endswith(ending)
        assert name == name.strip()
        assert len(name.splitlines()) == 1
        assert len(name.encode()) < 250
        assert not name.startswith((".", "/"))
    assert names[0] == "".join(wanted[0]) if wanted else True


@pytest.mark.parametrize(
    ("wanted", "by_stem", "names"),
    [
        ([("a", ".png"), ("a", ".png"), ("a", ".png")], False, ["a.png", "a-2.png", "a-3.png"]),
        ([("a", ".png"), ("a", ".jpg")], False, ["a.png", "a.jpg"]),
        ([("a", ".png"), ("a", ".jpg")], True, ["a.png", "a-2.jpg"]),
        ([("a", ".png"), ("A", ".png")], False, ["a.png", "A-2.png"]),
        ([("a", ".png"), ("a", ".png"), ("a-2", ".png")], False, ["a.png", "a-3.png", "a-2.png"]),
    ],
)
def test_taken_names_get_a_number(wanted, by_stem, names):
    assert unique_names(wanted, by_stem) == names


def test_many_images_of_one_name_take_no_time():
    assert unique_names([("frame", ".png")] * 50_000)[-1] == "frame-50000.png"
