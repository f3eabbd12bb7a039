"""Files are written whole or not at all, and read only if they are whole."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["load_arrays", "replacing", "save_arrays"]

FORMAT = 1  # of saved files; a file of a later one is refused


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


def save_arrays(
    path: str | os.PathLike[str], kind: str, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]
) -> None:
    """Write a safetensors file, whole or not at all.

    Parameters
    ----------
    path : path
    kind : str
        What the file is: "model" or "checkpoint".
    arrays : mapping of str to ndarray
    about : mapping
        What JSON can express; goes into the metadata.

    Raises
    ------
    OSError
        If the file cannot be written; one that was there before is then unchanged.
    """
    from safetensors.numpy import save

    header = {"format": FORMAT, "checksum": _checksum(arrays, about), kind: about}
    content = save(dict(arrays), metadata={"rnncore": json.dumps(header)})
    with replacing(path) as part:
        part.write_bytes(content)


def load_arrays(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the description that `save_arrays` wrote. No code of the file is run.

    Raises
    ------
    OSError
        If there is no such file or it cannot be read.
    ValueError
        If it is damaged, or of another kind, or written by a later version.
    """
    from safetensors import SafetensorError, safe_open

    with open(path, "rb"):
        pass  # a file that is not there or not readable is an OSError that names it
    try:
        with safe_open(path, framework="numpy") as file:
            header = _header(path, kind, file.metadata())
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, or no {kind} file: {error}") from None
    try:
        checksum, about = header["checksum"], header[kind]
    except LookupError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if checksum != _checksum(arrays, about):
        raise ValueError(f"{path} is damaged: its content does not match its checksum")
    return arrays, about


def _header(path: str | os.PathLike[str], kind: str, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    """Return what a file's metadata say about it, if this version can read it."""
    if not metadata or "rnncore" not in metadata:
        raise ValueError(f"{path} is no {kind} of rnncore: its metadata has no entry 'rnncore'")
    try:
        header = json.loads(metadata["rnncore"])
        version = header["format"]
    except (ValueError, TypeError, LookupError):
        raise ValueError(f"{path} is damaged: its configuration cannot be read") from None
    if version != FORMAT:
        raise ValueError(f"{path} has format {version!r}, but this version of rnncore reads format {FORMAT}")
    others = header.keys() - {"format", "checksum", kind}
    if others and kind not in header:
        raise ValueError(f"{path} is no {kind} of rnncore, but a {', '.join(sorted(others))}")
    return header


def _checksum(arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> int:
    """Return a number that changes with every bit of the arrays and of the description."""
    checksum = zlib.crc32(json.dumps(about, sort_keys=True).encode())
    for name in sorted(arrays):
        checksum = zlib.crc32(arrays[name].tobytes(), zlib.crc32(name.encode(), checksum))
    return checksum
