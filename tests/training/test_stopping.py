"""Signals are noted and raised where it is safe."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from singleshot.training.stopping import StopRequest

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_waits_for_check_and_the_second_does_not(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), StopRequest() as stop:
        stop.check()
        os.kill(os.getpid(), number)
        assert stop.asked  # and nothing was raised
        with pytest.raises(KeyboardInterrupt):
            stop.check()
        os.kill(os.getpid(), number)
        pytest.fail("the second signal was swallowed")
    assert signal.getsignal(number) is before


def test_a_signal_that_is_passed_on_at_once_counts_as_one() -> None:
    with StopRequest(apart=60.0) as stop:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
        assert not stop.twice
    with pytest.raises(KeyboardInterrupt), StopRequest(apart=1e-9):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)


def test_outside_the_main_thread_nothing_is_touched() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with StopRequest() as stop:
            seen.append((signal.getsignal(signal.SIGINT), stop.asked))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, False)]


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals")
def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            stop.check()
            assert not stop.asked
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.skipif(not hasattr(signal, "SIGCHLD"), reason="signals")
def test_a_childs_end_interrupts_no_step() -> None:
    def died(number: int, frame: object) -> None:
        raise RuntimeError("DataLoader worker")

    before = signal.signal(signal.SIGCHLD, died)
    try:
        with StopRequest() as stop:
            stop.ignore_children()
            stop.ignore_children()
            os.kill(os.getpid(), signal.SIGCHLD)
            stop.check()
        assert signal.getsignal(signal.SIGCHLD) is died
    finally:
        signal.signal(signal.SIGCHLD, before)
