"""Turns: what may take long never takes all threads for long."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest

from ml_backend.turns import NoTurn, Turns


def test_who_comes_while_all_turns_are_taken_gets_the_first_that_is_given_back() -> None:
    turns = Turns(1)
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with turns.turn():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(10)
    threading.Timer(0.05, leave.set).start()
    with turns.turn():
        assert leave.is_set()
    thread.join()


def test_once_one_is_held_for_longer_than_a_second_the_others_are_refused_at_once() -> None:
    turns = Turns(2)
    with turns.turn():
        time.sleep(1.1)
        with turns.turn():
            began = time.monotonic()
            for _ in range(100):
                with pytest.raises(NoTurn, match="2 are at it"), turns.turn():
                    pass
            assert time.monotonic() - began < 10, "a hundred turns that nobody waited for"
    with turns.turn(), turns.turn():
        pass


def test_what_fails_gives_its_turn_back() -> None:
    turns = Turns(1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), turns.turn():
            _ = 1 / 0


def test_without_a_number_there_is_a_turn_for_everybody() -> None:
    turns = Turns()
    with contextlib.ExitStack() as many:
        for _ in range(100):
            many.enter_context(turns.turn())
