"""A model where a workload is due: costed by the rooflines of the devices that it is to run on."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from mpsim.cli.output import tell
from mpsim.errors import MpsimError
from mpsim.topology.model import Topology
from mpsim.topology.reported import catalog_name
from mpsim.workload.file import load_workload
from mpsim.workload.model import Workload
from mpsim.workload.split import Split

__all__ = ["read_model"]

_PRECISION = "bf16-mixed"
_SIZES = (1, 2, 4)
_MOST_TP = 8


def read_model(
    model: str,
    topology: Topology,
    *,
    seq: int | None = None,
    precision: str | None = None,
    microbatches: Sequence[int] | None = None,
    tp: Sequence[int] | None = None,
    cp: Sequence[int] | None = None,
    ep: Sequence[int] | None = None,
) -> tuple[Workload, dict[str, Workload]]:
    """Return the workload of a file or of a model, and, of a model, those for each type of device.

    Parameters
    ----------
    model : str
        A workload file; a model of the zoo, or a configuration.
    topology : Topology
        Whose devices a model is costed for.
    seq, precision : int, str, optional
        Of a model.
    microbatches, tp, cp, ep : sequence of int, optional
        What a model is costed for; by default 1, 2 and 4 samples, and tp in powers of two up to 8.

    Raises
    ------
    MpsimError
        There is no such file or model; or sizes of a model are given for a file, which has its own.
    """
    if Path(model).is_file() and not _is_configuration(model):
        said = {"--seq": seq, "--precision": precision}
        for name, value in said.items():
            if value is not None:
                raise MpsimError(f"{name} is of a model, {model!r} is a workload, which has its own: leave it out")
        return load_workload(model), {}
    if model.endswith(".json") and not Path(model).exists():
        load_workload(model)  # which says that there is none
    if find_spec("torch") is None:
        raise MpsimError(
            f"{model!r} is a model, which needs PyTorch to be costed: pip install 'mpsim[trace]', or give a workload"
        )
    types = dict.fromkeys(device.type for device in topology.devices)
    for kind in types:
        if catalog_name(kind) is None:
            raise MpsimError(
                f"a device of topology {topology.name!r} is {kind or 'of no type'}, which no catalog has a roofline of:"
                " write device=… with a name that mpsim show catalog lists, or give a workload file"
            )
    sizes = tuple(tp) if tp else tuple(n for n in (1, 2, 4, 8) if n <= min(_MOST_TP, len(topology.devices)))
    splits = _splits(sizes, cp or (1,), ep or (1,))
    found = {
        kind: _costed(model, kind, seq, precision or _PRECISION, tuple(microbatches or _SIZES), splits)
        for kind in types
    }
    first = next(iter(found.values()))
    return first, {} if len(found) == 1 else found


def _is_configuration(path: str) -> bool:
    return Path(path).name == "config.json"


def _splits(tp: Sequence[int], cp: Sequence[int], ep: Sequence[int]) -> list[Split]:
    """Return the splits to cost: of several ranks that share weights those that share the sequence too."""
    return [
        Split(t, c, e, sequence)
        for t in tp
        for c in cp
        for e in ep
        for sequence in ((False, True) if t > 1 else (False,))
        if (t, c, e) != (1, 1, 1)
    ]


def _costed(
    model: str, kind: str, seq: int | None, precision: str, microbatches: tuple[int, ...], splits: Sequence[Split]
) -> Workload:
    """Return a model costed for a type of device, without the splits that it has not."""
    from mpsim.lowering.rescaling import roofline_of
    from mpsim.workload.configured import configured

    name = catalog_name(kind)
    assert name is not None
    spec = roofline_of(name, precision)

    def made(own: Sequence[Split]) -> Workload:
        return configured(model, spec, seq=seq, precision=precision, splits=own, microbatches=microbatches)

    try:
        return made(splits)
    except MpsimError:
        whole = made(())  # or whatever else is wrong with the model
        if not splits:
            raise
    kept = []
    for split in splits:
        try:
            configured(model, spec, seq=seq, precision=precision, splits=[split], microbatches=microbatches[:1])
            kept.append(split)
        except MpsimError as error:
            tell(f"note: {split.text} is left out: {error}")
    return made(kept) if kept else whole
