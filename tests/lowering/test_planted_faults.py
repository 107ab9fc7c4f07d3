"""Faults that were planted in the lowering and that no test caught: each of these says which one it catches."""

from dataclasses import replace

import pytest
from cases import chained, layer

from mpsim import Plan, simulate
from mpsim.engine.replay import replay
from mpsim.lowering.draws import Draw
from mpsim.lowering.emit import emit
from mpsim.lowering.instructions import Receive, Script, Send, Wait
from mpsim.lowering.times import drawn
from mpsim.topology.builders import chain, fully_connected
from mpsim.topology.model import Device
from mpsim.topology.routes import Routes
from mpsim.topology.wire import Wire
from mpsim.workload.model import Cost, Samples

FREE = Wire(float("inf"))

# The drawn backward of a trial: taken from the forward's samples, or from another pass's quantile
# (`mpsim.lowering.times._as_drawn`).

SAMPLES = Samples(
    forward_s=(1.0, 2.0), backward_input_s=(16.0, 32.0), backward_weight_s=(256.0, 512.0), accumulate_s=(4096.0, 8192.0)
)
COST = Cost(microbatch=1, samples=SAMPLES)


def picked(values, quantile):
    return values[int(quantile * len(values))]


@pytest.mark.parametrize("trial", range(8))
def test_every_pass_is_drawn_from_its_own_samples_at_its_own_quantile(trial):
    draw = Draw(seed=0, trial=trial)
    times = drawn([COST, COST], 1.0, draw, first_layer=0, tp_rank=0, replica=0, microbatches=2)
    for i in range(2):
        for microbatch, (forward, inputs, weights) in enumerate(draw.layer(i, 0, 0, 2)):
            forward_s, inputs_s = picked(SAMPLES.forward_s, forward), picked(SAMPLES.backward_input_s, inputs)
            weights_s = picked(SAMPLES.backward_weight_s, weights)
            # The first micro-batch makes gradients, the second adds to them.
            added_s = picked(SAMPLES.accumulate_s, weights) if microbatch else 0.0
            found = [times.seconds(kind, microbatch, i, i + 1) for kind in "FIWB"]
            assert found == [forward_s, inputs_s, weights_s + added_s, inputs_s + weights_s + added_s]


def test_a_backward_that_varies_alone_makes_the_steps_vary():
    """A forward of 1 s, a backward of 2 s and of 4 or 8 s: the steps take 7 or 11 s, and nothing else."""
    one = layer("a")
    samples = Samples(forward_s=(1.0,), backward_input_s=(2.0,), backward_weight_s=(4.0, 8.0))
    work = chained([replace(one, costs=(replace(one.costs[0], samples=samples),))], 0)
    result = simulate(work, chain(1, link=FREE), Plan(), trials=32, rng=0)
    assert set(result.trial_step_s) == {7.0, 11.0}


# Optimizer state of a tied parameter: none on the later of its ranks, or again on a rank that has it already
# (`mpsim.lowering.stages._states`).


def sharing(state_of_first=2 * (64 + 8)):
    """Return three layers: the first and the last share 64 bytes, and the trace counts their state with the first."""
    return [
        layer("a", parameters={"shared": 64, "a": 8}, optimizer_bytes=state_of_first),
        layer("b", parameters={"b": 16}, optimizer_bytes=32),
        layer("c", parameters={"shared": 64, "c": 4}, optimizer_bytes=8),
    ]


def optimizer_bytes(layers, **plan):
    result = simulate(chained(layers, 0), fully_connected(plan["pp"], link=FREE), Plan(**plan))
    return [device.memory.optimizer_bytes for device in result.devices]


def test_a_tied_parameter_has_its_state_on_each_of_its_ranks():
    assert optimizer_bytes(sharing(), pp=1) == [144 + 32 + 8]
    assert optimizer_bytes(sharing(), pp=2, boundaries=(2,)) == [144 + 32, 8 + 128]
    assert optimizer_bytes(sharing(), pp=3) == [144, 32, 8 + 128]


def test_the_state_of_a_third_rank_is_that_of_the_first():
    layers = [*sharing(), layer("d", parameters={"shared": 64})]
    assert optimizer_bytes(layers, pp=4) == [144, 32, 8 + 128, 128]
    # Two ranks: d's is where c's is; in a V it is where a's is.
    assert optimizer_bytes(layers, pp=2, boundaries=(2,)) == [144 + 32, 8 + 128]
    assert optimizer_bytes(layers, pp=2, schedule="zb-v") == [144, 32 + 8 + 128]


# Activations are held until W where backward is split, not until I (`mpsim.lowering.holdings`).


def test_activations_are_held_until_their_weights_are_done():
    """ZB-H1 over two stages, a forward, I and W of 1 each; stage 0 keeps 256 of each micro-batch, stage 1 100.

    ::

        t        0  1  2  3  4  5  6  7
        stage 0  F0 F1 .. I0 W0 I1 W1
        stage 1  .. F0 I0 F1 I1 W0 W1

    At 4 and at 6 stage 0 is done with an I and still keeps what its W needs; at 3 stage 1 keeps both.
    """
    layers = [layer("a", saved_bytes=256), layer("b", saved_bytes=100)]
    result = simulate(chained(layers, 0), chain(2, link=FREE), Plan(pp=2, microbatches=2, schedule="zb-h1"))
    first, second = (
        next(one for one in device.memory.by_holder if one.holder == "activations") for device in result.devices
    )
    starts = dict(zip(result.spans.name, result.spans.start_s, strict=True))
    assert [starts[name] for name in ("0I0", "0W0", "0I1", "0W1")] == [3.0, 4.0, 5.0, 6.0]
    assert dict(zip(first.time_s, first.bytes, strict=True)) == {0.0: 256, 1.0: 512, 5.0: 256, 7.0: 0}
    assert dict(zip(second.time_s, second.bytes, strict=True)) == {0.0: 0, 1.0: 100, 3.0: 200, 6.0: 100, 7.0: 0}


# The receiver's wait: who posts a receive once its own send is buffered lets no byte come before
# (`mpsim.lowering.wires`: `buffered_bytes` of a message, `after_buffered` of what is posted behind it).


@pytest.mark.parametrize("runtime", ["torch-gloo", "torch-nccl"])
@pytest.mark.parametrize(("buffer_bytes", "begins_s"), [(0, 1.0), (256, 0.75), (512, 0.5), (4096, 0.0)])
def test_a_receive_behind_a_send_waits_until_the_send_is_buffered(runtime, buffer_bytes, begins_s):
    """Rank 1 sends 1,024 bytes to rank 0 in a second, waits, and then receives as many from rank 2."""
    devices = tuple(Device(name=f"d{i}", send_buffer_bytes=buffer_bytes if i == 1 else 0) for i in range(3))
    topology = replace(chain(3, link=Wire(1024.0)), devices=devices)
    back, on = Send(0, 0, 1024, 1, 0, 0, "B"), Receive(1, 2, 1024, 2, 1, 1, "B")
    scripts = [
        Script(device=0, rank=0, steps=(Receive(0, 1, 1024, 1, 0, 0, "B"), Wait((0,)))),
        Script(device=1, rank=1, steps=(back, Wait((0,)), on, Wait((1,)))),
        Script(device=2, rank=2, steps=(Send(1, 1, 1024, 2, 1, 1, "B"), Wait((1,)))),
    ]
    program = emit(Routes(topology), scripts, runtime)
    timing = replay(program, topology)
    when = {
        task.name: (start_s, end_s)
        for task, start_s, end_s in zip(program.tasks, timing.start_s, timing.end_s, strict=True)
        if task.kind == "send"
    }
    assert when == {"1B0>0": (0.0, 1.0), "2B1>1": (begins_s, begins_s + 1.0)}
