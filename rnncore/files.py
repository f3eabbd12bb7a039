"""Files are written whole or not at all, and read only if they are whole."""

from __future__ import annotations

import codecs
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["load_arrays", "load_extra", "read_text", "replacing", "save_arrays"]

FORMAT = 1  # of saved files; a file of a later one is refused
EXTRA = "extra"  # entry of the header for what belongs to neither model nor checkpoint
# longer ones first: the mark of UTF-32 begins with that of UTF-16
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
PREFIX = f".{EXTRA}"  # of its arrays; no parameter's name begins with a dot
ARRAY = "array"  # stands in the header for an array of that name


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
    except OSError as error:
        if error.filename in (None, part, str(part)):  # nobody has asked for a file of that name
            raise OSError(error.errno, error.strerror or str(error), str(target)) from None
        raise
    finally:
        part.unlink(missing_ok=True)


def save_arrays(
    path: str | os.PathLike[str],
    kind: str,
    arrays: Mapping[str, np.ndarray],
    about: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
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
    extra : mapping, optional
        Anything else that belongs with it, for `load_extra`: what JSON can express, and arrays at any depth.

    Raises
    ------
    OSError
        If the file cannot be written; one that was there before is then unchanged.
    """
    from safetensors.numpy import save

    content = dict(arrays)
    parts = {kind: about} | ({EXTRA: _detached(extra, PREFIX, content)} if extra else {})
    header = {"format": FORMAT, "checksum": _checksum(content, *parts.values()), **parts}
    data = save(content, metadata={"rnncore": json.dumps(header)})
    with replacing(path) as part:
        part.write_bytes(data)


def load_arrays(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the description that `save_arrays` wrote. No code of the file is run.

    Raises
    ------
    OSError
        If there is no such file or it cannot be read.
    ValueError
        If it is damaged, or of another kind, or written by a later version.
    """
    arrays, header = _load(path, kind)
    own = {name: array for name, array in arrays.items() if not name.startswith(PREFIX)}
    return own, header[kind]


def load_extra(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what was saved beside a model as `extra`; nothing, {}, if there was none.

    Files that `rnncore train` writes have an entry "task": its name and what it knows about its data, such as
    the vocabulary of a text or the series of a forecaster.

    Parameters
    ----------
    path : path
        Of a file that `Sequential.save` wrote.

    Raises
    ------
    OSError
        If there is no such file or it cannot be read.
    ValueError
        If it is damaged, or no model of this package, or written by a later version.

    Examples
    --------
    >>> model.save("model.safetensors", extra={"classes": ["cat", "dog"], "mean": np.array([0.5, 2.0])})
    >>> rnncore.load_extra("model.safetensors")
    {'classes': ['cat', 'dog'], 'mean': array([0.5, 2. ])}
    """
    arrays, header = _load(path, "model")
    return _attached(header.get(EXTRA, {}), arrays)


def _load(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the header of a whole file of a kind."""
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
        checksum, parts = header["checksum"], [header[kind]]
    except LookupError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if EXTRA in header:
        parts.append(header[EXTRA])
    if checksum != _checksum(arrays, *parts):
        raise ValueError(f"{path} is damaged: its content does not match its checksum")
    return arrays, header


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
    others = header.keys() - {"format", "checksum", EXTRA, kind}
    if others and kind not in header:
        raise ValueError(f"{path} is no {kind} of rnncore, but a {', '.join(sorted(others))}")
    return header


def read_text(
    path: str | os.PathLike[str], encoding: str | None = None, *, fallback: str | None = None
) -> tuple[str, list[str]]:
    """Return the text of a file and what its reader should know, if anything.

    Parameters
    ----------
    path : path
    encoding : str, optional
        Any that Python knows. If not given, the byte-order mark decides, and without one it is UTF-8.
    fallback : str, optional
        Encoding of a file that is not UTF-8; if not given, such a file is an error.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If there is no such encoding, or the file is not in it.
    """
    data = Path(path).read_bytes()
    marked = next((name for mark, name in MARKS if data.startswith(mark)), None)
    # texts in UTF-16 without a mark have a zero in every other byte
    nulls = (data[1:200:2].count(0), data[0:200:2].count(0))
    if marked is None and max(nulls) > 0.4 * min(len(data), 200) / 2:
        marked = "utf-16-le" if nulls[0] > nulls[1] else "utf-16-be"
    name = encoding or marked or "utf-8"
    if name == "utf-8" and b"\0" in data:
        raise ValueError(f"{path} is no text file; of a spreadsheet, save a table as CSV")
    try:
        return _decoded(data, name), []
    except LookupError:
        raise ValueError(f"there is no encoding {encoding!r}: utf-8, utf-16 and cp1252 are usual") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        where = f"byte 0x{data[error.start]:02x} in line {line}"
        if encoding is None and fallback:
            text = data.decode(fallback, errors="replace")
            return text, [f"{path} is no UTF-8 text ({where}): it is read as {fallback}"]
        kind = "UTF-8" if name == "utf-8" else name
        advice = "" if encoding else ": give its encoding, such as cp1252 (Western Windows) or latin-1"
        raise ValueError(f"{path} is no {kind} text: {where} cannot be read{advice}") from None


def _decoded(data: bytes, encoding: str) -> str:
    """Return a text without its byte-order mark, and with newlines as in Python."""
    text = data.decode(encoding).removeprefix("\ufeff")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _detached(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """Return a value with every array in it replaced by the name under which it is put into `arrays`."""
    if isinstance(value, np.ndarray):
        dates = value.dtype.kind == "M"  # which the format does not know
        arrays[name] = np.ascontiguousarray(value.view(np.int64) if dates else value)
        return {ARRAY: name} | ({"dtype": str(value.dtype)} if dates else {})
    if isinstance(value, Mapping):
        return {key: _detached(part, f"{name}.{key}", arrays) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_detached(part, f"{name}.{i}", arrays) for i, part in enumerate(value)]
    return value


def _attached(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Return a value with its arrays back in their places."""
    if isinstance(value, dict):
        if ARRAY in value and value.keys() <= {ARRAY, "dtype"}:
            array = arrays[value[ARRAY]]
            return array.view(value.get("dtype", array.dtype))
        return {key: _attached(part, arrays) for key, part in value.items()}
    return [_attached(part, arrays) for part in value] if isinstance(value, list) else value


def _checksum(arrays: Mapping[str, np.ndarray], *about: Any) -> int:
    """Return a number that changes with every bit of the arrays and of what is said about them."""
    checksum = 0
    for part in about:
        checksum = zlib.crc32(json.dumps(part, sort_keys=True).encode(), checksum)
    for name in sorted(arrays):
        checksum = zlib.crc32(arrays[name].tobytes(), zlib.crc32(name.encode(), checksum))
    return checksum
