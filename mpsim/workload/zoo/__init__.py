"""Models with random weights in any size; torch is imported only when one is built."""

from __future__ import annotations

from typing import Any

from mpsim.errors import unknown
from mpsim.workload.zoo.catalog import ZOO
from mpsim.workload.zoo.model import Size, ZooModel, parse_overrides

__all__ = ["ZOO", "Size", "ZooModel", "get", "list_models", "parse_overrides"]


def get(name: str) -> ZooModel:
    """Return a model by name.

    Raises
    ------
    MpsimError
        There is no such model.

    Examples
    --------
    >>> get("gpt2").sizes["n_layer"]
    12
    >>> get("gtp2")
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: unknown model 'gtp2'; did you mean 'gpt2'?
    """
    if name not in ZOO:
        raise unknown("model", name, ZOO)
    return ZOO[name]


def list_models() -> list[dict[str, Any]]:
    """Return one row for each model: name, parameters, default_batch, dataset_samples, sizes, description.

    Examples
    --------
    >>> list_models()[0]["parameters"]
    242762
    """
    return [
        {
            "name": model.name,
            "parameters": model.parameters,
            "default_batch": model.default_batch,
            "dataset_samples": model.dataset_samples,
            "sizes": dict(model.sizes),
            "description": model.description,
        }
        for model in ZOO.values()
    ]
