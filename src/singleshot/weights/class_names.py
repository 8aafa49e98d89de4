"""Class names that checkpoints of other projects take for granted, in the order of their outputs."""

from __future__ import annotations

from collections.abc import Sequence

_VOC = (
    "aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse, motorbike, "
    "person, pottedplant, sheep, sofa, train, tvmonitor"
)
_COCO = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, "
    "parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, "
    "handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, "
    "skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, "
    "sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, "
    "dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, "
    "refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush"
)
# What lists of classes call the background, in lower case; none_of_the_above: Caffe's label maps, unlabeled: NVIDIA's.
BACKGROUND = frozenset({
    "background", "__background__", "_background_", "bg", "__bg__", "none_of_the_above", "unlabeled", "unlabelled",
})  # fmt: skip
VOC, COCO = tuple(_VOC.split(", ")), tuple(_COCO.split(", "))

# What VOC calls a class -> what COCO calls the same objects.
_VOC_AS_COCO = {
    "aeroplane": "airplane", "diningtable": "dining table", "motorbike": "motorcycle", "pottedplant": "potted plant",
    "sofa": "couch", "tvmonitor": "tv",
}  # fmt: skip

# COCO numbers its 80 classes from 1 to 90 with gaps; torchvision and TensorFlow's API keep outputs for the gaps.
_COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)


def coco_by_number() -> tuple[str, ...]:
    """90 names, those of the gaps "unused 12" and the like."""
    names = iter(COCO)
    return tuple(f"unused {n}" if n in _COCO_GAPS else next(names) for n in range(1, 91))


def coco_ids(names: Sequence[str]) -> dict[str, int] | None:
    """COCO's own number of each name where these are its 80 classes, with or without the gaps; else None."""
    numbers = {name: number for number, name in enumerate(coco_by_number(), 1)}
    return {name: numbers[name] for name in names} if set(COCO) <= set(names) <= set(numbers) else None


def usual_names(count: int) -> tuple[str, ...] | None:
    """The names of a data set with so many classes that everybody trains on; None when there is none."""
    return {20: VOC, 80: COCO, 90: coco_by_number()}.get(count)


def numbered_names(count: int) -> tuple[str, ...]:
    """class 1, class 2, ...: for classes that nobody names."""
    return tuple(f"class {i}" for i in range(1, count + 1))


def without_background(names: Sequence[str], count: int) -> tuple[str, ...]:
    """The names without a leading "background", where there are `count` only then."""
    shortened = len(names) == count + 1 and names[0].lower() in BACKGROUND
    return tuple(names[1:] if shortened else names)


def plain_name(name: str) -> str:
    """A name as it is compared where no other is the same letter by letter: "Dining_Table" and VOC's "diningtable" are
    COCO's "dining table"; letter case, spaces, "-" and "_" set aside."""
    letters = "".join(name.casefold().split()).replace("-", "").replace("_", "")
    return _VOC_AS_COCO.get(letters, letters).replace(" ", "")
