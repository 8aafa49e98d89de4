"""Which free data sets can be fetched: their official addresses, checksums, licences, and the layout that results."""

from __future__ import annotations

from dataclasses import dataclass

# What GitHub packs on the fly has no fixed size, so that a limit stands in for it; the largest one here is 20 MB.
_GITHUB_LIMIT = 64 * 2**20


@dataclass(frozen=True)
class Archive:
    """One file to download.

    address: where its makers give it. size: bytes; exact where there is a checksum, else about. checksum: of its
    bytes, sha256 in hex, or "" where they are not the same each time (then the set has a `content` checksum).
    limit: more bytes than this are never taken. moves: (start of a member's name, what it becomes in the result);
    members that match none are left out.
    """

    address: str
    size: int
    checksum: str
    moves: tuple[tuple[str, str], ...]
    limit: int = 0

    @property
    def name(self) -> str:
        """The file's name on disk."""
        return self.address.rpartition("/")[2]

    @property
    def most(self) -> int:
        """The most bytes that are ever taken."""
        return self.size if self.checksum else self.limit


@dataclass(frozen=True)
class FreeSet:
    """One data set. unpacked: bytes on disk, about. form: what `open_dataset` reads it as. joined: files below this
    folder that lie in several archives are put one after the other (split lists); others replace each other.
    content: see `unpack.content_checksum`, "" where the archives have checksums."""

    about: str
    form: str
    splits: tuple[str, ...]
    licence: str
    home: str
    archives: tuple[Archive, ...]
    unpacked: int
    joined: str = ""
    content: str = ""

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(archive.size for archive in self.archives)


def _github(repository: str, commit: str, size: int, moves: tuple[tuple[str, str], ...]) -> Archive:
    """A repository at one commit. Its archives hold everything in one folder, REPOSITORY-COMMIT/."""
    folder = f"{repository.rpartition('/')[2]}-{commit}/"
    own = tuple((folder + start, target) for start, target in moves)
    return Archive(f"https://github.com/{repository}/archive/{commit}.zip", size, "", own, _GITHUB_LIMIT)


# Sizes and sha256 of VOC: tensorflow/datasets url_checksums/voc.txt, the same sha256 in pytorch/vision's
# torchvision/prototype/datasets/_builtin/voc.py for this very host. They are the files whose md5 torchvision's voc.py
# gives (c52e2795..., b6e924de..., 6cd6e144...).
_VOC = "http://host.robots.ox.ac.uk/pascal/VOC"
_VOC07_TRAINVAL = Archive(
    f"{_VOC}/voc2007/VOCtrainval_06-Nov-2007.tar",
    460_032_000,
    "7d8cd951101b0957ddfd7a530bdc8a94f06121cfc1e511bb5937e973020c7508",
    (("VOCdevkit/VOC2007/", ""),),
)
_VOC07_TEST = Archive(
    f"{_VOC}/voc2007/VOCtest_06-Nov-2007.tar",
    451_020_800,
    "6836888e2e01dca84577a849d339fa4f73e1e4f135d312430c4856b5609b4892",
    (("VOCdevkit/VOC2007/", ""),),
)
_VOC12_TRAINVAL = Archive(
    f"{_VOC}/voc2012/VOCtrainval_11-May-2012.tar",
    1_999_639_040,
    "e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
    (("VOCdevkit/VOC2012/", ""),),
)
_VOC_LICENCE = "none of its own; the photos are under Flickr's terms of use"

# Sizes and sha256 of COCO: tensorflow/datasets url_checksums/coco.txt, the same in pytorch/vision's
# torchvision/prototype/datasets/_builtin/coco.py.
_COCO = "http://images.cocodataset.org"
_COCO_TRAIN = Archive(
    f"{_COCO}/zips/train2017.zip",
    19_336_861_798,
    "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
    (("train2017/", "train2017/"),),
)
_COCO_VAL = Archive(
    f"{_COCO}/zips/val2017.zip",
    815_585_330,
    "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
    (("val2017/", "val2017/"),),
)


def _coco_annotations(*names: str) -> Archive:
    """The boxes only: captions and key points are not read here."""
    return Archive(
        f"{_COCO}/annotations/annotations_trainval2017.zip",
        252_907_541,
        "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
        tuple((f"annotations/{name}", f"annotations/{name}") for name in names),
    )


_COCO_LICENCE = "annotations CC BY 4.0; the photos are under Flickr's terms of use"

# Sizes and sha256: tensorflow/datasets url_checksums/oxford_iiit_pet.txt, the same in pytorch/vision's
# torchvision/prototype/datasets/_builtin/oxford_iiit_pet.py.
_PETS = "https://www.robots.ox.ac.uk/~vgg/data/pets/data"
_PETS_IMAGES = Archive(
    f"{_PETS}/images.tar.gz",
    791_918_971,
    "67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d",
    (("images/", "JPEGImages/"),),
)
_PETS_LABELS = Archive(
    f"{_PETS}/annotations.tar.gz",
    19_173_078,
    "52425fb6de5c424942b7626b428656fcbd798db970a937df61750c0f1d358e91",
    (("annotations/xmls/", "Annotations/"),),
)

# `content` of the GitHub sets was computed from clones of the repositories at these commits: the kept files laid out
# as below in one folder, then in it
#   find . -type f -printf '%P\n' | LC_ALL=C sort | tr '\n' '\0' | xargs -0 sha256sum | sha256sum
CATALOGUE: dict[str, FreeSet] = {
    "voc2007": FreeSet(
        about="Pascal VOC 2007: 9,963 photos, 20 classes",
        form="voc",
        splits=("train", "val", "trainval", "test"),
        licence=_VOC_LICENCE,
        home="http://host.robots.ox.ac.uk/pascal/VOC/voc2007/",
        archives=(_VOC07_TRAINVAL, _VOC07_TEST),
        unpacked=911_052_800,
    ),
    "voc2012": FreeSet(
        about="Pascal VOC 2012: 11,540 photos with boxes, 20 classes; its test set has no public boxes",
        form="voc",
        splits=("train", "val", "trainval"),
        licence=_VOC_LICENCE,
        home="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
        archives=(_VOC12_TRAINVAL,),
        unpacked=1_999_639_040,
    ),
    # One folder: names of images differ (000001, 2008_000001), the split lists are put together. So trainval is the
    # "07+12" on which the SSD paper trains (section 3.1), and test is that of 2007.
    "voc0712": FreeSet(
        about="Pascal VOC 07+12 in one folder: trainval of both years (16,551 photos), test of 2007 (4,952)",
        form="voc",
        splits=("train", "val", "trainval", "test"),
        licence=_VOC_LICENCE,
        home="http://host.robots.ox.ac.uk/pascal/VOC/",
        archives=(_VOC07_TRAINVAL, _VOC07_TEST, _VOC12_TRAINVAL),
        unpacked=2_910_691_840,
        joined="ImageSets/",
    ),
    "coco2017": FreeSet(
        about="COCO 2017: 118,287 + 5,000 photos, 80 classes",
        form="coco",
        splits=("train", "val"),
        licence=_COCO_LICENCE,
        home="https://cocodataset.org/#download",
        archives=(_COCO_TRAIN, _COCO_VAL, _coco_annotations("instances_train2017.json", "instances_val2017.json")),
        unpacked=20_700_000_000,
    ),
    "coco2017-val": FreeSet(
        about="COCO 2017, val only: 5,000 photos, 80 classes",
        form="coco",
        splits=("val",),
        licence=_COCO_LICENCE,
        home="https://cocodataset.org/#download",
        archives=(_COCO_VAL, _coco_annotations("instances_val2017.json")),
        unpacked=840_000_000,
    ),
    "oxford-pets": FreeSet(
        about="Oxford-IIIT Pet: heads of cats and dogs in 3,686 photos, 2 classes (splits are made when it is read)",
        form="voc",
        splits=("train", "val", "trainval", "test"),
        licence="CC BY-SA 4.0",
        home="https://www.robots.ox.ac.uk/~vgg/data/pets/",
        archives=(_PETS_IMAGES, _PETS_LABELS),
        unpacked=830_000_000,
    ),
    "bccd": FreeSet(
        about="BCCD: blood cells in 364 micrographs, 3 classes",
        form="voc",
        splits=("train", "val", "trainval", "test"),
        licence="MIT",
        home="https://github.com/Shenggan/BCCD_Dataset",
        archives=(
            _github(
                "Shenggan/BCCD_Dataset",
                "d272fb14cdff6e473fafeeeba32aba5f560e9e43",
                8_000_000,
                (("BCCD/", ""), ("LICENSE", "LICENSE")),
            ),
        ),
        unpacked=8_802_003,
        content="59644a58a3258229e3d80fa24e74e158c7a9ee62395ee7d32618850f72bfd3e6",
    ),
    "raccoon": FreeSet(
        about="Raccoon: 200 photos, 1 class (splits are made when it is read)",
        form="voc",
        splits=("train", "val", "trainval", "test"),
        licence="MIT (the repository's; its photos come from Google and Pixabay)",
        home="https://github.com/datitran/raccoon_dataset",
        archives=(
            _github(
                "datitran/raccoon_dataset",
                "93938849301895fb73909842ba04af9b602f677a",
                20_000_000,
                (("annotations/", "Annotations/"), ("images/", "JPEGImages/"), ("LICENSE", "LICENSE")),
            ),
        ),
        unpacked=13_433_105,
        content="2517666d1beff392aa7c19cb65c26a014d90e5c137fbeb850b40254751b9f92a",
    ),
}
