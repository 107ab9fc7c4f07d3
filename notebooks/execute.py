"""Execute every notebook here, each in a fresh kernel: ``python notebooks/execute.py [--write] [NAME ...]``.

Fails on the first cell that raises. With ``--write`` the outputs are stored in the notebooks.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent


def execute(path: Path, write: bool) -> float:
    """Run one notebook in its own folder and return the seconds that it took."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # no bar stands in what is stored
    notebook = nbformat.read(path, as_version=4)
    start = time.perf_counter()
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(FOLDER)}}).execute()
    if write:
        for cell in notebook.cells:
            cell.get("metadata", {}).pop("execution", None)
        nbformat.write(notebook, path)
    return time.perf_counter() - start


def main() -> None:
    """Execute the notebooks named, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="store the outputs in the notebooks")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    paths = [FOLDER / name for name in options.names] or sorted(FOLDER.glob("*.ipynb"))
    for path in paths:
        print(f"{path.name}: executed in {execute(path, options.write):.1f} s")


if __name__ == "__main__":
    main()
