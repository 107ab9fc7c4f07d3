"""Files that may be compressed by gzip."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from mpsim.errors import MpsimError

__all__ = ["unpacked"]


def unpacked(path: str | Path) -> bytes:
    """Return a file's bytes, unpacked if it is compressed.

    Raises
    ------
    MpsimError
        No such file, or one whose compressed bytes were cut or edited.

    Examples
    --------
    >>> unpacked("nowhere.json")
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: cannot read 'nowhere.json': No such file or directory
    """
    try:
        data = Path(path).read_bytes()
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise MpsimError(f"cannot read {str(path)!r}: {error}: its gzip was cut or edited, copy it again") from None
    except OSError as error:
        raise MpsimError(f"cannot read {str(path)!r}: {error.strerror or error}") from None
