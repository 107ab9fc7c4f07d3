"""How files are damaged: cut, flipped, swapped, made huge, deep, double, or another kind of text."""

import gzip
import json
import random
import re
from collections.abc import Callable
from typing import Any

__all__ = ["HOSTILE", "NUMBERS", "damaged"]

NUMBERS = [
    "0", "-1", "1", "2", "3", "4", "7", "64", "1.5", "1e3", "1e12", "-0.0", "nan", "inf", "-inf", "NaN", "Infinity",
    "-Infinity", "1e308", "1e-320", "1e999", "9" * 19, "9" * 400, "9" * 5000, "1" + "0" * 30, "1_000", "٣", "0x10",
    "+1", "100000", "1000000000", "2147483648", "1000000000000", "true", "null", "",
]  # fmt: skip
HOSTILE = [
    "", " ", "\x1b[31mred\x1b[0m", "\u202eabc", "a\nb", "a\rb", "=1+1", "@a", "'", '"', "%s", "{0}", "{", "[", "$a^",
    "../..", "/dev/zero", "/dev/null", "fifo", "folder", ".", "..", "-", "--", "a" * 5000, "\udcff", "é", "🚀" * 3,
    "\u2028", "a,b", "a:b", "a=b", "a*3", "os:system", "json:loads", "/etc/passwd",
]  # fmt: skip
_VALUES: list[Callable[[], Any]] = [
    lambda: None, lambda: True, lambda: False, lambda: -1, lambda: 0, lambda: 1, lambda: 10**400, lambda: 10**19,
    lambda: 10**12, lambda: 2**31, lambda: 0.5, lambda: 1e308, lambda: 1e-320, lambda: -1e308, lambda: float("nan"),
    lambda: float("inf"), lambda: "", lambda: "x", lambda: "1", lambda: [], lambda: {}, lambda: [[]], lambda: [0],
    lambda: {"name": 1}, lambda: [1, "a", None], lambda: "\x1b[2J\u202e", lambda: "=cmd()", lambda: "a" * 3000,
    lambda: "$x^$", lambda: [1] * 1000, lambda: "inf",
]  # fmt: skip


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Return a file's bytes after one to three kinds of damage; most often of what it holds, sometimes of how."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        kinds = _OF_BYTES
        if data[:1] in (b"{", b"[") and rng.random() < 0.9:
            kinds = _OF_JSON
        elif rng.random() < 0.7 and _is_text(data):
            kinds = _OF_TEXT
        data = rng.choice(kinds)(data, rng)
    return _OF_WHOLE[rng.randrange(len(_OF_WHOLE))](data, rng) if rng.random() < 0.1 else data


def _is_text(data: bytes) -> bool:
    return b"\0" not in data


# JSON


def _loaded(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _swap_value(data: bytes, rng: random.Random) -> bytes:
    found = _loaded(data)
    spot = _spot(found, rng)
    if spot is None:
        return data[: len(data) // 2]
    holder, key = spot
    holder[key] = rng.choice(_VALUES)()
    return _dumped(found)


def _scale_number(data: bytes, rng: random.Random) -> bytes:
    found = _loaded(data)
    for _ in range(20):
        spot = _spot(found, rng)
        if spot is None:
            break
        holder, key = spot
        if isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
            try:
                holder[key] = holder[key] * rng.choice((-1, 0, 2, 10**6, 10**18, 1e300, 1e-300, 0.5))
            except OverflowError:
                holder[key] = 0
            break
    return _dumped(found)


def _other_of_its_kind(data: bytes, rng: random.Random) -> bytes:
    """Replace a value by one of the same type, so that what is wrong is wrong deep inside."""
    found = _loaded(data)
    spot = _spot(found, rng, whole=True)
    if spot is None:
        return data
    holder, key = spot
    value = holder[key]
    if isinstance(value, bool):
        holder[key] = not value
    elif isinstance(value, int):
        holder[key] = rng.choice((0, 1, 2, 3, 7, 64, 2**31, 10**12, 10**18, 10**25, value + 1, value - 1, -value))
    elif isinstance(value, float):
        holder[key] = value * rng.choice((0.0, 0.5, 2.0, -1.0, 1e-30, 1e30, 1e300, 1e-300))
    elif isinstance(value, str):
        holder[key] = rng.choice([*re.findall(r'"([^"\\\\]*)"', data.decode("utf-8", "replace")), *HOSTILE])
    elif isinstance(value, list):
        holder[key] = rng.choice((value[:-1], value[::-1], value + value, value[:1] * 3, []))
    return _dumped(found)


def _drop_or_add(data: bytes, rng: random.Random) -> bytes:
    found = _loaded(data)
    spot = _spot(found, rng)
    if spot is None:
        return data
    holder, key = spot
    what = rng.randrange(4)
    if what == 0:
        del holder[key]
    elif what == 1 and isinstance(holder, list):
        holder.insert(key, holder[key])
    elif what == 2 and isinstance(holder, list):
        rng.shuffle(holder)
    elif isinstance(holder, dict):
        holder[rng.choice((f"{key}s", key[:-1], key.upper(), "\u202e", "__class__"))] = holder.pop(key)
    else:
        holder.extend([holder[key]] * rng.choice((1, 100, 5000)))
    return _dumped(found)


def _nest(data: bytes, rng: random.Random) -> bytes:
    text = data.decode("utf-8", "replace")
    spots = [match.end() for match in re.finditer(r"[:\[,]\s*", text)]
    at = rng.choice(spots) if spots else 0
    depth = rng.choice((20, 200, 990, 2000, 100_000))
    opened, closed = rng.choice((("[", "]"), ('{"a":', "}")))
    end = at + rng.choice((0, 1))
    return (text[:at] + opened * depth + text[at:end] + (closed * depth) + text[end:]).encode()


def _twice(data: bytes, rng: random.Random) -> bytes:
    text = data.decode("utf-8", "replace")
    pairs = list(re.finditer(r'"[a-z_]+"\s*:\s*[^\[\]{},]+', text))
    if not pairs:
        return data
    pair = rng.choice(pairs)
    return (text[: pair.end()] + ", " + pair[0] + text[pair.end() :]).encode()


def _spot(found: Any, rng: random.Random, whole: bool = False) -> tuple[Any, Any] | None:
    """Return somewhere in a document: what holds it, and its key there; a leaf, or most often one where `whole`."""
    spot = None
    while isinstance(found, dict | list) and found:
        key = rng.choice(list(found)) if isinstance(found, dict) else rng.randrange(len(found))
        spot = (found, key)
        if rng.random() < (0.05 if whole else 0.2):
            break
        found = found[key]
    return spot


def _dumped(found: Any) -> bytes:
    return json.dumps(found, ensure_ascii=False).encode(errors="replace")


# Any text


def _other_number(data: bytes, rng: random.Random) -> bytes:
    text = data.decode("utf-8", "replace")
    numbers = list(re.finditer(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?", text))
    if not numbers:
        return data + rng.choice(NUMBERS).encode()
    one = rng.choice(numbers)
    return (text[: one.start()] + rng.choice(NUMBERS) + text[one.end() :]).encode(errors="replace")


def _hostile_word(data: bytes, rng: random.Random) -> bytes:
    text = data.decode("utf-8", "replace")
    words = list(re.finditer(r"[A-Za-z_]\w*", text))
    if not words:
        return data
    one = rng.choice(words)
    return (text[: one.start()] + rng.choice(HOSTILE) + text[one.end() :]).encode(errors="replace")


def _lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    i = rng.randrange(len(lines))
    what = rng.randrange(5)
    if what == 0:
        del lines[i]
    elif what == 1:
        lines[i:i] = [lines[i]] * rng.choice((1, 2, 300))
    elif what == 2:
        rng.shuffle(lines)
    elif what == 3:
        lines[i] = lines[i][: rng.randrange(len(lines[i]) + 1)]
    else:
        lines[i] += rng.choice((b",", b",,,", b",1", b' "', b"\t", b" #"))
    return b"\n".join(lines)


def _cells(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    i = rng.randrange(len(lines))
    cells = lines[i].split(b",")
    j = rng.randrange(len(cells))
    word = rng.choice(NUMBERS + HOSTILE).encode(errors="replace")
    what = rng.randrange(3)
    if what == 0:
        cells[j] = word
    elif what == 1:
        del cells[j]
    else:
        cells.insert(j, word)
    lines[i] = b",".join(cells)
    return b"\n".join(lines)


# Any bytes


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 8))):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _splice(data: bytes, rng: random.Random) -> bytes:
    at, to = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
    put = rng.choice((b"", b"\0", b"\xff\xfe", b"\n", b'"', data[at : min(to, at + 200)] * 2, rng.randbytes(9)))
    return data[:at] + put + data[min(to, at + 12) :]


# The whole file


def _packed(data: bytes, rng: random.Random) -> bytes:
    found = gzip.compress(data, 1)
    return rng.choice((found, found[: rng.randrange(len(found))], _flip(found, rng), found + b"x", found + found))


def _marked(data: bytes, rng: random.Random) -> bytes:
    text = data.decode("utf-8", "replace")
    return rng.choice((b"\xef\xbb\xbf" + data, text.encode("utf-16"), b"\xff\xfe" + data, text.encode("utf-16-be")))


def _line_ends(data: bytes, rng: random.Random) -> bytes:
    return data.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\n", b"\x0b")))


def _bomb(data: bytes, rng: random.Random) -> bytes:
    return rng.choice(_BOMBS)


_BOMBS: list[bytes] = []  # filled where they are asked for: a bomb takes a second to make
_OF_JSON = [*[_other_of_its_kind] * 6, _swap_value, _swap_value, _scale_number, _drop_or_add, _nest, _twice]
_OF_TEXT = [_other_number, _other_number, _hostile_word, _lines, _cells, _cells]
_OF_BYTES = [_cut, _flip, _splice]
_OF_WHOLE = [_packed, _marked, _line_ends]


def with_bombs() -> None:
    """Have files that unpack to a gigabyte among the damage."""
    packed = gzip.compress(b"0" * 2**24, 9)
    _BOMBS.extend((packed * 64, gzip.compress(b" " * 2**28, 1), b" " * 2**20 * 64, b"[" * 2**24))
    _OF_WHOLE.append(_bomb)
