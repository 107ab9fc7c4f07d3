"""The assumption under the CPU clock, and the passes that it times."""

import threading

import torch

from mpsim.workload.clock import CpuClock


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


def test_clock_counts_marks_by_its_names():
    assert CpuClock(1).between((1.0, 10.0), (1.5, 12.0)) == (0.5, 2.0)
    assert CpuClock(2).between((1.0, 10.0), (1.5, 12.0)) == (2.0,)
