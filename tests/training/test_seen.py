"""What is kept of a training batch to be shown."""

from __future__ import annotations

import torch

from singleshot.records import Batch
from singleshot.training.seen import seen_images


def test_images_are_copies_with_their_objects_and_regions_without_padding() -> None:
    images = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).reshape(2, 3, 4, 5)
    box, no_box = [0.25, 0.0, 0.5, 1.0], [0.0] * 4
    boxes, labels = torch.tensor([[box, no_box], [no_box, no_box]]), torch.tensor([[2, -1], [-1, -1]])
    batch = Batch(images, boxes, labels, torch.arange(2), ("a", "b"))
    assert [one.ignored for one in seen_images(batch)] == [None, None]
    first, second = seen_images(batch._replace(ignored=torch.tensor([[no_box, no_box], [box, no_box]])))
    assert (first.boxes.tolist(), first.labels.tolist(), first.ignored.tolist()) == ([box], [2], [])
    assert (second.boxes.tolist(), second.labels.tolist(), second.ignored.tolist()) == ([], [], [box])
    want = images[1].permute(1, 2, 0).numpy().copy()
    images.zero_()
    assert (second.image == want).all()
    assert len(seen_images(batch, most=1)) == 1
