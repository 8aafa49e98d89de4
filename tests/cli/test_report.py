"""`singleshot report`."""

from __future__ import annotations

import json


def test_compares_runs(run, trained, tmp_path) -> None:
    done = run("report", trained, trained, "--out", tmp_path / "both.html", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"page": str(tmp_path / "both.html"), "runs": [str(trained)] * 2}
    assert (tmp_path / "both.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_folder_without_a_run_is_one_line(refused, tmp_path) -> None:
    assert "no run, run.json is not there" in refused("report", tmp_path)
