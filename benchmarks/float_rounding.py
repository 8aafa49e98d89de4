"""By how much the raw outputs of a model differ when nothing but the order of float32's sums does.

    python benchmarks/float_rounding.py MODEL.safetensors IMAGE... [--size 640] [--json]

The network alone on images stretched to --size: in float32 as PyTorch stores maps by default, in float32 with channels
last, and in float64. What another runtime's float32 gives can be no nearer than these are to each other.
"""

from __future__ import annotations

import argparse
import copy
import json

import cv2
import numpy as np
import torch
from torch import Tensor

from singleshot.models import SSD
from singleshot.weights.checkpoint import load_checkpoint


def outputs(model: SSD, image: Tensor) -> Tensor:
    """All offsets and logits in a row, float64; the model's own size does not matter to them."""
    with torch.inference_mode():
        normalised = (image - model.mean) / model.std
        maps = model.neck(list(model.backbone(normalised)))
        pairs = [head(x) for head, x in zip(model.heads, maps, strict=True)]
    return torch.cat([part.reshape(-1).double() for pair in pairs for part in pair])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("images", nargs="+")
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = load_checkpoint(args.model)[0]
    double = copy.deepcopy(model).double()
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    rows = []
    for path in args.images:
        pixels = cv2.resize(cv2.imread(path), (args.size, args.size))[:, :, ::-1]
        image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float()
        a, b = outputs(model, image), outputs(double, image.double())
        c = outputs(last, image.to(memory_format=torch.channels_last))
        found = {"to_float64": float((a - b).abs().max()), "to_channels_last": float((a - c).abs().max())}
        rows.append({"image": path, **found, "largest": float(b.abs().max())})
    if args.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(
            f"{row['image']}: float32 to float64 {row['to_float64']:.2g}, to float32 with channels last"
            f" {row['to_channels_last']:.2g}; largest output {row['largest']:.3g}"
        )


if __name__ == "__main__":
    main()
