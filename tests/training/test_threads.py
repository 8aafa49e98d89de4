"""The number of threads decides the order of sums: a run that goes on keeps it."""

from __future__ import annotations

from pathlib import Path

import torch

from singleshot.training.checkpoints import STATE
from singleshot.training.reports import Reporter


class StopsAfterAnEpoch(Reporter):
    def on_epoch(self, row) -> None:
        raise KeyboardInterrupt


def test_a_resumed_run_has_as_many_threads_as_before(trainer_of, tmp_path: Path) -> None:
    own = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        trainer_of(tmp_path / "one", epochs=2).run()
        stopped = trainer_of(tmp_path / "two", epochs=2)
        stopped.reporters.append(StopsAfterAnEpoch())
        assert stopped.run().interrupted
        torch.set_num_threads(2)
        trainer = trainer_of(tmp_path / "two", epochs=2)
        assert torch.get_num_threads() == 1
        trainer.run()
    finally:
        torch.set_num_threads(own)
    assert (tmp_path / "one" / STATE).read_bytes() == (tmp_path / "two" / STATE).read_bytes()
