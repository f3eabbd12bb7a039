"""Tables of numbers as people have them: CSV files of any dialect, with dates, gaps and missing values."""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from rnncore.files import read_text

__all__ = ["Row", "Table", "dates", "extended", "label", "read"]

DELIMITERS = (",", ";", "\t", "|", " ")  # the earlier ones win a tie; a space stands for any white space
NO_DELIMITER = "\x1f"  # of a single column
SAMPLE = 100  # rows that tell the delimiter and the header
LISTED = 20  # columns that an error lists
MISSING = {"", "-", "?", ".", "na", "n/a", "nan", "null", "none", "#n/a", "#na", "missing"}  # in lower case
EXPONENT = r"(?:[eE][+-]?[0-9]+)?"
# whole part in groups of three or without; the decimal mark and what is behind it
NUMBERS = {
    ".": re.compile(rf"[+-]?(?:[0-9]+|[0-9]{{1,3}}(?:[,'’ ][0-9]{{3}})+)?(?:\.[0-9]*)?{EXPONENT}"),
    ",": re.compile(rf"[+-]?(?:[0-9]+|[0-9]{{1,3}}(?:[.'’ ][0-9]{{3}})+)?(?:,[0-9]*)?{EXPONENT}"),
}
GROUP_OR_FRACTION = re.compile(r"[+-]?[1-9][0-9]{0,2},[0-9]{3}")  # 1,234 is 1234 or 1.234
DATE = re.compile(
    r"(?P<a>\d{1,4})(?P<mark>[-/.])(?P<b>\d{1,2})(?:(?P=mark)(?P<c>\d{1,4}))?"
    r"(?:[T ]+(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,]\d+)?)?\s*(?P<half>[AaPp][Mm])?"
    r"\s*(?P<zone>Z|[+-]\d{2}:?\d{2})?)?"
)
ISO = re.compile(r"\d{4}-\d\d-\d\d(?:[ T]\d\d:\d\d(?::\d\d)?)?")  # what NumPy reads
COMPACT = re.compile(r"((?:18|19|20|21)\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])")
TIME = re.compile(r"\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?\s*(?:[AaPp][Mm])?")


@dataclass
class Table:
    """Columns of numbers, with what else a reader should know.

    Attributes
    ----------
    columns : list of str
        Names of the columns.
    values : ndarray of float64, (S, C)
        Without missing values.
    index : ndarray of datetime64[s] or float64, (S,), or None
        What stands beside the rows: their dates, or evenly rising numbers such as years.
    index_name : str
    notes : list of str
        Sentences about what was found and done: gaps, filled values, a guessed encoding.
    """

    columns: list[str]
    values: np.ndarray
    index: np.ndarray | None = None
    index_name: str = "row"
    notes: list[str] = field(default_factory=list)


class Row(NamedTuple):
    """A line of the file, by the number of its first line, and its cells."""

    line: int
    cells: list[str]


def read(
    path: str | os.PathLike[str],
    columns: Sequence[str] = (),
    *,
    fill: str | float | None = None,
    decimal: str | None = None,
    encoding: str | None = None,
) -> Table:
    r"""Read columns of numbers from a CSV file.

    Fields may be separated by commas, semicolons, tabs, ``|`` or white space; numbers may have a decimal
    point or a decimal comma and groups of three digits. A first line without numbers names the columns;
    without one, their names are "1", "2", ...

    Parameters
    ----------
    path : path
    columns : sequence of str
        Names or numbers (from 1) of columns. If none is given, all that hold numbers, but one that numbers
        the rows.
    fill : "previous", "linear" or float, optional
        What to put for a missing value: the one before, a straight line between its neighbours (beyond the
        last of them the nearest), or a number. If not given, a missing value is an error.
    decimal : {".", ","}, optional
        The decimal mark; found in the file if not given.
    encoding : str, optional
        Of the file; see `rnncore.files.read_text`.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it has no such column, a row with more or fewer fields than the header, an open quote, two columns
        of the name asked for, a value that is missing or no number, or dates out of order; its line is named.
    """
    text, notes = read_text(path, encoding, fallback="cp1252")
    rows = _rows(path, text, decimal)
    if not rows:
        raise ValueError(f"{path} holds no rows")
    names, rows = _header(rows)
    if not rows:
        raise ValueError(f"{path} holds no rows below its header")
    _require_rectangle(path, names, rows)
    cells = {c: [row.cells[c].strip() for row in rows] for c in range(len(names))}
    dates = [c for c in cells if _is_dates(cells[c])]
    numeric = [c for c in cells if c not in dates and _is_numeric(cells[c])]
    chosen = _choose(path, names, columns) if columns else numeric
    if not chosen:
        raise ValueError(f"{path} has no column of numbers, but {_listed(list(map(repr, names)))}")
    lines = [row.line for row in rows]
    mark = decimal or _decimal(path, names, lines, {c: cells[c] for c in dict.fromkeys(numeric + chosen)})
    values = {c: _numbers(path, names[c], lines, cells[c], mark) for c in chosen}
    table = Table([], np.empty(0), notes=notes)
    others = [
        repr(names[c])
        for c in cells
        if c not in numeric and c not in dates and any(cells[c]) and not TIME.fullmatch(cells[c][0])
    ]
    if others and not columns:
        notes.append(f"not read, since they hold no numbers: {_listed(others)}")
    first = _usual_numbers(cells[0], fraction=mark == ",") if 0 in numeric else None
    if first is not None and _rises_evenly(first) and (0 not in chosen if columns else len(chosen) > 1):
        table.index, table.index_name = first, names[0]
        chosen = [c for c in chosen if c]
    table.columns = [names[c] for c in chosen]
    if len(set(table.columns)) < len(table.columns):
        twice = next(name for name, count in Counter(table.columns).items() if count > 1)
        raise ValueError(f"{path}, line 1: two columns are named {twice!r}: choose columns by their numbers")
    for c in chosen:
        _fill(path, names[c], lines, values[c], fill, notes)
    table.values = np.stack([values[c] for c in chosen], axis=1)
    if dates:
        _take_dates(path, table, names, lines, cells, dates[0])
    return table


# --- fields ---


def _rows(path: str | os.PathLike[str], text: str, decimal: str | None) -> list[Row]:
    """Return the rows of a file, in whatever way its fields are separated."""
    told = re.match(r"sep=(.)\n", text)  # a line that spreadsheets understand
    text = text[told.end() - 1 :] if told else text
    delimiter = told[1] if told else _delimiter(text, decimal)
    rows: list[Row] = []
    reader = _reader(text, delimiter, strict=True)
    line, what = 1, ""
    try:
        for cells in reader:
            if _is_row(cells, first=not rows):
                rows.append(Row(line, cells))
            if reader.line_num > line and any(
                part.count(delimiter) == len(cells) - 1 for cell in cells for part in cell.split("\n")[1:]
            ):
                raise csv.Error("unexpected end")  # whole rows within the quotes
            line = reader.line_num + 1
    except csv.Error as error:
        what = "a quote is opened and not closed" if "unexpected end" in str(error) else str(error)
        raise ValueError(f"{path}, line {line}: {what}") from None
    return rows[_title([cells for _, cells in rows[:SAMPLE]]) :]


def _is_row(cells: Sequence[str], first: bool) -> bool:
    """Return whether fields are a row: neither an empty line nor a comment before the first one."""
    return any(cell.strip() for cell in cells) and not (first and cells[0].startswith("#"))


def _title(rows: Sequence[Sequence[str]]) -> int:
    """Return how many lines of text stand above the header, which has several fields and no value."""
    count = next((i for i, cells in enumerate(rows) if len(cells) > 1), 0)
    return count if count and not any(map(_looks_like_a_value, rows[count])) else 0


class _Whitespace:
    """Reads as csv.reader does, but lines of words."""

    def __init__(self, text: str) -> None:
        self.line_num = 0
        self._lines = iter(text.splitlines())

    def __iter__(self) -> _Whitespace:
        return self

    def __next__(self) -> list[str]:
        self.line_num += 1
        return next(self._lines).split()


def _reader(text: str, delimiter: str, *, strict: bool) -> Any:
    if delimiter == " ":
        return _Whitespace(text)
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=strict)


def _delimiter(text: str, decimal: str | None) -> str:
    """Return what separates the fields of a file: what makes most rows as long as the first, of numbers."""
    best, found = 0.0, NO_DELIMITER
    for delimiter in DELIMITERS:
        if delimiter == decimal:
            continue
        try:
            sample = list(islice(_reader(text, delimiter, strict=False), SAMPLE))
        except csv.Error:
            continue
        sample = [row for row in sample if _is_row(row, first=True)]
        head, *rest = sample[_title(sample) :] or [[]]
        if len(head) < 2 or (rest and all(len(row) < 2 for row in rest)):
            continue
        alike = sum(len(row) == len(head) for row in [head, *rest]) / (1 + len(rest))
        cells = [cell for row in rest or [head] for cell in row]
        score = alike * (0.01 + sum(map(_looks_like_a_value, cells)) / len(cells))
        if score > best:
            best, found = score, delimiter
    return found


def _looks_like_a_value(cell: str) -> bool:
    cell = cell.strip()
    return _is_missing(cell) or _is_number(cell) or bool(DATE.fullmatch(cell) or TIME.fullmatch(cell))


def _is_missing(cell: str) -> bool:
    return cell.lower() in MISSING


def _is_number(cell: str) -> bool:
    """Return whether a text is a number, by one decimal mark or the other."""
    cell = _plain(cell)
    return any(c.isdigit() for c in cell) and any(pattern.fullmatch(cell) for pattern in NUMBERS.values())


def _plain(cell: str) -> str:
    """Return a number without the signs that look like others."""
    if cell.isascii():
        return cell
    return cell.replace("\u2212", "-").replace("\u00a0", " ").replace("\u202f", " ")


def _header(rows: list[Row]) -> tuple[list[str], list[Row]]:
    """Return the names of the columns and the rows below them.

    The first row is a header if it has no number at all, or if a column of values begins with another text.
    """
    first, rest = rows[0].cells, rows[1 : 1 + SAMPLE]
    values = [_looks_like_a_value(cell) for cell in first]
    headed = not any(
        value and not _is_missing(cell.strip()) for value, cell in zip(values, first, strict=True)
    )
    for c, value in enumerate(values):
        below = [row.cells[c] for row in rest if c < len(row.cells) and not _is_missing(row.cells[c].strip())]
        if not value and below and sum(map(_looks_like_a_value, below)) > len(below) / 2:
            headed = True
    if not headed:
        return [str(c) for c in range(1, len(first) + 1)], rows
    return [cell.strip() or str(c) for c, cell in enumerate(first, 1)], rows[1:]


def _require_rectangle(path: str | os.PathLike[str], names: Sequence[str], rows: Iterable[Row]) -> None:
    """Raise unless every row has a field for each column."""
    for line, cells in rows:
        if len(cells) != len(names):
            plural = "" if len(cells) == 1 else "s"
            raise ValueError(
                f"{path}, line {line}: {len(cells)} field{plural}, but the first line has {len(names)}. "
                "A number with a decimal comma, or a text with a comma, must stand in quotes"
            )


# --- columns ---


def _choose(path: str | os.PathLike[str], names: Sequence[str], columns: Sequence[str]) -> list[int]:
    """Return the places of columns that are given by name or number."""
    chosen: list[int] = []
    for column in columns:
        places = [c for c, name in enumerate(names) if name == column]
        if len(places) > 1:
            numbers = " and ".join(str(c + 1) for c in places)
            raise ValueError(f"{path}, line 1: two columns are named {column!r}: give the number, {numbers}")
        if not places and column.isdecimal() and 1 <= int(column) <= len(names):
            places = [int(column) - 1]
        if not places:
            raise ValueError(f"{path} has no column {column!r}, but {_listed(list(map(repr, names)))}")
        if places[0] in chosen:
            raise ValueError(f"column {column!r} is given twice")
        chosen += places
    return chosen


def _listed(names: Sequence[str]) -> str:
    more = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {more} others" if more > 0 else "")


def _is_numeric(cells: Sequence[str]) -> bool:
    """Return whether most of a column's values are numbers: what is not one then is an error."""
    there = _some_values(cells)
    return bool(there) and sum(map(_is_number, there)) > len(there) / 2


def _is_dates(cells: Sequence[str]) -> bool:
    """Return whether a column's values look like dates; eight digits are one if all of them can be."""
    there = _some_values(cells)
    if there and all(map(COMPACT.fullmatch, there)):
        return True
    match = DATE.fullmatch(there[0]) if there else None
    return match is not None and bool(match["c"] or len(match["a"]) == 4) and not _is_number(there[0])


def _some_values(cells: Sequence[str]) -> list[str]:
    """Return values of all parts of a column."""
    some = [cell for cell in cells[:: max(len(cells) // 1000, 1)] if not _is_missing(cell)]
    return some or [cell for cell in cells if not _is_missing(cell)][:1000]


# --- numbers ---


def _decimal(
    path: str | os.PathLike[str],
    names: Sequence[str],
    lines: Sequence[int],
    columns: dict[int, list[str]],
) -> str:
    """Return the decimal mark of a file; raise if it cannot be told."""
    unclear = None
    point = False
    for c, cells in columns.items():
        for line, cell in zip(lines, cells, strict=True):
            if "," not in cell:
                point = point or ("." in cell and _is_number(cell))
            elif GROUP_OR_FRACTION.fullmatch(cell):
                unclear = unclear or (line, names[c], cell)
            elif NUMBERS[","].fullmatch(_plain(cell)):
                return ","
            elif NUMBERS["."].fullmatch(_plain(cell)):
                return "."
    if unclear and not point:
        line, name, cell = unclear
        raise ValueError(
            f"{path}, line {line}: {name!r} is {cell}, which may be {cell.replace(',', '')} or "
            f"{cell.replace(',', '.')}: say which is the decimal mark, '.' or ','"
        )
    return "."


def _numbers(
    path: str | os.PathLike[str], name: str, lines: Sequence[int], cells: Sequence[str], decimal: str
) -> np.ndarray:
    """Return cells of text as numbers, with NaN for missing values; raise if a cell is no number."""
    found = np.empty(len(cells))
    pattern, fraction = NUMBERS[decimal], decimal == ","
    groups = str.maketrans(dict.fromkeys(("." if fraction else ",", "'", "’", " ")))
    if (usual := _usual_numbers(cells, fraction)) is not None:
        return usual
    for i, (line, cell) in enumerate(zip(lines, cells, strict=True)):
        text = _plain(cell)
        if pattern.fullmatch(text) and any(map(str.isdigit, text)):
            found[i] = float(text.translate(groups).replace(",", "."))
        elif _is_missing(cell):
            found[i] = np.nan
        else:
            raise ValueError(f"{path}, line {line}: {name!r} must be a number, got {cell[:40]!r}")
        if np.isinf(found[i]):
            raise ValueError(f"{path}, line {line}: {name!r} is too large: {cell[:40]}")
    return found


def _usual_numbers(cells: Sequence[str], fraction: bool) -> np.ndarray | None:
    """Return numbers that Python reads, which is faster; None if there are others."""
    if fraction:
        if any("." in cell for cell in cells):
            return None
        cells = [cell.replace(",", ".") for cell in cells]
    try:
        found = np.array([float(cell) for cell in cells])
    except ValueError:
        return None
    return found if np.isfinite(found).all() and not any("_" in cell for cell in cells) else None


def _fill(
    path: str | os.PathLike[str],
    name: str,
    lines: Sequence[int],
    values: np.ndarray,
    fill: str | float | None,
    notes: list[str],
) -> None:
    """Put something for the missing values of a column, in place."""
    missing = np.isnan(values)
    if not missing.any():
        return
    first = lines[int(missing.argmax())]
    count = int(missing.sum())
    if fill is None:
        others = f", nor have {count - 1} others" if count > 1 else ""
        raise ValueError(
            f"{path}, line {first}: {name!r} has no value{others}: fill with previous, linear or a number"
        )
    there = np.flatnonzero(~missing)
    if fill == "linear":
        values[missing] = np.interp(np.flatnonzero(missing), there, values[there])
    elif fill == "previous":
        if missing[0]:
            raise ValueError(f"{path}, line {first}: {name!r} has no value, and no previous one to fill with")
        latest = np.maximum.accumulate(np.where(missing, 0, np.arange(len(values))))
        values[:] = values[latest]
    else:
        values[missing] = float(fill)
    plural = "value" if count == 1 else "values"
    notes.append(f"{name!r}: {count} missing {plural} filled ({fill}), the first in line {first}")


def _rises_evenly(values: np.ndarray) -> bool:
    """Return whether values number the rows: whole numbers, one after another or at a fixed distance."""
    if len(values) < 3 or np.isnan(values).any():
        return False
    steps = np.diff(values)
    return bool(steps[0] > 0 and (steps == steps[0]).all() and (values == np.floor(values)).all())


# --- dates ---


def _take_dates(
    path: str | os.PathLike[str],
    table: Table,
    names: Sequence[str],
    lines: list[int],
    cells: dict[int, list[str]],
    date: int,
) -> None:
    """Find the dates of the rows, and bring the rows into their order."""
    texts = [COMPACT.sub(r"\1-\2-\3", text) for text in cells[date]]
    clock = [c for c, times in cells.items() if all(map(TIME.fullmatch, times))]
    if clock and all(" " not in text and "T" not in text for text in texts):  # the time has its own column
        texts = [f"{day} {time}" for day, time in zip(texts, cells[clock[0]], strict=True)]
    found = dates(texts)
    if isinstance(found, int):
        table.notes.append(
            f"{names[date]!r} is not read as dates: {cells[date][found]!r} in line {lines[found]} is none"
        )
        return
    steps = np.diff(found)
    zero = np.timedelta64(0, "s")
    if len(found) > 1 and (steps < zero).all():
        found, table.values = found[::-1], table.values[::-1]
        lines = lines[::-1]
        steps = np.diff(found)
        table.notes.append(f"{names[date]!r} goes back in time: rows are read from the last to the first")
    for i in np.flatnonzero(steps < zero)[:1].tolist():
        raise ValueError(
            f"{path}, line {lines[i + 1]}: {_day(found[i + 1])} comes after {_day(found[i])}, "
            "but rows must be in the order of time"
        )
    table.index, table.index_name = found, names[date]
    table.notes += _gaps(names[date], found, lines)


def dates(texts: Sequence[str]) -> np.ndarray | int:
    """Return dates in whatever order of day, month and year, (S,) datetime64[s], or where there is none.

    Dates with a time zone are in UTC. Where day and month cannot be told apart, the order is that of rising
    dates in the steadiest steps, and otherwise the day first.
    """
    if len(texts[0]) in (10, 16, 19) and all(map(ISO.fullmatch, texts)):
        try:
            return np.array(texts, "datetime64[s]")
        except ValueError:
            pass  # the place of what is no date is still to be found
    matches = []
    for i, text in enumerate(texts):
        match = DATE.fullmatch(text)
        if match is None:
            return i
        matches.append(match)
    orders = ["abc", "cba", "cab"]
    for i, match in enumerate(matches):
        orders = [order for order in orders if _fits(match, order)]
        if not orders:
            return i
    found = []
    wrong = 0
    for order in orders:
        try:
            found.append(np.array([_iso(match, order) for match in matches], "datetime64[s]"))
        except ValueError:
            wrong = next(i for i, match in enumerate(matches) if not _is_date(_iso(match, order)))
    if not found:
        return wrong
    zones = np.array([_offset(match["zone"]) for match in matches], "timedelta64[s]")
    return min(found, key=_unsteadiness) - zones


def _fits(match: re.Match[str], order: str) -> bool:
    """Return whether the parts of a date can be year, month and day in this order."""
    year, month, day = (match[name] for name in order)
    if day is None or year is None:  # a year and a month, or a month and a year
        return order == "abc" and len(match["a"]) == 4 and 1 <= int(match["b"]) <= 12
    return (
        len(year) in (2, 4)
        and len(day) <= 2
        and len(month) <= 2
        and int(month) <= 12
        and int(day) <= 31
        and (len(year) == 4 or order != "abc")
    )


def _iso(match: re.Match[str], order: str) -> str:
    year, month, day = (int(match[name] or 1) for name in order)
    if len(match[order[0]]) == 2:
        year += 2000 if year < 70 else 1900
    hour, minute, second = (int(match[name] or 0) for name in ("hour", "minute", "second"))
    if match["half"]:
        hour = hour % 12 + (12 if match["half"].lower() == "pm" else 0)
    return f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"


def _is_date(text: str) -> bool:
    try:
        np.datetime64(text)
    except ValueError:
        return False
    return True


def _offset(zone: str | None) -> int:
    """Return the seconds by which a time zone is ahead of UTC."""
    if not zone or zone == "Z":
        return 0
    minutes = 60 * int(zone[1:3]) + int(zone[-2:])
    return 60 * (minutes if zone[0] == "+" else -minutes)


def _unsteadiness(found: np.ndarray) -> tuple[bool, int]:
    """Return whether dates go back, and how many kinds of steps they make."""
    steps = np.diff(found).astype(np.int64)
    return not ((steps >= 0).all() or (steps <= 0).all()), len(np.unique(steps))


def _months(found: np.ndarray) -> tuple[np.ndarray, np.timedelta64] | None:
    """Return dates as months and the same distance from each one's beginning; None if they are no such dates.

    The last day of a month is a day before the next one.
    """
    for shift in (np.timedelta64(0, "D"), np.timedelta64(1, "D")):
        months = (found + shift).astype("datetime64[M]")
        within = found - months.astype("datetime64[s]")
        if (within == within[0]).all() and (np.diff(months).astype(np.int64) > 0).all():
            return months, within[0]
    return None


def _commonest(steps: np.ndarray) -> Any:
    """Return the step that most are."""
    kinds, counts = np.unique(steps, return_counts=True)
    return kinds[counts.argmax()]


def extended(found: np.ndarray, length: int) -> np.ndarray:
    """Return an index continued by its usual step, (length,); a single number goes on by 1, a date not."""
    more = np.arange(1, length - len(found) + 1)
    months = _months(found) if found.dtype.kind == "M" else None
    if len(found) < 2:
        beyond = np.repeat(found, len(more)) if found.dtype.kind == "M" else found + more
    elif months:
        beyond = months[0][-1] + _commonest(np.diff(months[0])) * more + months[1]
    else:
        beyond = found[-1] + _commonest(np.diff(found)) * more
    return np.concatenate([found, beyond])[:length]


def _gaps(name: str, found: np.ndarray, lines: Sequence[int]) -> list[str]:
    """Return what to say about dates that are not at one distance."""
    if len(found) < 2:
        return []
    months = _months(found)
    steps = np.diff(months[0] if months else found)
    usual = _commonest(steps)
    odd = np.flatnonzero(steps != usual)
    if not len(odd):
        return []
    i = int(odd[0])
    return [
        f"{name!r}: {len(odd)} of {len(steps)} steps are not {_span(usual)}, as most are; the first is "
        f"{_span(steps[i])}, behind {_day(found[i])} in line {lines[i]}. "
        "Rows count as if they were evenly spaced"
    ]


def _span(step: np.timedelta64) -> str:
    """Return a time span in the largest unit that it is whole in."""
    count = int(step.astype(np.int64))
    if np.datetime_data(step.dtype)[0] == "M":
        sizes = (("year", 12), ("month", 1))
    else:
        sizes = (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1))  # type: ignore[assignment]
    unit, size = next((unit, size) for unit, size in sizes if count % size == 0)
    return f"{count // size} {unit}{'' if count == size else 's'}"


def label(value: Any) -> str:
    """Return an element of an index as text."""
    return _day(value) if isinstance(value, np.datetime64) else f"{value:.10g}"


def _day(date: np.datetime64) -> str:
    """Return a date without a time of day that is midnight."""
    return str(date).removesuffix("T00:00:00").replace("T", " ").removesuffix(":00")
