"""What layers hold, keep and send, worked by hand."""

import pytest
import small_models as models
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from mpsim.workload.account import Account, memory_of, norm
from mpsim.workload.example import Example
from mpsim.workload.feeds import feeds_of
from mpsim.workload.judge import differences, judging
from mpsim.workload.roofline import Roofline
from mpsim.workload.state import Restore
from mpsim.workload.step import step_of
from mpsim.workload.watch import Watch, calls_of


def accounted(model, *inputs, target=None, loss=None, depth="auto", **keywords):
    example = Example(model=model, inputs=inputs, keywords=keywords, target=target, loss=loss)
    step, counter = step_of(example), Roofline()
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    restore = Restore(model)
    with judging(parameters, buffers) as plain:
        calls = calls_of(model, step, depth)
    restore()
    model.zero_grad()
    account = Account(len(calls), parameters, buffers, feeds_of(example), lambda: counter.flops)
    with account, counter:
        Watch(model, calls, account).run(step)
    model.zero_grad()
    assert differences(plain, account) == ()
    return account, [call.name for call in calls]


def edges(account):
    """(producer, readers, shape, whether a gradient comes back) of what goes between layers, in the order made."""
    return [
        (v.producer, sorted(v.readers), v.shape, v.sent_back) for v in account.values if v.readers and v.producer >= 0
    ]


class Model(nn.Module):
    """Linears of width 4 called a, b, c; `run` is the forward."""

    def __init__(self, run):
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))
        self.run = run

    def forward(self, x):
        return self.run(self, x)


ROWS = torch.rand(2, 4)


def test_mlp_by_hand():
    """Batch 3, sizes 6-5-4: fc1 keeps its input and the ReLU's output, which fc2 reads too and does not count again."""
    account, _ = accounted(models.Functional(), torch.rand(3, 6), target=torch.tensor([0, 1, 2]), loss=F.nll_loss)
    fc1, fc2 = account.layers
    assert fc1.saved_bytes == 4 * (3 * 6 + 3 * 5)
    assert fc2.saved_bytes == 4 * 3 * 4 + 8 * 3 + 4  # the log-softmax, the labels, and the loss's total weight
    assert (fc1.flops, fc2.flops) == (2 * 3 * 6 * 5, 2 * 3 * 5 * 4)
    assert (fc1.gradients, fc2.gradients) == (["fc1.bias", "fc1.weight"], ["fc2.bias", "fc2.weight"])
    assert edges(account) == [(0, [1], (3, 5), True)]
    (relu,) = [value for value in account.values if value.readers and value.producer == 0]
    assert (relu.name, relu.saved_by) == ("relu", 0)


def test_layers_sum_to_the_whole_model_at_any_depth():
    torch.manual_seed(0)
    totals = set()
    for depth in ("auto", 0, 1, 2):
        account, _ = accounted(models.SmallUNet(), torch.rand(2, 1, 8, 8), depth=depth)
        totals.add((sum(one.saved_bytes for one in account.layers), sum(one.flops for one in account.layers)))
    assert len(totals) == 1


def test_running_statistics_are_state_and_not_kept():
    account, _ = accounted(nn.Sequential(nn.BatchNorm1d(4)), torch.rand(3, 4))
    assert account.layers[0].saved_bytes == 4 * (3 * 4 + 2 * 4)  # the input, the batch's mean and inverse deviation
    assert sorted(account.layers[0].buffers) == ["0.running_mean", "0.running_var"]  # the count is only written


def test_tied_gradient_is_listed_in_both_layers():
    account, _ = accounted(models.Tied(), torch.randint(0, 7, (2, 5)))
    assert account.layers[0].gradients == account.layers[-1].gradients == ["embed.weight"]


def test_attention_is_counted():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x):
            q = x * self.scale
            return F.scaled_dot_product_attention(q, q, q, is_causal=True)

    account, _ = accounted(nn.Sequential(Attention()), torch.rand(2, 4, 128, 16))
    assert account.layers[0].flops == 2 * (2 * 2 * 4 * 128 * 128 * 16)


def test_views_are_edges_of_their_own():
    """c reads half of what a makes: that half goes there, and all of it to b."""

    def run(m, x):
        h = m.a(x)
        left = h[:, :2]
        return m.c(torch.cat([left, m.b(h)[:, :2]], 1))

    account, _ = accounted(Model(run), ROWS)
    # The cut is made between b and c: there `left` is joined, which is b's stretch.
    assert edges(account) == [(0, [1], (2, 4), True), (0, [1], (2, 2), True), (1, [2], (2, 4), True)]


def test_chunks_go_where_they_are_read():
    def run(m, x):
        one, two = m.a(x).chunk(2)
        return m.c(torch.cat([m.b(one), two]))

    account, _ = accounted(Model(run), ROWS)
    assert edges(account) == [(0, [1], (1, 4), True), (0, [1], (1, 4), True), (1, [2], (2, 4), True)]


def test_what_is_written_into_is_made_anew():
    """b's result is added to a's in place: from then on it is the second layer's, in every view."""

    def run(m, x):
        h = m.a(x)
        h += m.b(torch.tanh(h))
        half = h[:, :2]
        half.mul_(2)
        return m.c(h)

    account, _ = accounted(Model(run), ROWS)
    found = edges(account)
    assert [(producer, readers) for producer, readers, _, _ in found] == [(0, [1]), (0, [1]), (1, [2])]
    assert found[-1] == (1, [2], (2, 4), True)


def test_detached_results_send_no_gradient_back():
    account, _ = accounted(Model(lambda m, x: m.c(m.b(m.a(x).detach()))), ROWS)
    assert edges(account) == [(0, [1], (2, 4), False), (1, [2], (2, 4), True)]
    assert account.layers[0].gradients == []


def test_tensors_in_attributes_and_dicts_are_found_where_they_are_read():
    def run(m, x):
        m.kept = {"h": [m.a(x)]}
        out = m.b(x)
        return {"out": m.c(out + m.kept["h"][0]), "aux": m.kept["h"][0].mean()}

    account, _ = accounted(Model(run), ROWS)
    # The sum is made after b, and so in b's stretch; the mean after c.
    assert sorted(edges(account)) == [(0, [1, 2], (2, 4), True), (1, [2], (2, 4), True)]
    assert sorted(value.shape for value in account.values if value.output) == [(), (2, 4)]


def test_teacher_without_gradient_is_a_layer_that_keeps_nothing():
    def run(m, x):
        with torch.no_grad():
            wanted = m.a(x).softmax(-1)
        return ((m.b(x) - wanted) ** 2).mean()

    account, names = accounted(Model(run), ROWS)
    assert names == ["a", "b"]
    assert account.layers[0].saved_bytes == 0
    assert account.layers[0].gradients == []
    assert edges(account) == [(0, [1], (2, 4), False)]


def test_moving_average_is_no_use_of_what_it_follows():
    def run(m, x):
        with torch.no_grad():
            m.b.weight.lerp_(m.a.weight, 0.5)
        return m.c(m.a(x)) + m.b(x)

    account, names = accounted(Model(run), ROWS)
    assert names == ["a", "c", "b"]
    assert [list(layer.parameters) for layer in account.layers] == [
        ["a.weight", "a.bias"], ["c.weight", "c.bias"], ["b.weight", "b.bias"],
    ]  # fmt: skip


def test_cast_of_a_weight_is_no_tensor_between_the_calls_that_share_it():
    """Autocast casts a weight once; the second call reads the first's cast: state, not an activation."""

    def run(m, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return m.a(torch.relu(m.a(x))).float()

    account, names = accounted(Model(run), ROWS)
    assert names == ["a", "a@2"]
    assert edges(account) == [(0, [1], (2, 4), True)]
    assert [sorted(layer.parameters) for layer in account.layers] == [["a.bias", "a.weight"]] * 2


def test_recurrent_layer_keeps_what_it_says_to_autograd():
    account, names = accounted(nn.Sequential(nn.LSTM(4, 8, batch_first=True)), torch.rand(2, 3, 4))
    assert names == ["0"]
    assert sorted(account.layers[0].gradients) == ["0.bias_hh_l0", "0.bias_ih_l0", "0.weight_hh_l0", "0.weight_ih_l0"]


def test_routed_rows_go_to_their_expert_and_back():
    def run(m, x):
        out = torch.zeros_like(x)
        for expert, row in ((m.a, 0), (m.b, 1)):
            chosen = torch.tensor([row])
            out.index_add_(0, chosen, expert(x[chosen]))
        return m.c(out)

    account, names = accounted(Model(run), ROWS)
    assert names == ["a", "b", "c"]
    assert (1, [2], (2, 4), True) in edges(account)  # the sum of both, made anew by the second


def test_gradients_become_ready_in_the_order_in_which_pytorch_says_so():
    model, ready = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4))), []
    account, _ = accounted(model, ROWS)
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: ready.append(name))
    model(ROWS).sum().backward()
    assert [name for layer in reversed(account.layers) for name in layer.gradients] == ready


def test_transients_by_hand():
    """Forward of 2 x 4 rows: x + 1 and its square live at once beside what is kept, the square of 32 bytes."""

    class Temporary(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))

        def forward(self, x):
            with torch.no_grad():
                large = (x + 1).repeat(100, 1)  # 3,200 bytes, of which nothing stays
                shift = float(large.sum())
            return x * self.scale + shift

    account, _ = accounted(nn.Sequential(Temporary()), ROWS)
    (layer,) = account.layers
    assert layer.saved_bytes == 32  # the input; the scale is a parameter
    # The rows plus one go when they are repeated: 3,200 and the 4 bytes of the sum; then they go too.
    assert 3200 <= layer.forward_transient_bytes <= 3200 + 32 + 32 + 8
    # Backward: the mean's gradient spread over the rows, and its product with the input.
    assert 64 <= layer.backward_transient_bytes <= 64 + 32 + 16


def test_saved_bytes_are_what_hooks_are_handed():
    """Those of one step by hand: `accounted` holds them against the plain step as well."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = (tensor.untyped_storage().nbytes(), tensor)
        return tensor

    model = models.ResNet()
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    images = torch.rand(2, 2, 6, 6)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(images).mean()
    account, _ = accounted(model, images)
    assert sum(layer.saved_bytes for layer in account.layers) == sum(
        size for pointer, (size, _) in kept.items() if pointer not in own
    )


def test_gradients_of_a_graph_within_the_graph_are_listed_once():
    """A reentrant checkpoint makes its own graph in backward: the leaves of the outer one lack them."""

    def run(m, x):
        return m.c(torch.utils.checkpoint.checkpoint(m.b, m.a(x), use_reentrant=True))

    account, _ = accounted(Model(run), ROWS)
    assert [sorted(layer.gradients) for layer in account.layers] == [
        [f"{name}.bias", f"{name}.weight"] for name in "abc"
    ]


def test_parameters_of_a_loss_that_the_model_lacks_are_strangers():
    outside = nn.Linear(4, 1)
    account, _ = accounted(Model(lambda m, x: m.a(x)), ROWS, loss=lambda out, _: outside(out).mean())
    assert sum(account.strangers.values()) == 4 * 5


def test_a_step_that_fails_leaves_no_hook_behind():
    model = Model(lambda m, x: m.a(x).nothing)
    account = Account(1, dict(model.named_parameters()), {}, {})
    with pytest.raises(AttributeError), account:
        Watch(model, (), account).run(lambda: model(ROWS))
    with torch.autograd.graph.disable_saved_tensors_hooks("none may be left"):
        pass


@pytest.mark.parametrize(
    ("tensor", "sizes"),
    [
        (torch.ones(3), [12]),
        (torch.ones(3)[:1], [12]),
        (torch.eye(3).to_sparse_csr(), [32, 48, 12]),
        (torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged), [20, 24, 0, 0]),
        (torch._efficientzerotensor((3,)), []),
    ],
)
def test_memory_of_every_kind_of_tensor(tensor, sizes):
    assert [storage.nbytes() for storage in memory_of(tensor)] == sizes


def test_memory_behind_what_vmap_wraps():
    found = []
    rows = torch.ones(2, 4)
    torch.vmap(lambda row: found.extend(memory_of(row)) or row)(rows)
    assert [storage.data_ptr() for storage in found] == [rows.data_ptr()]


def test_norms_of_sparse_and_complex_gradients():
    assert norm(torch.sparse_coo_tensor([[0, 0, 1]], [3.0, 0.0, 4.0], (4,))) == 5.0
    assert norm(torch.tensor([3 + 4j])) == 5.0
