"""Traces of models in the shapes that people train, each held against one plain PyTorch step of the same model.

The bytes of parameters, which of them get a gradient, the bytes kept for backward (within 1 %), what a trace leaves of
the model, and the layers that could be placed. How near the sum of layers is to the step is printed, not judged.
"""

import pytest
from traced_models import plain
from traced_models.controls import CONTROLS
from traced_models.hugging_face import TRANSFORMERS
from traced_models.more import MORE
from traced_models.numbered import NUMBERED
from traced_models.timm_models import TIMM

from mpsim.errors import MpsimError

pytestmark = pytest.mark.usefixtures("timed_once")

REFUSED = {  # what cannot be traced, and what the one line must say
    "23 sparse_gradients": "does not support sparse gradients.*sgd or sparse-adam",
    "functorch_gradient_in_forward": r"torch.func.*hooks.*torch\.autograd\.grad",
    "branch_by_cond": r"torch\.cond cannot be watched.*if, while",
    "llama flex attention": "FlexAttention does not support backward on CPU",
}
FAST_CONTROLS = (
    "skip_over_layers", "tied_ends", "one_block_four_times", "low_rank_adapters", "experts_on_all_rows", "gru",
    "two_losses", "mixed_types", "parameter_list", "spectral_norm", "stopped_targets", "variational_autoencoder",
)  # fmt: skip
FAST_MORE = (
    "gradient_penalty_in_the_loss", "backward_inside_forward", "reentrant_checkpoint_over_several_layers",
    "depth_drawn_by_an_own_generator", "bank_in_a_plain_tensor", "input_normed_in_place", "lazy_modules", "jagged_rows",
)  # fmt: skip


def parameters(cases, fast=()):
    return [pytest.param(name, id=name, marks=() if name in fast else pytest.mark.slow) for name in cases]


def hold(name, case):
    if name in REFUSED:
        with pytest.raises(MpsimError, match=REFUSED[name]) as caught:
            plain.traced(case.make)
        assert "\n" not in str(caught.value)
    else:
        assert plain.faults(case) == []


@pytest.mark.parametrize("name", NUMBERED)
def test_numbered(name):
    if name.split()[0] in ("01", "49"):
        pytest.importorskip("transformers")
    hold(name, NUMBERED[name])


@pytest.mark.parametrize("name", parameters(CONTROLS, FAST_CONTROLS))
def test_controls(name):
    hold(name, CONTROLS[name])


@pytest.mark.parametrize("name", parameters(MORE, FAST_MORE))
def test_more(name):
    hold(name, MORE[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers(name):
    pytest.importorskip("transformers").logging.set_verbosity_error()
    hold(name, TRANSFORMERS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_timm(name):
    pytest.importorskip("timm")
    hold(name, TIMM[name])


def test_another_optimizer_takes_sparse_gradients():
    workload, moved = plain.traced(NUMBERED["23 sparse_gradients"].make, optimizer="sgd")
    assert [layer.shard().gradient_bytes for layer in workload.layers] == [64_000, 4 * (16 * 8 + 8), 4 * (8 * 4 + 4)]
    assert moved == []
