"""What one of the ranks that share experts runs and exchanges: by hand, against torch's own, and on real ranks."""

from collections import Counter
from dataclasses import replace
from unittest.mock import MagicMock

import pytest

from mpsim.errors import MpsimError
from mpsim.plan.model import Plan
from mpsim.simulation import simulate
from mpsim.topology.builders import fully_connected
from mpsim.workload import zoo
from mpsim.workload.device_spec import DeviceSpec
from mpsim.workload.split import WHOLE, Split
from mpsim.workload.trace import trace

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import expert_ranks  # noqa: E402
import torch.distributed as dist  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from zoo_sizes import SMALL  # noqa: E402

from mpsim.workload import tensor_parallel as tp  # noqa: E402
from mpsim.workload.example import Example  # noqa: E402
from mpsim.workload.experts import experts_of  # noqa: E402
from mpsim.workload.source import resolve_model  # noqa: E402
from mpsim.workload.tensor_parallel import RecordedCollective, local_shard  # noqa: E402

BATCH, SEQ, HIDDEN = 2, 16, 32
MIXTURES = ("mixtral", "qwen3-30b-a3b", "deepseek")
SPEC = DeviceSpec(
    name="made up",
    peak_flops_per_s=dict.fromkeys(("float32", "bfloat16"), 1e12),
    memory_bytes_per_s=1e11,
    kernel_floor_s=0.0,
)


def small(name):
    return zoo.get(name).build(BATCH, **SMALL[name])


def sent(layer, size, phase):
    path = f"model.layers.{layer}.mlp.experts"
    return RecordedCollective(module=path, kind="all_to_all", bytes=size, phase=phase, axis="ep")


def test_tokens_go_to_their_experts_and_back_each_way():
    """Beside the numbers of tokens for each expert: top_k of 2 rows of each of 2 x 16 tokens, 32 floats in a row."""
    rows, numbers = 2 * BATCH * SEQ * HIDDEN * 4, 4 * 8
    one_way = [numbers, rows, rows]
    assert list(local_shard(small("mixtral"), Split(ep=2)).collectives) == [
        *(sent(0, size, "forward") for size in one_way),
        *(sent(1, size, "forward") for size in one_way),
        *[sent(1, rows, "backward")] * 2,
        *[sent(0, rows, "backward")] * 2,
    ]


@pytest.mark.parametrize(("imbalance", "rows"), [(1.0, 64), (1.25, 80), (1.2, 77), (2.5, 160)])
def test_the_busiest_rank_gets_more(imbalance, rows):
    example = replace(small("mixtral"), imbalance=imbalance)
    found = local_shard(example, Split(ep=2)).collectives
    assert {one.bytes for one in found if one.bytes > 32} == {rows * HIDDEN * 4}


@pytest.mark.parametrize("name", MIXTURES)
def test_ranks_have_experts_each_and_all_else_alike(name):
    example = small(name)
    parts = [local_shard(example, Split(ep=2), rank=rank) for rank in range(2)]
    held = [dict(part.example.model.named_parameters()) for part in parts]
    experts = parts[0].experts
    assert {path.rpartition(".")[0] for path in experts} == set(experts_of(example))
    for path, whole in example.model.named_parameters():
        halves = [own[path] for own in held]
        if path in experts:
            assert torch.equal(torch.cat(halves), whole)
        else:
            assert all(torch.equal(half, whole) for half in halves)


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("imbalance", [1.0, 1.3])
def test_the_local_model_is_plain_and_runs_alone(name, imbalance):
    example = replace(small(name), imbalance=imbalance)
    local = local_shard(example, Split(ep=4)).example
    local.loss(local.model(*local.inputs), local.target).backward()
    assert all(type(parameter) is nn.Parameter for parameter in local.model.parameters())
    assert all(parameter.grad.isfinite().all() for parameter in local.model.parameters())
    assert all(parameter.grad is None for parameter in example.model.parameters())
    assert [type(one).__name__ for one in local.model.modules()] == [
        type(one).__name__ for one in example.model.modules()
    ]


def alike(model):
    """Give all experts of a layer the same weights: a token's outcome is then the same whoever computes it."""
    for path in experts_of(Example(model=model, inputs=())):
        for weight in model.get_submodule(path).parameters():
            weight.data[:] = weight.data[0].clone()


@pytest.mark.parametrize("name", MIXTURES)
def test_where_experts_are_alike_a_rank_computes_what_the_whole_does(name):
    example = small(name)
    example = replace(example, model=example.model.float())
    alike(example.model)
    part = local_shard(example, Split(ep=2))
    local = part.example
    losses = [one.loss(one.model(*one.inputs), one.target) for one in (example, local)]
    torch.testing.assert_close(losses[1], losses[0])
    for loss in losses:
        loss.backward()
    held = dict(local.model.named_parameters())
    for path, whole in example.model.named_parameters():
        if path in part.experts:
            torch.testing.assert_close(held[path].grad.sum(0), whole.grad.sum(0), rtol=1e-4, atol=1e-6)
        else:
            torch.testing.assert_close(held[path].grad, whole.grad, rtol=1e-4, atol=1e-6)


def analytical(name, **of):
    return trace(resolve_model(name, SMALL[name]), microbatches=(BATCH,), analytical=SPEC, progress=False, **of)


def test_a_rank_computes_as_many_tokens_as_it_sends():
    """A row through two products of 32 x 64 each way up, and one down: 2 x 3 x 32 x 64 operations."""
    whole, even, more = (
        [cost.flops for layer in workload.layers for cost in layer.costs if cost.split == split]
        for workload, split in (
            (analytical("mixtral", splits=("ep=2",)), WHOLE),
            (analytical("mixtral", splits=("ep=2",)), Split(ep=2)),
            (analytical("mixtral", splits=("ep=2",), imbalance=1.25), Split(ep=2)),
        )
    )
    assert even == whole
    assert [b - a for a, b in zip(even, more, strict=True)] == [0, *[16 * 2 * 3 * 32 * 64] * 2, 0, 0]


@pytest.mark.parametrize("spec", [None, SPEC])
def test_a_trace_has_a_ranks_experts(spec):
    workload = trace(
        resolve_model("mixtral", SMALL["mixtral"]), microbatches=(BATCH,), splits=("ep=2",), imbalance=1.25,
        analytical=spec, repeats=1, warmup=0, progress=False,
    )  # fmt: skip
    (layer,) = [layer for layer in workload.layers if layer.name == "model.layers.1"]
    whole, part = layer.shard(), layer.shard(Split(ep=2))
    experts = 4 * (128 * 32 + 32 * 64) * 4
    assert {one.expert for one in whole.gradients} == {False}
    assert sum(one.bytes for one in part.gradients if one.expert) == experts // 2
    assert whole.gradient_bytes - part.gradient_bytes == experts // 2
    assert whole.optimizer_bytes - part.optimizer_bytes == pytest.approx(experts, abs=64)
    assert [one.parameter for one in part.gradients] == [one.parameter for one in whole.gradients]
    assert workload.notes[-1] == (
        "ep=2: the busiest rank's experts get 1.25 times as many tokens as a rank sends, each of them its equal part"
    )


class Scale(nn.Module):
    """Experts of one's own, one module each in a list."""

    def __init__(self, experts):
        super().__init__()
        self.n_expert = experts
        self.each = nn.ModuleList(nn.Linear(4, 4) for _ in range(experts))

    def forward(self, tokens, chosen, shares):
        found = torch.zeros_like(tokens)
        for number in range(self.n_expert):
            at, which = torch.where(chosen == number)
            found = found.index_add(0, at, self.each[number](tokens[at]) * shares[at, which, None])
        return found


class Own(nn.Module):
    def __init__(self, experts=6):
        super().__init__()
        self.router, self.feed = nn.Linear(4, experts), Scale(experts)

    def forward(self, tokens):
        shares, chosen = self.router(tokens).softmax(-1).topk(2)
        return self.feed(tokens, chosen, shares)


def own(experts=6, **styles):
    return Example(model=Own(experts), inputs=(torch.rand(5, 4),), tensor_parallel=styles)


def test_ones_own_experts_are_named():
    part = local_shard(own(feed="experts"), Split(ep=3), rank=2)
    assert len(part.example.model.feed.each) == part.example.model.feed.n_expert == 2
    # Backward ends at the experts: what they were fed is the model's input, which wants no gradient.
    assert [(one.phase, one.bytes) for one in part.collectives] == [
        ("forward", 6 * 8), ("forward", 160), ("forward", 160), ("backward", 5 * 2 * 4 * 4),
    ]  # fmt: skip
    assert part.experts == {f"feed.each.{i}.{name}" for i in range(2) for name in ("weight", "bias")}


TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64}


@pytest.mark.parametrize(
    ("name", "of", "parameters"),
    [
        ("GptOss", {"num_local_experts": 4, "intermediate_size": 16, "head_dim": 8}, 4),  # with biases
        ("Olmoe", {"num_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 16}, 2),
        ("GraniteMoe", {"num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 16}, 2),
    ],
)
def test_mixtures_of_transformers_are_known_without_their_names(name, of, parameters):
    import transformers

    from mpsim.workload.huggingface import transformers_source

    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 16}
    config = getattr(transformers, f"{name}Config")(**TINY, **of, **special)
    part = local_shard(transformers_source(config).build(2), Split(ep=2))
    assert (len(part.experts), len(part.collectives)) == (parameters, 5)
    part.example.model(**part.example.keywords).loss.backward()
    assert all(part.example.model.get_parameter(path).grad.isfinite().all() for path in part.experts)


def test_shares_of_another_shape_are_refused():
    class Odd(Own):
        def forward(self, tokens):
            return self.feed(tokens, torch.zeros(5, 2, dtype=torch.long), tokens)

    example = replace(own(feed="experts"), model=Odd())
    with pytest.raises(MpsimError, match=r"shares \(5, 4\) are not one for each chosen expert \(5, 2\)"):
        local_shard(example, Split(ep=2))


@pytest.mark.parametrize(
    ("example", "ranks", "message"),
    [
        (own(), 2, "Own has no experts for ep=2 ranks to share: give ep 1, or name what takes tokens, chosen experts"
         " and shares, as in tensor_parallel={'*.experts': 'experts'}"),
        (own(feed="experts"), 4, "feed (Scale): 6 experts do not divide by 4 expert-parallel ranks; the nearest that"
         " works is 3"),
        (own(router="experts"), 2, "router (Linear): a module of experts takes tokens, chosen experts and their shares,"
         " its forward(input: torch.Tensor) -> torch.Tensor does not"),
        (own(**{"": "experts"}), 2, "the model (Own): its parameters or lists of modules have lengths none, expected"
         " one for each expert"),
    ],
)  # fmt: skip
def test_what_cannot_be_shared_is_refused(example, ranks, message):
    with pytest.raises(MpsimError) as error:
        local_shard(example, Split(ep=ranks))
    assert str(error.value) == message


def test_the_rest_that_is_refused():
    for imbalance in (0.9, float("nan"), float("inf")):
        with pytest.raises(
            MpsimError, match=rf"^imbalance is {imbalance}: the busiest rank gets 1 or more times the mean$"
        ):
            replace(own(), imbalance=imbalance)
    with pytest.raises(
        MpsimError, match=r"model.layers.0.mlp.experts \(MixtralExperts\): 4 experts do not divide by 3 expert-"
    ):
        analytical("mixtral", splits=("ep=3",))


class Beside(Scale):
    """Experts that hold another module, which every token runs through."""

    def __init__(self, experts):
        super().__init__(experts)
        self.shared = nn.Linear(2, 2)


def test_weights_beside_experts_in_their_module_are_refused():
    """Every rank has them, and they would run on the rows of the experts: once for each choice of a token."""
    example = replace(own(), model=nn.Sequential(Own(), Beside(6)))
    with pytest.raises(MpsimError, match=r"1 \(Beside\) holds shared.weight beside its experts"):
        experts_of(replace(example, tensor_parallel={"1": "experts"}))


def test_experts_that_layers_share_stay_shared():
    example = small("mixtral")
    first, second = (layer.mlp.experts for layer in example.model.model.layers)
    second.down_proj = first.down_proj
    first, second = (layer.mlp.experts for layer in local_shard(example, Split(ep=2)).example.model.model.layers)
    assert second.down_proj is first.down_proj
    assert second.gate_up_proj is not first.gate_up_proj


def test_ranks_that_share_weights_have_a_part_of_each_of_their_experts():
    """Router and tokens are every rank's: each sends all of them, and the two sum outputs and gradients of tokens."""
    example = small("mixtral")
    part = local_shard(example, Split(tp=2, ep=2), rank=3)
    block = [one for one in part.collectives if one.module.startswith("model.layers.1")]
    tokens, shares = BATCH * SEQ * HIDDEN * 4, BATCH * SEQ * 2 * 4
    each = {("ep", "all_to_all", 2 * tokens): 4, ("ep", "all_to_all", 4 * 8): 1}
    assert Counter((one.axis, one.kind, one.bytes) for one in block) == {
        **each, ("tp", "all_reduce", tokens): 4, ("tp", "all_reduce", shares): 1,
    }  # fmt: skip
    # The second half of the features of the last two of four experts, gate and up.
    path = "model.layers.1.mlp.experts"
    whole, held = (dict(model.named_parameters()) for model in (example.model, part.example.model))
    gate, up = whole[f"{path}.gate_up_proj"][2:].chunk(2, dim=1)
    assert torch.equal(held[f"{path}.gate_up_proj"], torch.cat([gate[:, 32:], up[:, 32:]], 1))
    assert torch.equal(held[f"{path}.down_proj"], whole[f"{path}.down_proj"][2:, :, 32:])
    assert torch.equal(held["model.layers.1.mlp.gate.weight"], whole["model.layers.1.mlp.gate.weight"])
    part.example.loss(part.example.model(*part.example.inputs), part.example.target).backward()
    assert all(parameter.grad.isfinite().all() for parameter in part.example.model.parameters())


@pytest.mark.parametrize(
    ("split", "rows", "others"),
    [
        (Split(ep=2), 64, set()),
        (Split(cp=2, ep=2), 32, {"cp"}),
        (Split(tp=2, ep=2, sequence=True), 64, {"tp"}),
        (Split(tp=2, cp=2, ep=2, sequence=True), 32, {"tp", "cp"}),
    ],
)
def test_a_rank_sends_the_tokens_that_it_has(split, rows, others):
    """Half of them where ranks share sequences; all where those that share weights have gathered them."""
    found = local_shard(small("mixtral"), split).collectives
    assert Counter(one.bytes for one in found if one.axis == "ep") == {rows * HIDDEN * 4: 2 * 4, 4 * 8: 2}
    assert {one.axis for one in found} == {"ep"} | others


def test_tokens_are_sent_in_the_type_in_which_autocast_multiplies():
    workload = analytical("mixtral", splits=("ep=2", "tp=2"), precision="bf16-mixed")
    costs = [cost for layer in workload.layers if layer.name == "model.layers.1" for cost in layer.costs]
    sent = {cost.split: {(one.kind, one.bytes) for one in cost.collectives} for cost in costs}
    rows = BATCH * SEQ * HIDDEN
    assert sent[Split(ep=2)] == {("all_to_all", 4 * 8), ("all_to_all", 2 * rows * 2)}
    # Attention's outputs are summed as they were multiplied, what is added to the stream as that is.
    assert sent[Split(tp=2)] == {
        ("all_reduce", rows * 2),
        ("all_reduce", rows * 4),
        ("all_reduce", BATCH * SEQ * 2 * 2 * 2),
    }


# Against torch: a layer written apart from the library, under a process group whose other ranks do not exist.


class Bytes(TorchDispatchMode):
    """Notes the bytes and the group of every collective."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "all_to_all" in func.name():
            self.found[func._schema.name.split("::")[1], args[0].nbytes, args[-1]] += 1
        return func(*args, **(kwargs or {}))


def evenly(gate):
    """Let a router send as many tokens to each expert."""

    def forward(hidden, route=gate.forward):
        logits, shares, chosen = route(hidden)
        return logits, shares, torch.arange(chosen.numel()).view(chosen.shape) % expert_ranks.EXPERTS

    gate.forward = forward


@pytest.mark.parametrize("ranks", [2, 4])
def test_what_is_exchanged_is_what_torch_exchanges(ranks):
    """CommDebugMode counts them, and they carry as many bytes over the group of the same ranks."""
    from torch.distributed.tensor.debug import CommDebugMode

    model, tokens = expert_ranks.mixtral(2)
    example = Example(model=model, inputs=(), keywords={"input_ids": tokens}, target=tokens, loss=lambda out, target:
                      nn.functional.cross_entropy(out.logits.flatten(0, 1), target.flatten()))  # fmt: skip
    predicted = local_shard(example, Split(ep=ranks)).collectives
    with tp._fake_ranks(Split(ep=ranks), 0, "cpu") as mesh:
        group = mesh["ep"].get_group()
        theirs = lambda counts: counts.view(ranks, -1)[0].repeat(ranks)  # noqa: E731
        wrapped = expert_ranks.routed(model, group, 0, ranks, theirs)
        for layer in wrapped.model.layers:
            evenly(layer.mlp.gate)
        counter, watched = CommDebugMode(), Bytes()
        counter.advanced_module_tracker = MagicMock()
        with counter, watched:
            expert_ranks.loss_of(wrapped, tokens).backward()
        assert dist.get_process_group_ranks(group) == list(range(ranks))
        names = {group.group_name}
    assert {op.__name__: count for op, count in counter.get_comm_counts().items()} == {"all_to_all_single": 2 * 5}
    assert {name for *_, name in watched.found} == names
    found = Counter({(kind.removesuffix("_single"), size): n for (kind, size, _), n in watched.found.items()})
    assert found == Counter((one.kind, one.bytes) for one in predicted)


def test_what_a_plan_exchanges_is_that_of_each_micro_batch_and_layer():
    workload = analytical("mixtral", splits=("ep=2",))
    plan = Plan(dp=4, ep=2, microbatches=3)
    result = simulate(workload, fully_connected(4, link="1GB/s@1us"), plan)
    (found,) = [one for one in result.traffic if one.axis == "ep"]
    each = 4 * 8 + 4 * 2 * BATCH * SEQ * HIDDEN * 4
    assert (found.kind, found.transfers, found.payload_bytes) == ("all_to_all", 2 * 3 * 2 * 5, 2 * 3 * 2 * each)
    groups = {where for axis, where in zip(result.spans.axis, result.spans.devices, strict=True) if axis == "ep"}
    assert groups == {(0, 1), (2, 3)}


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2])
def test_the_layer_that_torch_exchanges_for_is_that_of_the_whole_model(ranks, tmp_path):
    torch.multiprocessing.spawn(expert_ranks.check_gradients, (ranks, str(tmp_path / "meeting")), nprocs=ranks)
