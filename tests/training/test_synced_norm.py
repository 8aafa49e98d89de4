"""Batch normalisation over processes, here one alone: what PyTorch's own layer does."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from singleshot.training.distributed import Launch, World
from singleshot.training.synced_norm import release_norms, synchronise_norms


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    store: Path = tmp_path_factory.mktemp("store") / "file"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield World(Launch(0, 1, 0, 1), torch.device("cpu"), None)
    dist.destroy_process_group()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(4, 6, 5, 7), (9, 6), (2, 6, 11)])
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"track_running_stats": False}, {"momentum": None}])
def test_values_gradients_and_statistics_are_those_of_the_layer(world: World, dtype, shape, options) -> None:
    torch.manual_seed(0)
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)]
    theirs = kind(6, **options)
    if theirs.affine:
        nn.init.uniform_(theirs.weight, 0.5, 1.5)
        nn.init.normal_(theirs.bias)
    if dtype is torch.float64:
        theirs = theirs.double()
    ours = copy.deepcopy(theirs)
    synchronise_norms(ours, world)
    x = (torch.randn(shape) * 2 + 30).to(dtype)  # a large mean, which sums of squares would lose
    above = torch.randn(shape).to(dtype)
    found = []
    for layer in (theirs, ours):
        image = x.clone().requires_grad_()
        for _ in range(2):
            out = layer(image)
            out.backward(above)
        weights = [one.grad for one in layer.parameters()]
        found.append([out.detach(), image.grad, *weights, *layer.buffers()])
    release_norms(ours)
    assert "forward" not in vars(ours)
    close = 2e-2 if dtype is torch.bfloat16 else 1e-4
    for a, b in zip(*found, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(b.double(), a.double(), rtol=close, atol=close)
