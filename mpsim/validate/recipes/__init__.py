"""People's own best configurations: predicted beside measured, and ranked among all that a search finds."""

from mpsim.validate.recipes.judged import Judged, Recipes, SystemErrors
from mpsim.validate.recipes.running import validate_recipes

__all__ = ["Judged", "Recipes", "SystemErrors", "validate_recipes"]
