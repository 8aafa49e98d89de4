"""The page of a training and of an evaluation, and what happens where it cannot be written."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
from markupsafe import escape

from singleshot.api.evaluate import EvaluateOptions, run_evaluation
from singleshot.api.explain import Explainer
from singleshot.api.report import ReportOptions, report
from singleshot.api.run_page import write_evaluation_page, write_training_page
from singleshot.datasets import open_dataset
from singleshot.errors import ConfigError
from singleshot.report import page, run_files
from singleshot.report.explained_section import explained_section


def test_a_training_leaves_its_page(run) -> None:
    html = (run.folder / "report.html").read_text(encoding="utf-8")
    for anchor in (
        "course",
        "classes",
        "curves",
        "confusion",
        "sizes",
        "errors",
        "labels",
        "batch",
        "data",
        "settings",
    ):
        assert f'id="{anchor}"' in html
    assert len(html) < page.MAX_BYTES
    assert "singleshot train" in html
    figures = json.loads((run.folder / "eval.json").read_text())
    assert figures["split"] == "val"
    assert figures["mean_ap"] == pytest.approx(run.metrics["val_map50"], abs=1e-6)
    assert figures["run"]["parameters"] > 1e6
    assert figures["run"]["gflops"] > 1


@pytest.mark.parametrize("error", [RuntimeError("no\npage"), ConfigError("no page"), MemoryError("no page")])
def test_a_page_that_fails_is_one_warning(error, tmp_path, monkeypatch, caplog) -> None:
    def broken(_: object) -> None:
        raise error

    monkeypatch.setattr(run_files, "read_run", broken)
    trainer = SimpleNamespace(settings=SimpleNamespace(out=tmp_path), model=None)
    with caplog.at_level(logging.WARNING, "singleshot"):
        write_training_page(trainer, None)
    (line,) = [one.getMessage() for one in caplog.records]
    assert "the run is saved, but report.html is not" in line
    assert "page" in line
    assert "\n" not in line
    assert list(tmp_path.iterdir()) == []


def test_a_stop_while_the_page_is_written_is_none_of_the_training(tmp_path, monkeypatch, caplog) -> None:
    def stopped(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_files, "read_run", stopped)
    write_training_page(SimpleNamespace(settings=SimpleNamespace(out=tmp_path), model=None), None)
    assert "singleshot report writes it" in caplog.text


def test_one_run_is_evaluated_again(run, tmp_path) -> None:
    assert report(run.folder, out=tmp_path / "out", split="test", device="cpu") == tmp_path / "out" / "report.html"
    figures = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert figures["split"] == "test"
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert 'id="course"' in html  # of the run that the model lies in
    assert 'id="batch"' not in html


def test_the_errors_that_are_explained_are_those_of_the_evaluation(run, scenes) -> None:
    options = EvaluateOptions(str(run.best), str(scenes), "test", device="cpu")
    errors = run_evaluation(options).evaluation.errors
    dataset, explainer = open_dataset(scenes, "test"), Explainer(run.best, "cpu")
    seen = []

    def explain(image, truth):
        seen.append(explainer.explain(image, truth, gradients=0))
        assert len(truth.boxes) == len(seen[-1].objects)
        return seen[-1]

    names = explainer.detector.class_names
    section = explained_section(errors, dataset, names, explain)
    assert section.anchor == "explain"
    assert section.body.count("<img") > 0
    causes = {cause.why for one in seen for found in one.objects for cause in found.causes}
    assert any(str(escape(why)) in section.body for why in causes)
    # A class that the model does not have is none of its misses.
    section = explained_section(errors, dataset, ["another"], explain)
    assert section is None or "missed: object" not in section.body


@pytest.mark.parametrize(("mean_ap", "there"), [(0.5, True), (0.04, False), (float("nan"), False)])
def test_errors_of_a_model_that_finds_next_to_nothing_are_not_explained(mean_ap, there, run, scenes, tmp_path) -> None:
    done = run_evaluation(EvaluateOptions(str(run.best), str(scenes), "test", device="cpu"))
    done = done._replace(evaluation=replace(done.evaluation, mean_ap=mean_ap))
    write_evaluation_page(done, open_dataset(scenes, "test"), tmp_path, {})
    assert ('id="explain"' in (tmp_path / "report.html").read_text(encoding="utf-8")) == there
    write_evaluation_page(done, open_dataset(scenes, "test"), tmp_path, {}, tiled=True)
    assert 'id="explain"' not in (tmp_path / "report.html").read_text(encoding="utf-8")  # it explains whole images


def test_images_that_are_gone_are_not_explained(run, scenes, tmp_path) -> None:
    copy = tmp_path / "scenes"
    shutil.copytree(scenes, copy)
    errors = run_evaluation(EvaluateOptions(str(run.best), str(copy), "test", device="cpu")).evaluation.errors
    dataset = open_dataset(copy, "test")
    shutil.rmtree(copy)

    def explain(image, truth):
        raise AssertionError("there is no image")

    assert explained_section(errors, dataset, dataset.class_names, explain) is None


def test_errors_as_files(run, scenes, tmp_path) -> None:
    options = EvaluateOptions(str(run.best), str(scenes), "test", errors=str(tmp_path / "errors"), device="cpu")
    run_evaluation(options)
    assert (tmp_path / "errors" / "errors.csv").is_file()
    with pytest.raises(ConfigError, match="--errors"):
        run_evaluation(options)


def test_runs_next_to_each_other(run, tmp_path) -> None:
    assert report([run.folder, run.folder], out=tmp_path / "both.html") == tmp_path / "both.html"
    assert "2 runs" in (tmp_path / "both.html").read_text(encoding="utf-8")
    assert report([run.folder, run.folder], out=tmp_path) == tmp_path / "comparison.html"


def test_mistakes(run, tmp_path) -> None:
    with pytest.raises(ConfigError, match="of which run"):
        ReportOptions(())
    with pytest.raises(ConfigError, match="several are compared"):
        ReportOptions(("a", "b"), split="test")
    with pytest.raises(ConfigError, match="no run"):
        report(tmp_path)
    with pytest.raises(ConfigError, match="ends in"):
        report([run.folder, run.folder], out=tmp_path / "both.pdf")
