from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from singleshot.datasets.splits import (
    ROLES,
    find_split,
    group_keys,
    hold_out,
    make_splits,
    resolve_split,
    role,
    split_of,
    usual_split,
)
from singleshot.errors import DataError

PARTS = ("train", "val", "test")

words = st.text("abcdxyz", min_size=2, max_size=6)
stems = st.one_of(
    words,
    st.builds("{}_{:05d}".format, words, st.integers(0, 99)),
    st.builds("{} {}".format, words, words),
    st.builds("{}-{}.{}".format, words, words, st.integers(0, 9)),
)
COPIES = (
    "{} {}_flip {}_hflip {}(1) {}_jpg.rf.0a1b2c3d4e5f {}.rf.ABCDEF0123456789 {}-copy {}_aug_7 {}_augmented12 {}_rot90 "
    "{}_crop_3 {}_mirrored {}.blurred {}_flip_rot90 {}_jpg.rf.0a1b2c3d_flip"
)
copies = st.sampled_from([*COPIES.split(), "{} (2)", "{} copy 3"])
endings = st.sampled_from(["", ".png", ".JPG", ".xml"])


def sizes(splits) -> list[int]:
    return [len(splits[part]) for part in PARTS]


def members(names, splits) -> dict[str, set[str]]:
    return {part: {names[i] for i in splits[part]} for part in PARTS}


@settings(max_examples=200)
@given(st.lists(words, min_size=1, max_size=60, unique=True), st.integers(0, 3), st.randoms())
def test_every_name_is_in_one_part_whatever_the_order(names, seed, random):
    splits = make_splits(names, seed)
    assert list(splits) == [*PARTS, "trainval"]
    assert sorted(i for part in PARTS for i in splits[part]) == list(range(len(names)))
    assert splits["trainval"] == sorted(splits["train"] + splits["val"])
    assert all(splits[part] == sorted(splits[part]) for part in PARTS)
    assert splits["train"]
    shuffled = random.sample(names, len(names))
    assert members(shuffled, make_splits(shuffled, seed)) == members(names, splits)


def test_it_is_the_same_in_another_process():
    names = [f"a{i}" for i in range(40)]
    code = f"from singleshot.datasets.splits import make_splits; print(make_splits({names!r}, 3))"
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert told.strip() == str(make_splits(names, 3))


def test_seeds_differ():
    names = [f"a{i}" for i in range(100)]
    parts = [tuple(make_splits(names, seed)["val"]) for seed in range(5)]
    assert len(set(parts)) == 5


@pytest.mark.parametrize("n", [3, 4, 5, 9, 10, 14, 15, 16, 25, 99, 100, 1000])
@pytest.mark.parametrize(
    "form", ["{}", "BloodImage_{:05d}", "{:06d}", "img ({})", "frame_{}", "x-crop_{}", "{}_jpg.rf.{:08x}"]
)
def test_sizes_are_near_80_10_10(n, form):
    names = [form.format(*[i] * form.count("{")) for i in range(n)]
    held = max(1, round(n * 0.1))
    assert sizes(make_splits(names)) == [n - 2 * held, held, held]


@pytest.mark.parametrize(
    ("n", "wanted"), [(0, [0, 0, 0]), (1, [1, 0, 0]), (2, [2, 0, 0]), (3, [1, 1, 1]), (4, [2, 1, 1]), (5, [3, 1, 1])]
)
def test_tiny_sets(n, wanted):
    assert sizes(make_splits([f"n{i}" for i in range(n)])) == wanted


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(stems, st.lists(st.tuples(copies, endings), min_size=1, max_size=4)),
        min_size=4,
        max_size=25,
        unique_by=lambda g: g[0],
    )
)
def test_copies_of_a_picture_never_straddle(groups):
    names = [copy.format(stem) + ending for stem, made in groups for copy, ending in made]
    owner = [stem for stem, made in groups for _ in made]
    keys = group_keys(names)
    assume(keys != names)
    largest = max(sum(key == other for other in keys) for key in keys)
    for seed in (0, 1):
        splits = make_splits(names, seed)
        place = {i: part for part in PARTS for i in splits[part]}
        for key in set(keys):
            assert len({place[i] for i, own in enumerate(keys) if own == key}) == 1
        held = max(1, round(len(names) * 0.1))
        for part in ("val", "test"):
            assert len(splits[part]) < held + largest
    if largest * 2 <= len(names) and all(len(made) * 2 <= len(names) for _, made in groups):
        alone = {key for key in keys if sum(k == key for k in keys) == 1}
        for stem in set(owner):
            got = {keys[i] for i, own in enumerate(owner) if own == stem}
            assert len(got) == 1 or got <= alone, (stem, got)


@settings(max_examples=100)
@given(
    st.lists(st.tuples(words, st.integers(1, 4)), min_size=1, max_size=30, unique_by=lambda g: g[0]),
    st.floats(0.01, 0.5),
    st.randoms(),
)
def test_what_is_held_out_is_whole_pictures_whatever_the_order(groups, share, random):
    names = [f"{stem}{'_flip' * k}.png" for stem, count in groups for k in range(count)]
    stay, held = hold_out(names, share)
    assert sorted([*stay, *held]) == list(range(len(names)))
    keys = group_keys(names)
    assert not {keys[i] for i in stay} & {keys[i] for i in held}
    assert bool(held) == (len(set(keys)) > 1)
    assert stay
    largest = max(keys.count(key) for key in keys)
    assert len(held) <= max(round(len(names) * share), largest)
    order = random.sample(range(len(names)), len(names))
    again = hold_out([names[i] for i in order], share)
    if len(set(names)) == len(names) and largest == 1:
        assert {names[order[i]] for i in again[1]} == {names[i] for i in held}


@pytest.mark.parametrize(
    ("n", "share", "wanted"), [(2, 0.1, 1), (10, 0.1, 1), (10, 0.5, 5), (99, 0.2, 20), (1, 0.5, 0)]
)
def test_so_many_are_held_out(n, share, wanted):
    assert len(hold_out([f"{i:03d}.jpg" for i in range(n)], share)[1]) == wanted


def test_of_two_groups_the_smaller_is_held_out():
    for names in (["a", *(f"b_flip{i}" for i in range(3)), *(f"c_flip{i}" for i in range(2))],):
        assert [names[i] for i in hold_out(names, 0.1)[1]] == ["a"]


def test_images_of_one_name_in_folders_of_their_own_are_not_one_picture():
    def held(root: str) -> list[str]:
        names = [f"{root}/scene {i}/image.png" for i in range(20)]
        stay, back = hold_out(names, 0.1)
        assert len(stay) == 18
        return [names[i].removeprefix(root) for i in back]

    assert held("/data/set") == held("elsewhere")
    assert sizes(make_splits([f"{i}/image.png" for i in range(20)])) == [16, 2, 2]
    assert len(set(group_keys(["a/image.png"] * 3))) == 1


@pytest.mark.parametrize(
    "same",
    [
        ["cat", "cat_flip", "cat (2)", "cat_jpg.rf.0123456789abcdef", "cat.png", "cat.rf.0123456789ABCDEF.jpg"],
        ["cat", "cat_7", "cat-8.png", "cat 9", "cat.1"],
        ["a/cat.png", "b/cat.png", "cat"],
        ["cat_7", "cat_7_flip", "cat_7_rot90.jpg"],
        ["cat_flip", "cat_rot"],
        ["IMG.2020.01.01", "IMG.2020.01.01_aug1"],
        ["CAT", "CAT_FLIP", "CAT (1)"],
        ["cat_flip_rot90", "cat"],
        ["cat_jpg.rf.0123456789abcdef_flip", "cat"],
        ["cat_7", "cat", "cat_7_flip", "cat_7_8"],
    ],
)
def test_these_are_of_one_picture(same):
    others = ["dog", "bird", "axe", "zoo", "sun", "moon", "star"]
    keys = group_keys([*same, *others])
    assert len(set(keys[: len(same)])) == 1
    assert len(set(keys)) == 1 + len(others)


@pytest.mark.parametrize(
    "names",
    [
        [f"BloodImage_{i:05d}" for i in range(30)],
        [f"BloodImage_{i:05d}.jpg" for i in range(30)],
        [f"{i:06d}" for i in range(30)],
        [f"img ({i})" for i in range(30)],  # Windows' renaming of many
        [f"frame_{i}" for i in range(30)],
        ["flip", "crop", "tile", "rot"],
        ["_flip", " (2)", ".rf.0123456789abcdef", "-copy"],
        ["a", *[f"a_{i}" for i in range(30)]],
        ["2020.01.01", "2020.01.02", "2020.02.01"],
        ["cats", "cat", "catalogue", "concat"],
    ],
)
def test_these_are_pictures_of_their_own(names):
    keys = group_keys(names)
    assert len(set(keys)) == len(names)
    assert all(make_splits(names)[part] for part in PARTS)


def test_hostile_names_take_no_time():
    long = [
        "_flip" * 20_000,
        "a" + " (1)" * 20_000,
        "_" * 50_000,
        "a_-. (" * 8_000,
        "x" + "_copy_" * 9_000 + "!",
        "\ud800",
        "a/b",
        "",
        "\0",
    ]
    assert len(group_keys(long)) == len(long)
    splits = make_splits([name for name in long if name != "\ud800"])
    assert sum(sizes(splits)) == len(long) - 1


def test_splits_are_found_by_name_and_alias():
    assert find_split("val", ["train", "validation"]) == "validation"
    assert find_split("valid", ["val", "validation"]) == "val"
    assert find_split("train", ["Train"]) == "Train"
    assert find_split("train", ["Train", "train"]) == "train"
    assert find_split("val", ["TRAIN", "Validation"]) == "Validation"
    assert find_split("test", ["Testing"]) == "Testing"
    assert find_split("val", ["train", "dev"]) == "dev"
    assert find_split("val", ["dev", "valid"]) == "valid"
    assert find_split("dev", ["val"]) is None
    assert find_split("train", ["default"]) is None
    assert resolve_split("validation", ["val"], "here") == "val"
    with pytest.raises(DataError, match=r"h\\nere: no split 'tr\\\\nain' \(there are: a, b\\n\); name one"):
        resolve_split("tr\nain", ["b\n", "a"], "h\nere")
    with pytest.raises(DataError, match=r"there are: none"):
        resolve_split("train", [], "here")


def test_one_table_says_what_splits_are_for():
    for kind, names in ROLES.items():
        for name in names:
            assert role(name.upper()) == kind
            assert usual_split(name) in ("", *names)
            assert find_split(kind, ["other", name]) == name
    assert role("My part") == "My part"


@pytest.mark.parametrize(
    ("name", "split", "usual"),
    [
        ("Train2017", "train", ""),
        (" TRAINING ", " TRAINING ", "train"),
        ("Testing", "testing", "test"),
        ("Validation", "validation", "validation"),
        ("validate", "validate", "val"),
        ("dev", "dev", "dev"),
        ("2017", "2017", ""),
        ("fold3", "fold3", ""),
        ("", "", ""),
    ],
)
def test_names_of_splits(name, split, usual):
    assert (split_of(name), usual_split(name)) == (split, usual)
