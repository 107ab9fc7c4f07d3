"""Explanations: where a step goes, what it waits for, and what would make it shorter."""

from mpsim.explanation.outcome import Explanation
from mpsim.explanation.run import explain

__all__ = ["Explanation", "explain"]
