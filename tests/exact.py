"""Models in double precision: sums in another order then differ by less than any default tolerance."""

import dataclasses

import torch
from torch.utils import _pytree as pytree


def in_double(example):
    """Return an example with its model, batch and labels in double precision; token numbers stay what they are."""

    def double(value):
        return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    inputs, target = pytree.tree_map(double, (tuple(example.inputs), example.target))
    return dataclasses.replace(example, model=example.model.double(), inputs=inputs, target=target)
