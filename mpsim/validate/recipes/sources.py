"""Which files of people's own configurations are known, and what reads each."""

from __future__ import annotations

from mpsim.validate.recipes import bridge, megatron, torchtitan
from mpsim.validate.recipes.recipe import Source

__all__ = ["SOURCES"]

SOURCES: dict[str, Source] = {
    one.file: one for one in (bridge.RECIPES, megatron.OF_2021, megatron.OF_2022, torchtitan.RECIPES)
}
