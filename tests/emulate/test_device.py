"""A device holds what fits."""

import pytest
import torch
from torch import nn

from mpsim.emulate import Device
from mpsim.emulate.capture.cut import capture
from mpsim.emulate.parts import make_parts
from mpsim.errors import MpsimError
from mpsim.workload.example import Example


def test_parts_are_allocated_and_released():
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10))
    first, last = make_parts(capture(Example(model=model, inputs=(torch.ones(2, 10),))), model, (1,))
    device = Device("gpu", "1 KiB")
    device.allocate(first)
    device.allocate(last)
    assert (device.used_bytes, device.free_bytes, device.parts) == (880, 144, (first, last))
    device.release(first)
    assert (device.used_bytes, device.parts) == (440, (last,))
    assert repr(device) == "Device('gpu', 440 B of 1 KiB used)"


def test_a_tied_weight_takes_up_memory_once():
    embed, head = nn.Embedding(8, 8), nn.Linear(8, 8, bias=False)
    head.weight = embed.weight
    device = Device("gpu", 256)
    device.allocate(nn.Sequential(embed, head))
    assert device.free_bytes == 0


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda device: device.allocate(nn.Linear(100, 100)),
         "device gpu: Linear takes 39.5 KiB, 20 KiB of 20 KiB are free: release one, or split finer"),
        (lambda device: device.release(nn.Linear(2, 2)), "device gpu does not hold Linear, it holds nothing"),
        (lambda device: Device("gpu", "20"), "memory of device gpu '20' has no unit"),
        (lambda device: Device("gpu", 0), "device gpu has a memory of 0 bytes"),
        (lambda device: Device("gpu", -1), "device gpu has a memory of -1 bytes"),
        (lambda device: Device("cuda:99", "1 GiB"), "device cuda:99 was asked for, PyTorch finds"),
    ],
)  # fmt: skip
def test_what_does_not_work_is_said(act, message):
    with pytest.raises(MpsimError) as error:
        act(Device("gpu", "20 KiB"))
    assert message in str(error.value)


def test_twice_is_refused():
    device, layer = Device("gpu", "1 MiB"), nn.Linear(2, 2)
    device.allocate(layer)
    with pytest.raises(MpsimError, match="holds Linear already"):
        device.allocate(layer)
