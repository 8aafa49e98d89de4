"""A detector in other processes: pickled, and inherited by a fork."""

from __future__ import annotations

import os
import pickle
import signal

import numpy as np
import pytest

import singleshot
from singleshot.errors import CheckpointError, ConfigError
from singleshot.inputs import InputSpec
from singleshot.runtime import Detector

FILES = {"openvino": "model.onnx", "onnxruntime": "raw.onnx", "torch": "model.safetensors"}


def same(one, other) -> bool:
    return one.names == other.names and np.allclose(one.boxes, other.boxes, atol=0.01) and len(one) > 0


@pytest.mark.parametrize("engine", FILES)
def test_pickled_it_detects_the_same(exported, scene, engine, tmp_path, monkeypatch):
    monkeypatch.chdir(exported(FILES[engine]).parent)
    detector = singleshot.load(FILES[engine], engine=engine, threads=1, classes={"cone": ["cone"], "round": ["ball"]})
    detector.score_min = 0.2
    stored = pickle.dumps(detector)
    assert len(stored) < 10_000  # by its path: no weights
    monkeypatch.chdir(tmp_path)
    again = pickle.loads(stored)
    assert (again.score_min, again.class_names, again.engine.name) == (0.2, ("cone", "round"), engine)
    assert same(again.detect(scene()), detector.detect(scene()))
    assert same(pickle.loads(pickle.dumps(again)).detect(scene()), detector.detect(scene()))


def test_a_model_file_that_is_gone_is_named(exported, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(exported("model.onnx").read_bytes())
    stored = pickle.dumps(singleshot.load(path, engine="onnxruntime"))
    path.unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        pickle.loads(stored)


class Nothing:
    """An engine of somebody's own."""

    def __call__(self, images):
        from singleshot.records import ImageDetections

        return [ImageDetections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))] * len(images)


def test_an_engine_of_ones_own_is_pickled_itself():
    detector = pickle.loads(pickle.dumps(Detector(Nothing(), InputSpec(), ("a",))))
    assert len(detector.detect(np.zeros((4, 4, 3), np.uint8))) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="signals")
@pytest.mark.parametrize("engine", FILES)
def test_after_a_fork_it_detects_the_same_or_says_why_not(exported, scene, engine):
    detector = singleshot.load(exported(FILES[engine]), engine=engine, threads=2)
    wanted = detector.detect(scene())
    detector.detect([scene(1)] * 20)  # its threads are at work once
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(25)  # a hang ends
        try:
            good = same(detector.detect(scene()), wanted)
            good = good and all(same(one, wanted) for one in detector.detect([scene()] * 4))
        except ConfigError as error:
            good = engine == "openvino" and "spawn" in str(error)  # which hangs: better a line
        os._exit(0 if good else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert same(detector.detect(scene()), wanted)  # and the parent goes on
