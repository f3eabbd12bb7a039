"""Files are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path beside `path` to write to; when that file is whole, it takes the place of `path`.

    Raises
    ------
    OSError
        If it cannot be written; a file that was at `path` before is then unchanged.
    """
    target = Path(path)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())  # else a crash may leave the new name with old content
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
