"""The page that a report is: where it goes, and how it comes about."""

from __future__ import annotations

from mpsim.cli.output import tell
from mpsim.cli.progress import progress_bar
from mpsim.report.gather import Given, gather
from mpsim.report.page import check_page, save_report

__all__ = ["check_page", "write_page"]


def write_page(
    given: Given, path: str, *, batch: int | None = None, what_ifs: bool = True, top: int = 100,
    progress: bool | None = None,
) -> None:  # fmt: skip
    """Gather a report, write it and say so.

    Raises
    ------
    MpsimError
        As `mpsim.report.gather.gather`, or the file cannot be written there.
    """
    with progress_bar(progress if what_ifs else False, "what-ifs") as moved:
        material = gather(given, batch=batch, what_ifs=what_ifs, progress=moved)
    save_report(path, material, top=top)
    tell(f"wrote {path}")
