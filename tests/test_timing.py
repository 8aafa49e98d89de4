"""The timer takes turns, and what prepares does not count."""

from __future__ import annotations

import time

from singleshot.timing import seconds_of, time_in_turns


def test_every_round_calls_all_in_turn_and_warm_ones_do_not_count() -> None:
    calls: list[str] = []
    runs = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    seconds = time_in_turns(runs, rounds=3, warmup=2, wait=lambda: calls.append("wait"))
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}
    assert all(value >= 0 for values in seconds.values() for value in values)
    assert calls == ["wait", "a", "wait", "wait", "b", "wait"] * 5


def test_waiting_for_what_was_queued_counts() -> None:
    waits = iter((0.0, 0.05))
    assert seconds_of(lambda: time.sleep(0.02), lambda: time.sleep(next(waits))) >= 0.07
