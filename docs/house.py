"""Draw the house in one picture, from import-linter's first contract and the first line of each room.

    python docs/house.py

writes docs/images/house.svg; a test compares it with what stands there.
"""

from __future__ import annotations

import ast
import re
import tomllib
from html import escape
from pathlib import Path
from textwrap import wrap

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "images" / "house.svg"
WIDTH, GAP, LINE = 1000, 8, 15
TINTS = ("#e8eaf6", "#fafafa")


def floors() -> list[list[str]]:
    """Return the rooms of each floor, the highest first: imports go down, never sideways."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    return [[room.strip().removeprefix("mpsim.") for room in re.split("[|:]", layer)] for layer in layers]


def purpose(room: str) -> str:
    """Return the first line of a room's own words."""
    path = ROOT / "mpsim" / room.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    first = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]
    return first.replace("`", "").removesuffix(".")


def floor(rooms: list[str], top: int, tint: str) -> tuple[list[str], int]:
    """Return the boxes of one floor, and where the next one begins."""
    wide = (WIDTH - GAP * (len(rooms) + 1)) / len(rooms)
    words = [wrap(purpose(room), max(12, int((wide - 16) / 5.9))) for room in rooms]
    high = 26 + LINE * max(map(len, words)) + 6
    drawn = []
    for at, (room, lines) in enumerate(zip(rooms, words, strict=True)):
        x = GAP + at * (wide + GAP)
        drawn.append(
            f'<rect x="{x:.0f}" y="{top}" width="{wide:.0f}" height="{high}" rx="4" fill="{tint}" stroke="#7986cb"/>'
        )
        drawn.append(f'<text x="{x + 8:.0f}" y="{top + 18}" font-size="13" font-weight="bold">{escape(room)}</text>')
        for number, line in enumerate(lines):
            y = top + 35 + LINE * number
            drawn.append(f'<text x="{x + 8:.0f}" y="{y}" font-size="11">{escape(line)}</text>')
    return drawn, top + high + GAP


def picture() -> str:
    """Return the house as SVG."""
    drawn: list[str] = []
    top = GAP
    for number, rooms in enumerate(floors()):
        boxes, top = floor(rooms, top, TINTS[number % len(TINTS)])
        drawn += boxes
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" font-family="sans-serif" fill="#1a237e">'
    )
    title = "<title>The rooms of mpsim: imports go down from floor to floor, never up or sideways</title>"
    ground = f'<rect width="{WIDTH}" height="{top}" fill="#ffffff"/>'
    return "\n".join([head, title, ground, *drawn, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
    print(f"wrote {PICTURE.relative_to(ROOT)}")
