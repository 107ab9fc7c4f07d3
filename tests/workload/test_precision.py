"""Precisions by name, and the roofline of each on devices of the catalog."""

import subprocess
import sys

import pytest

from mpsim.cli.trace import _roofline
from mpsim.errors import MpsimError
from mpsim.topology.catalog import device_names
from mpsim.workload.precision import PRECISIONS, precision, product_rate, watched_dtype


def test_names_are_those_that_the_workload_file_knows():
    mixed = {f"{kind}-mixed" for kind in ("bf16", "fp16", "fp8", "mxfp8", "nvfp4")}
    assert set(PRECISIONS) == {"fp32", "tf32", "bf16", "fp16"} | mixed
    assert all(name == each.name for name, each in PRECISIONS.items())


def test_what_is_watched_is_what_pytorch_runs():
    assert {watched_dtype(each) for each in PRECISIONS.values()} == {"float32", "bfloat16", "float16"}


@pytest.mark.parametrize(
    ("device", "name", "dtype", "peak"),
    [
        ("H100-SXM5-80GB", "fp32", "float32", 67e12),
        ("H100-SXM5-80GB", "tf32", "float32", 494.5e12),
        ("H100-SXM5-80GB", "bf16-mixed", "bfloat16", 989e12),
        ("H100-SXM5-80GB", "fp8-mixed", "float8_e4m3fn", 1979e12),
        ("B200-SXM", "mxfp8-mixed", "float8_e4m3fn", 4500e12),
        ("B200-SXM", "nvfp4-mixed", "float4_e2m1fn_x2", 9000e12),
    ],
)
def test_products_at_the_rate_of_the_catalog(device, name, dtype, peak):
    spec = _roofline(device, name)
    assert spec.peak_flops_per_s[dtype] == peak
    assert spec.linear_dtype == ("" if dtype == watched_dtype(precision(name)) else dtype)


@pytest.mark.parametrize(
    ("device", "name", "message"),
    [
        ("V100-SXM2-32GB", "bf16", "no bfloat16 peak for V100-SXM2-32GB, it has float64, float32, float16: choose"),
        ("V100-SXM2-32GB", "tf32", "no tf32 peak for V100-SXM2-32GB"),
        ("A100-SXM4-80GB", "fp8-mixed", "no float8_e4m3fn peak for A100-SXM4-80GB"),
        ("H100-SXM5-80GB", "mxfp8-mixed", "no mxfp8 peak for H100-SXM5-80GB"),
        ("MI355X", "nvfp4-mixed", "no nvfp4 peak for MI355X"),
        ("TPUv5p", "fp32", "no float32 peak for TPUv5p, it has bfloat16, int8"),
        ("B200-SXM", "nvfp4", "unknown precision 'nvfp4'; did you mean 'nvfp4-mixed'"),
    ],
)
def test_a_device_without_the_rate_names_what_it_has(device, name, message):
    with pytest.raises(MpsimError, match=message) as caught:
        _roofline(device, name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", device_names())
def test_every_device_has_a_roofline_at_some_precision(device):
    def made(name):
        try:
            return _roofline(device, name)
        except MpsimError:
            return None

    assert any(made(name) for name in PRECISIONS)
    assert product_rate(precision("tf32")) == "tf32"


def test_nothing_of_torch_is_imported():
    code = "import sys, mpsim.workload.precision; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
