"""One heap for all threads of a process, and what is free in it goes back to the system: seen in real processes."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="nothing is told to other C libraries")

_THREADS = """
import ctypes, os, sys, threading
from ml_backend import heap
if sys.argv[1] == "shared":
    heap.share(os.environ)
all_there = threading.Barrier(4)
def work():
    held = bytearray(10_000)
    all_there.wait(30)
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
ctypes.CDLL(None).malloc_stats()
"""

_HOLES = """
from ml_backend import heap
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 1024
before = resident()
blocks = [bytearray(10_000) for _ in range(4_000)]
kept = blocks[::50]
del blocks
full = resident()
heap.give_back()
print(full - before, resident() - before)
"""


def output_of(program: str, *arguments: str, **told: str) -> str:
    """What a process of its own prints, on whatever stream."""
    argv = [sys.executable, "-c", program, *arguments]
    given = {**{name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}, **told}
    done = subprocess.run(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=True, env=given
    )
    return done.stdout


def test_threads_share_one_heap_once_they_are_told_to() -> None:
    assert output_of(_THREADS, "by itself").count("Arena ") > 1
    assert output_of(_THREADS, "shared").count("Arena ") == 1


def test_the_operator_may_say_how_many_heaps_there_are() -> None:
    assert output_of(_THREADS, "shared", MALLOC_ARENA_MAX="3").count("Arena ") == 3


def test_what_is_free_between_what_is_kept_goes_back_to_the_system() -> None:
    full, given_back = map(float, output_of(_HOLES).split())
    assert full > 30
    assert given_back < full / 2
