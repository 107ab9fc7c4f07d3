"""Published steps, replayed from what their authors say went in."""

from mpsim.validate.published.model import FileErrors, Outcome, Published
from mpsim.validate.published.replaying import validate_published

__all__ = ["FileErrors", "Outcome", "Published", "validate_published"]
