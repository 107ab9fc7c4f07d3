"""Pages of the site that are not written here: those beside this folder, and the reference, from the code itself."""

from __future__ import annotations

import inspect
import json
import posixpath
import re
import sys
from base64 import b64decode
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any, get_args

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
# Pages that stand elsewhere in the repository, by where they are in the site.
ELSEWHERE = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "workloads.md": "workloads/README.md",
}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# Chapters of the Python reference: where a public name is from, in the order of a user's work.
CHAPTERS = {
    "workload": "Models and workloads",
    "topology": "Devices and links",
    "plan": "Plans",
    "simulation": "Predict a step",
    "lowering": "Predict a step",
    "result": "Results",
    "sweeps": "Many plans",
    "search": "The best plan",
    "explanation": "Why a step takes what it takes",
    "failures": "Runs that fail",
    "calibration": "Calibration",
    "emulate": "Split a model for real",
}


# Rooms of which what they list is public too, under their own name, and the chapter of it.
ROOMS = {
    "emulate": "Split a model for real",
    "interchange": "What other tools write and read",
    "testing": "Your own schedules and networks",
}
HELD = "What these values hold"
# What a public value has of classes that are its own business: rooms and names of which the reference does not speak.
OWN = (
    "mpsim.emulate.capture.", "mpsim.emulate.flight.", "mpsim.emulate.seeds.", "mpsim.result.model.Origin",
    "mpsim.result.plotting.alike.", "mpsim.search.bounds.Least", "mpsim.tables.Column", "mpsim.workload.model_source.",
)  # fmt: skip


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and files that stand elsewhere, the notebooks, and the reference."""
    sys.path.insert(0, str(ROOT))  # The reference is of this very mpsim, whichever is installed.
    made: dict[str, str | bytes] = {}
    made |= {page: (ROOT / source).read_text(encoding="utf-8") for page, source in ELSEWHERE.items()}
    made |= {"notebooks/index.md": notebooks_page()}
    for path in NOTEBOOKS:
        made |= notebook_pages(path)
    made |= {"reference/python.md": python_page(), "reference/commands.md": commands_page()}
    for page, content in made.items():
        files.append(File.generated(config, page, content=content))
    for path in [ROOT / "LICENSE", *NOTEBOOKS]:
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links of the repository to where their targets are in the site."""
    name = page.file.src_uri
    if name in ("index.md", "tutorial.md"):  # Chapters of one page need no menu beside it.
        page.meta["hide"] = ["navigation"]
    source = ELSEWHERE.get(name, f"docs/{name}" if (ROOT / "docs" / name).exists() else name)

    def lead(link: re.Match[str]) -> str:
        text, target, anchor = link.group(1), link.group(2), link.group(3) or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if ":" in target or not (ROOT / path).exists():
            return link.group()
        there = in_site(path)
        return f"[{text}]({posixpath.relpath(there, posixpath.dirname(name) or '.')}{anchor})" if there else text

    return re.sub(r"\[([^\]\n]*)\]\(([^)#\s]+)(#[^)]*)?\)", lead, markdown)


def in_site(path: str) -> str:
    """Return where a file of the repository is in the site, "" if it is not."""
    pages = {source: page for page, source in ELSEWHERE.items()}
    pages |= {f"notebooks/{each.name}": f"notebooks/{each.stem}.md" for each in NOTEBOOKS}
    pages |= {"LICENSE": "LICENSE", "notebooks": "notebooks/index.md"}
    return pages.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else "")


def on_page_content(html: str, **_: Any) -> str:
    """Take out what docstrings say to Sphinx alone."""
    return re.sub(r":(?:attr|class|func|meth|mod):(?=<code>|<a )", "", html)


def notebook_pages(path: Path) -> dict[str, str | bytes]:
    """Return a notebook as it was executed: its text, code and what it printed as a page, and its pictures."""
    parts: list[str] = []
    pictures: dict[str, str | bytes] = {}
    for cell in cells(path):
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"````python\n{source}\n````")
        for output in cell.get("outputs", []):
            if drawn := output.get("data", {}).get("image/png"):
                name = f"{path.stem}-{len(pictures) + 1}.png"
                pictures[f"notebooks/{name}"] = b64decode("".join(drawn))
                parts.append(f"![what the cell above draws]({name})")
            elif text := printed(output):
                parts.append(f"````text\n{text}\n````")
    parts.append(f'<a href="{path.name}" download>This notebook</a>')
    return pictures | {f"notebooks/{path.stem}.md": "\n\n".join(parts)}


def cells(path: Path) -> list[dict[str, Any]]:
    """Return a notebook's cells."""
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return found


def printed(output: dict[str, Any]) -> str:
    """Return what a cell printed or returned as text; "" of progress bars."""
    data = output.get("data", {})
    if "application/vnd.jupyter.widget-view+json" in data or output.get("name") == "stderr":
        return ""
    return "".join(output.get("text", data.get("text/plain", ""))).rstrip()


def notebooks_page() -> str:
    """Return the list of notebooks, each by its first heading and paragraph."""
    lines = ["# Notebooks", "", "As they were executed; CI executes them anew.", ""]
    for path in NOTEBOOKS:
        heading, _, rest = "".join(cells(path)[0]["source"]).lstrip("# ").partition("\n")
        first = " ".join(rest.strip().split("\n\n")[0].split())
        lines.append(f"- [{heading}]({path.stem}.md): {first}")
    return "\n".join(lines)


def python_page() -> str:
    """Return every public name under its chapter, each to be filled from its docstring, and what their values hold."""
    import mpsim

    chapters: dict[str, list[str]] = {title: [] for title in (*CHAPTERS.values(), *ROOMS.values())}
    for name in mpsim.__all__:
        title = CHAPTERS.get(mpsim._ROOMS.get(name, "").split(".")[0], "Results")
        chapters[title].append(f"mpsim.{name}")
    for room, title in ROOMS.items():
        module = import_module(f"mpsim.{room}")
        listed = {name: getattr(module, name) for name in module.__all__}
        own = (name for name, one in listed.items() if one is not getattr(mpsim, name, None))
        chapters[title] += [f"mpsim.{room}.{name}" for name in own]
    chapters[HELD] = [name for name in held() if not name.startswith(OWN)]
    lines = ["# Python", "", "All public names; `import mpsim` imports none of them before it is used.", ""]
    for title, names in chapters.items():
        lines += [f"## {title}", ""]
        for name in sorted(names, key=lambda name: name.split(".")[-1].lower()):
            lines += [f"::: {name}", "    options:", "      heading_level: 3", ""]
    return "\n".join(lines)


def held() -> list[str]:
    """Return the classes of mpsim's that public calls take and return, and those that these hold, by their full name.

    Those that are public names themselves are left out.
    """
    import mpsim

    rooms = [mpsim, mpsim.plotting, *(import_module(f"mpsim.{room}") for room in ROOMS)]
    waiting = [getattr(room, name) for room in rooms for name in room.__all__]
    seen, found = set(map(id, waiting)), []
    while waiting:
        for kind in named_by(waiting.pop()):
            if id(kind) not in seen and kind.__module__.startswith("mpsim.") and kind.__module__ != "mpsim.hints":
                seen.add(id(kind))
                waiting.append(kind)
                found.append(f"{kind.__module__}.{kind.__qualname__}")
    return sorted(name for name in found if not name.split(".")[-1].startswith("_"))


def named_by(one: Any) -> Iterator[type]:
    """Yield the classes that the hints of a function name, or those of a class's fields and public methods."""
    from mpsim.hints import Names, read_hint

    hinted = [one] if isinstance(one, FunctionType) else []
    for base in getattr(one, "__mro__", ()):
        hinted.append(base)
        hinted += [
            getattr(member, "__func__", getattr(member, "fget", member))
            for name, member in vars(base).items()
            if name == "__init__" or not name.startswith("_")
        ]
    for each in map(inspect.unwrap, (one for one in hinted if isinstance(one, FunctionType | type))):
        if getattr(each, "__module__", "").startswith("mpsim"):
            names = Names(vars(sys.modules[each.__module__]))
            for name, hint in vars(each).get("__annotations__", getattr(each, "__annotations__", {})).items():
                if not name.startswith("_"):
                    yield from classes_of(read_hint(hint, names))


def classes_of(hint: Any) -> Iterator[type]:
    """Yield the classes in a hint."""
    if isinstance(hint, type):
        yield hint
    for part in get_args(hint):
        yield from classes_of(part)


def commands_page() -> str:
    """Return the help of every command."""
    import click

    from mpsim.cli import cli

    lines = ["# Command line", "", "What `mpsim COMMAND --help` prints.", ""]
    for context in commands(cli, click.Context(cli, info_name="mpsim", terminal_width=88)):
        lines += [f"## {context.command_path}", "", "```text", context.get_help(), "```", ""]
    return "\n".join(lines)


def commands(group: Any, context: Any) -> Iterator[Any]:
    """Yield the context of a command, then of each command in it, as they are listed."""
    yield context
    for name in group.list_commands(context) if hasattr(group, "list_commands") else ():
        command = group.get_command(context, name)
        yield from commands(command, type(context)(command, parent=context, info_name=name))
