"""What the kernel says of processes, against what they are known to do."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time

import pytest

from benchmarks.processes import Others, cpu_ns, kernel_ns, memory_mb

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="all of it is read from /proc")

SECONDS = 0.3


def spin(seconds: float = SECONDS) -> None:
    """Use so much CPU, however long that takes."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_cpu_is_that_of_the_process_in_nanoseconds() -> None:
    before = cpu_ns(os.getpid())
    spin()
    assert (cpu_ns(os.getpid()) - before) / 1e9 == pytest.approx(SECONDS, rel=0.5)


def test_the_kernels_part_is_that_of_system_calls() -> None:
    before, whole = kernel_ns(os.getpid()), cpu_ns(os.getpid())
    assert sum(number * number for number in range(4_000_000)) > 0  # without a system call
    computing = kernel_ns(os.getpid()) - before
    assert computing <= (cpu_ns(os.getpid()) - whole) / 2
    spin()  # asks the kernel for the time, again and again
    assert kernel_ns(os.getpid()) - before > computing


def test_memory_grows_by_what_is_written_to() -> None:
    before = memory_mb(os.getpid())
    block = bytearray(b"x") * (64 << 20)
    assert memory_mb(os.getpid()) - before == pytest.approx(64, abs=16)
    assert len(block) == 64 << 20


def test_what_this_program_and_its_children_use_is_not_that_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    others = Others()
    child = multiprocessing.get_context("spawn").Process(target=spin)
    child.start()
    spin()
    child.join()
    with_ours = others.share()
    monkeypatch.setattr(os, "times", lambda: (0.0, 0.0, 0.0, 0.0, 0.0))
    assert 0 <= with_ours < others.share()
