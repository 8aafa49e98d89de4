"""The corpus: each case ends in a result, findings or an error of one line (see driver.py).

`SINGLESHOT_FUZZ=9500 python -m pytest tests/datasets/fuzz` runs 500 cases of each form, in ten minutes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("driver.py")
CASES = int(os.environ.get("SINGLESHOT_FUZZ", "150"))


@pytest.mark.timeout(1200)
def test_every_spoilt_data_set_ends_in_findings_or_a_line(tmp_path: Path) -> None:
    command = [sys.executable, DRIVER, "--case", f"0:{CASES}"]
    here = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=here)
    said = [json.loads(line) for line in done.stdout.splitlines()]
    results = [line for line in said if "case" in line]
    assert done.returncode == 0, f"ended at {said[-1:]}: {done.stderr[-3000:]}"
    assert len(results) == CASES
    faults = [(r["case"], r["form"], r["about"], r["faults"]) for r in results if r["faults"]]
    assert not faults, f"{len(faults)} of {CASES} cases, first: {faults[0]}"
    # A corpus that is refused at the door, or never refused, would say nothing.
    outcomes = [outcome for r in results for outcome in set(r["outcomes"])]
    for step in ("open", "read", "dataset", "sample", "convert", "strict", "shard", "repair"):
        assert outcomes.count(f"{step}: done") > 0.005 * CASES, step
    for step in ("open", "dataset", "sample", "convert", "strict"):
        assert outcomes.count(f"{step}: refused") > 0.005 * CASES, step


def test_a_fault_is_noticed(tmp_path: Path) -> None:
    """The driver itself: a case whose reader fails, writes outside and shows a secret has three faults."""
    script = tmp_path / "spoilt.py"
    script.write_text(
        "import sys; sys.path.insert(0, sys.argv.pop(1))\n"
        "import driver, pathlib\n"
        "def bad(trial):\n"
        "    pathlib.Path('new').write_text('x')\n"
        "    trial.look('read', driver.SECRET_TEXT)\n"
        "    trial.attempt('open', lambda: 1 / 0)\n"
        "driver.try_everything = bad\n"
        "driver.main()\n"
    )
    done = subprocess.run(
        [sys.executable, script, str(DRIVER.parent), "--case", "7"], capture_output=True, text=True, check=True
    )
    result = json.loads(done.stdout.splitlines()[-1])
    assert len(result["faults"]) >= 3
    for word in ("TOPSECRET", "ZeroDivision", "outside/new"):
        assert any(word in fault for fault in result["faults"]), word
