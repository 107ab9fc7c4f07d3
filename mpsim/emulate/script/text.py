"""The text of a script: the modules beside this one, joined."""

from __future__ import annotations

import ast
import re
from importlib.resources import files

__all__ = ["joined_modules"]

_MODULES = ("stages", "shared", "replicas", "training")
_REMARKS = re.compile(r"  # (type: ignore\S*|fmt: skip)$", re.MULTILINE)


def joined_modules() -> tuple[str, str]:
    """Return the imports of the script's modules, and the rest of their text, one behind the other.

    Examples
    --------
    >>> imports, rest = joined_modules()
    >>> "import torch" in imports, "class Stage" in rest, "mpsim" in imports
    (True, True, False)
    """
    imports: list[ast.Import | ast.ImportFrom] = []
    rest = []
    for name in _MODULES:
        text = files("mpsim.emulate.script").joinpath(f"{name}.py").read_text(encoding="utf-8")
        lines = text.splitlines()
        dropped: set[int] = set()
        for node in ast.parse(text).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                if not (isinstance(node, ast.ImportFrom) and str(node.module).startswith(("mpsim", "__future__"))):
                    imports.append(node)
            elif not (_is_docstring(node) or _is_all(node)):
                continue
            dropped.update(range(node.lineno - 1, node.end_lineno or node.lineno))
        kept = "\n".join(line for i, line in enumerate(lines) if i not in dropped)
        rest.append(_REMARKS.sub("", kept).strip())
    return _merged(imports), "\n\n\n".join(rest)


def _merged(imports: list[ast.Import | ast.ImportFrom]) -> str:
    """Return the imports, each module's names in one line, those of whole modules first."""
    whole = {ast.unparse(node) for node in imports if isinstance(node, ast.Import)}
    names: dict[str, set[str]] = {}
    for node in imports:
        if isinstance(node, ast.ImportFrom):
            names.setdefault(str(node.module), set()).update(map(ast.unparse, node.names))
    parts = [f"from {module} import {', '.join(sorted(names[module]))}" for module in sorted(names)]
    return "\n".join([*sorted(whole), *parts])


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_all(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
