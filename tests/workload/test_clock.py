"""The assumption under the CPU clock, and what it tells."""

import threading
import time

import torch

from mpsim.workload.clock import CpuClock, CudaClock, clock_for


def test_backward_on_a_cpu_runs_in_the_calling_thread():
    seen = []

    class Watch(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, gradient):
            seen.append(threading.get_ident())
            return gradient * 2

    Watch.apply(torch.ones(2, requires_grad=True)).sum().backward()
    assert seen == [threading.get_ident()]


def test_a_piece_is_told_by_the_clocks_names(monkeypatch):
    thread_s, wall_s = iter([1.0, 1.5] * 2), iter([10.0, 12.0] * 2)
    monkeypatch.setattr(time, "thread_time", lambda: next(thread_s))
    monkeypatch.setattr(time, "perf_counter", lambda: next(wall_s))
    for threads, expected in ((1, (0.5, 2.0)), (2, (2.0,))):
        clock = CpuClock(threads)
        piece = clock.end(clock.start("forward"))
        clock.finish()
        assert clock.seconds(piece) == expected


def test_whole_is_by_the_clock_that_counts(monkeypatch):
    thread_s, wall_s = iter([1.0, 1.5] * 2), iter([10.0, 12.0] * 2)
    monkeypatch.setattr(time, "thread_time", lambda: next(thread_s))
    monkeypatch.setattr(time, "perf_counter", lambda: next(wall_s))
    ran = []
    assert CpuClock(1).whole_s(lambda: ran.append(1)) == 0.5
    assert CpuClock(2).whole_s(lambda: ran.append(1)) == 2.0
    assert ran == [1, 1]


def test_a_device_has_two_clocks_and_a_cpu_one():
    assert (CudaClock.names, CudaClock.two) == (("cuda-kernel", "host"), True)
    assert isinstance(clock_for("cuda", 1), CudaClock)
    assert not clock_for("cpu", 1).two
