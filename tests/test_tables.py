"""CSV files as people have them."""

import numpy as np
import pytest

from rnncore import datasets, tables


@pytest.fixture
def read(tmp_path):
    """Read a table from its text or bytes."""

    def read(content, *columns, **options):
        path = tmp_path / "a.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return tables.read(path, columns, **options)

    return read


def days(table):
    return [str(day) for day in table.index.astype("datetime64[D]")]


# --- dialects ---


@pytest.mark.parametrize(
    ("content", "columns", "values"),
    [
        ("time,b,c\n0,1.5,-2\n1,2.5,3e1\n", ["time", "b", "c"], [[0, 1.5, -2], [1, 2.5, 30]]),
        ("a;b\n1,5;2\n-3;4,25\n", ["a", "b"], [[1.5, 2], [-3, 4.25]]),
        ("a\tb\n1.5\t2\n3\t4\n", ["a", "b"], [[1.5, 2], [3, 4]]),
        ("a|b\n1|2\n3|4\n", ["a", "b"], [[1, 2], [3, 4]]),
        ("  1.0   2.0\n  3.5  4.5\n 5 6\n", ["1", "2"], [[1, 2], [3.5, 4.5], [5, 6]]),
        ("1.5,2\n3,4\n", ["1", "2"], [[1.5, 2], [3, 4]]),
        ("1,5;2,5\n3,5;4,5\n", ["1", "2"], [[1.5, 2.5], [3.5, 4.5]]),
        ("a\n1\n5\n", ["a"], [[1], [5]]),
        ("a\n1,5\n2\n", ["a"], [[1.5], [2]]),
        ("3\n1\n5\n", ["1"], [[3], [1], [5]]),
        ('"a","b"\n"1,5","2,5"\n"3,5","4,5"\n', ["a", "b"], [[1.5, 2.5], [3.5, 4.5]]),
        ("a,b\r\n1,2\r\n3,4\r\n", ["a", "b"], [[1, 2], [3, 4]]),
        ("a,b\r1,2\r3,4\r", ["a", "b"], [[1, 2], [3, 4]]),
        ("a,b\n\n1,2\n\n3,4\n\n", ["a", "b"], [[1, 2], [3, 4]]),
        ("a;b;\n1;2;\n3;4;\n", ["a", "b"], [[1, 2], [3, 4]]),
        ("sep=;\na;b\n1;2\n3;4\n", ["a", "b"], [[1, 2], [3, 4]]),
        ("# made by x, y\na,b\n1,2\n3,4\n", ["a", "b"], [[1, 2], [3, 4]]),
        ("Station 4\nof a town\n\na,b\n1,2\n3,4\n", ["a", "b"], [[1, 2], [3, 4]]),
        ("when,2019,2020\n2020-01-01,1,2\n2020-01-02,3,4\n", ["2019", "2020"], [[1, 2], [3, 4]]),
        ("a,b\n\u22121.5,2\n3,4\n", ["a", "b"], [[-1.5, 2], [3, 4]]),
    ],
)
def test_dialects(read, content, columns, values):
    table = read(content)
    assert table.columns == columns
    assert table.values.tolist() == values


@pytest.mark.parametrize(
    ("encoding", "notes"),
    [
        ("utf-8", 0),
        ("utf-8-sig", 0),
        ("utf-16", 0),
        ("utf-16-le", 0),
        ("utf-16-be", 0),
        ("utf-32", 0),
        ("cp1252", 1),
    ],
)
def test_encodings(read, encoding, notes):
    table = read("Höhe;x\n1,5;2\n3;4\n".encode(encoding), "Höhe")
    assert table.columns == ["Höhe"]
    assert table.values.tolist() == [[1.5], [3]]
    assert len(table.notes) == notes
    assert all("a.csv is no UTF-8 text" in note and "read as cp1252" in note for note in table.notes)


def test_an_encoding_that_is_told(read):
    content = "Щ;x\n1;2\n".encode("cp1251")
    assert read(content, "Щ", encoding="cp1251").values.tolist() == [[1]]
    with pytest.raises(ValueError, match="there is no encoding 'klingon'"):
        read(content, encoding="klingon")
    with pytest.raises(ValueError, match=r"a\.csv is no utf-16 text: byte .* in line 1"):
        read(b"abc", encoding="utf-16")


@pytest.mark.parametrize(
    ("content", "values"),
    [
        ('a,b\n"1,234.5",2\n"12,345,678",3\n', [1234.5, 12345678]),
        ("a;b\n1.234,5;2\n2.345;3\n", [1234.5, 2345]),
        ("a;b\n1'234.5;2\n12 345;3\n", [1234.5, 12345]),
        ("a;b\n1\u00a0234,5;2\n12\u202f345;3\n", [1234.5, 12345]),
        ("a;b\n1,234;0.5\n2,345;3\n", [1234, 2345]),
        ("a;b\n1,234;2,5\n2,345;3\n", [1.234, 2.345]),
    ],
)
def test_groups_of_digits(read, content, values):
    assert read(content, "a").values[:, 0].tolist() == values


def test_a_comma_that_may_be_either(read):
    content = "a;b\n1,234;2\n2,345;3\n"
    with pytest.raises(ValueError, match=r"a\.csv, line 2: 'a' is 1,234, which may be 1234 or 1\.234"):
        read(content)
    assert read(content, decimal=",").values[:, 0].tolist() == [1.234, 2.345]
    assert read(content, decimal=".").values[:, 0].tolist() == [1234, 2345]


# --- columns ---


def test_columns_by_name_and_number(read):
    content = "b,2,a\n1,5,3\n4,9,6\n"
    assert read(content, "a", "b").values.tolist() == [[3, 1], [6, 4]]
    assert read(content, "2").values.tolist() == [[5], [9]]  # a name goes before a number
    assert read(content, "3", "1").columns == ["a", "b"]


def test_without_columns_all_numbers_are_read(read):
    table = read("day,who,a,b\n2020-01-01,x,1,5\n2020-01-02,y,7,8\n2020-01-03,y,7,8\n")
    assert table.columns == ["a", "b"]
    assert table.notes == ["not read, since they hold no numbers: 'who'"]


@pytest.mark.parametrize("first", ["year,x\n1700,5\n1701,7\n1702,4\n", ",x\n0,5\n1,7\n2,4\n"])
def test_numbers_of_rows_are_no_series(read, first):
    table = read(first)
    assert table.columns == ["x"]
    assert np.diff(table.index).tolist() == [1, 1]


def test_sunspots():
    rows = tables.read(datasets.SUNSPOTS, ["year", "sunspots"]).values
    assert np.array_equal(rows[:, 0], np.arange(1700, 2009))
    found = dict(rows.tolist())
    assert [found[year] for year in (1700, 1778, 1957, 2008)] == [5, 154.4, 190.2, 2.9]
    assert found[1957] == max(found.values())
    table = tables.read(datasets.SUNSPOTS)
    assert (table.columns, table.index_name, table.index[0], table.notes) == (["sunspots"], "year", 1700, [])


# --- what is refused ---


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        ("a,b\n1,2\n", ["c"], r"a\.csv has no column 'c', but 'a', 'b'"),
        (
            ",".join(f"c{i}" for i in range(300)) + "\n" + "1," * 299 + "1",
            ["x"],
            "'c18', 'c19' and 280 others",
        ),
        ("a,b\n1,2\n", ["a", "1"], "column '1' is given twice"),
        ("a,b,a\n1,2,3\n", ["a"], r"line 1: two columns are named 'a': give the number, 1 and 3"),
        ("a,b,a\n1,2,3\n4,5,9\n", [], r"line 1: two columns are named 'a': choose columns by their numbers"),
        ("date,v\n2020-01-01,10,5\n2020-01-02,11,5\n", ["v"], r"line 2: 3 fields, but the first line has 2"),
        ("date,v\n2020-01-01,1,234\n", [], r"line 2: 3 fields"),
        ("a,b\n1,2\n3\n4,5\n", [], "line 3: 1 field, but the first line has 2"),
        ("a,b\n1,2\n3,4,5\n", ["a"], "line 3: 3 fields"),
        ('a,b\n1,2\n"3,4\n5,6\n7,8\n', ["a"], "line 3: a quote is opened and not closed"),
        ('a,b\n1,"2\n3,4\n5,6"\n7,8\n', ["a"], "line 2: a quote is opened and not closed"),
        ('a,b\n1,"2" x\n', ["a"], "line 2: "),
        ("x\n1\nfoo\n3\n4\n", ["x"], "line 3: 'x' must be a number, got 'foo'"),
        ("x\n1\nfoo\n3\n4\n", [], "line 3: 'x' must be a number, got 'foo'"),
        ("x\n1\ninf\n3\n4\n", ["x"], "line 3: 'x' must be a number, got 'inf'"),
        ("x\n1\n1_000\n3\n4\n", ["x"], "line 3: 'x' must be a number, got '1_000'"),
        ("x\n1\n12%\n3\n4\n", ["x"], "line 3: 'x' must be a number, got '12%'"),
        ("x;y\n1,5;2\n1.5;3\n2,5;4\n", ["x"], "line 3: 'x' must be a number, got '1.5'"),
        ("{x}\n1\nfoo\n3\n4\n", [], "line 3: '{x}' must be a number, got 'foo'"),
        ("x\n1\n1e999\n3\n", ["x"], "line 3: 'x' is too large: 1e999"),
        ("a,b\nx,y\n", [], "no column of numbers, but 'a', 'b'"),
        ("a,b\n1,x\n", ["b"], "line 2: 'b' must be a number, got 'x'"),
        ("", [], r"a\.csv holds no rows"),
        ("a,b\n", [], r"a\.csv holds no rows below its header"),
        (b"PK\x03\x04\x00\x00", [], r"a\.csv is no text file; of a spreadsheet, save a table as CSV"),
        ("d,x\n2020-01-03,1\n2020-01-04,2\n2020-01-01,3\n", [], "line 4: 2020-01-01 comes after 2020-01-04"),
    ],
)
def test_refused(read, content, columns, message):
    with pytest.raises(ValueError, match=message):
        read(content, *columns)


# --- missing values ---


@pytest.mark.parametrize("value", ["", "NA", "n/a", "nan", "NULL", "-", "#N/A"])
def test_missing_values(read, value):
    content = f"a,b\n1,2\n3,{value}\n7,8\n3,{value}\n"
    with pytest.raises(
        ValueError, match=r"a\.csv, line 3: 'b' has no value, nor have 1 others: fill with previous"
    ):
        read(content, "a", "b")
    assert read(content, "a").values[:, 0].tolist() == [1, 3, 7, 3]
    assert read(content, "b", fill="linear").values[:, 0].tolist() == [2, 5, 8, 8]
    assert read(content, "b", fill="previous").values[:, 0].tolist() == [2, 2, 8, 8]
    table = read(content, "b", fill=-1.5)
    assert table.values[:, 0].tolist() == [2, -1.5, 8, -1.5]
    assert table.notes == ["'b': 2 missing values filled (-1.5), the first in line 3"]


def test_nothing_previous(read):
    with pytest.raises(ValueError, match="line 2: 'b' has no value, and no previous one to fill with"):
        read("a,b\n1,\n3,4\n5,6\n", "b", fill="previous")


# --- dates ---


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["2020-01-30", "2020-01-31", "2020-02-01"], ["2020-01-30", "2020-01-31", "2020-02-01"]),
        (["2020/1/30", "2020/1/31", "2020/2/1"], ["2020-01-30", "2020-01-31", "2020-02-01"]),
        (["30.01.2020", "31.01.2020", "01.02.2020"], ["2020-01-30", "2020-01-31", "2020-02-01"]),
        (["1/30/2020", "1/31/2020", "2/1/2020"], ["2020-01-30", "2020-01-31", "2020-02-01"]),
        (["30-01-20", "31-01-20", "01-02-20"], ["2020-01-30", "2020-01-31", "2020-02-01"]),
        (["1/2/2020", "1/3/2020", "1/4/2020"], ["2020-01-02", "2020-01-03", "2020-01-04"]),
        (["1/2/2020", "2/2/2020", "3/2/2020"], ["2020-02-01", "2020-02-02", "2020-02-03"]),
        (["20200130", "20200131", "20200201"], ["2020-01-30", "2020-01-31", "2020-02-01"]),
        (["2020-01", "2020-02", "2020-03"], ["2020-01-01", "2020-02-01", "2020-03-01"]),
    ],
)
def test_dates(read, texts, expected):
    table = read("d;x\n" + "".join(f"{day};{x}\n" for day, x in zip(texts, [1, 5, 3], strict=True)))
    assert days(table) == expected
    assert (table.columns, table.index_name, table.notes) == (["x"], "d", [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2020-01-02 03:04", "2020-01-02T03:04:00"),
        ("2020-01-02T03:04:05.678", "2020-01-02T03:04:05"),
        ("2020-01-02T03:04:05Z", "2020-01-02T03:04:05"),
        ("2020-01-02T03:04:05+02:00", "2020-01-02T01:04:05"),
        ("2020-01-02T03:04:05-0130", "2020-01-02T04:34:05"),
        ("1/13/2020 11:05 PM", "2020-01-13T23:05:00"),
        ("1/13/2020 12:05 am", "2020-01-13T00:05:00"),
    ],
)
def test_times(text, expected):
    assert [str(found) for found in tables.dates([text])] == [expected]


@pytest.mark.parametrize("texts", [["2020-02-30"], ["2020-13-01"], ["soon"], ["2020-01-01", "32.01.2020"]])
def test_what_is_no_date(texts):
    assert tables.dates(texts) == len(texts) - 1


def test_a_column_that_is_no_date_after_all(read):
    table = read("d,x\n2020-01-01,1\n2020-02-30,2\n2020-01-05,3\n")
    assert table.index is None
    assert table.notes == ["'d' is not read as dates: '2020-02-30' in line 3 is none"]


def test_date_and_time_in_two_columns(read):
    table = read("Date;Time;P\n16/12/2006;17:24:00;4.2\n16/12/2006;17:25:00;5.3\n16/12/2006;17:26:00;1\n")
    assert [str(time) for time in table.index[:2]] == ["2006-12-16T17:24:00", "2006-12-16T17:25:00"]
    assert table.notes == []


def test_gaps_are_told(read):
    table = read("d,x\n2020-01-01,1\n2020-01-02,2\n2020-01-05,3\n2020-01-06,3\n")
    assert table.notes == [
        "'d': 1 of 3 steps are not 1 day, as most are; the first is 3 days, behind 2020-01-02 in line 3. "
        "Rows count as if they were evenly spaced"
    ]
    assert read("d,x\n2020-01-31,1\n2020-02-29,2\n2020-03-31,3\n").notes == []
    assert read("d,x\n2019-01-01,1\n2019-02-01,2\n2019-03-01,3\n").notes == []
    (note,) = read("d,x\n2019-01-01,1\n2019-02-01,2\n2019-05-01,3\n2019-06-01,3\n").notes
    assert "1 of 3 steps are not 1 month, as most are; the first is 3 months, behind 2019-02-01" in note


def test_the_newest_first(read):
    table = read("d,x\n2020-01-03,1\n2020-01-02,2\n2020-01-01,3\n")
    assert table.values[:, 0].tolist() == [3, 2, 1]
    assert days(table) == ["2020-01-01", "2020-01-02", "2020-01-03"]
    assert table.notes == ["'d' goes back in time: rows are read from the last to the first"]


@pytest.mark.parametrize(
    ("index", "more"),
    [
        (np.array(["2020-01-30", "2020-01-31"], "datetime64[s]"), ["2020-02-01", "2020-02-02"]),
        (np.array(["2020-11-15", "2020-12-15"], "datetime64[s]"), ["2021-01-15", "2021-02-15"]),
        (np.array(["2020-01-01", "2021-01-01"], "datetime64[s]"), ["2022-01-01", "2023-01-01"]),
        (np.array(["2020-01-31", "2020-02-29"], "datetime64[s]"), ["2020-03-31", "2020-04-30"]),
        (np.array(["2020-01-01"], "datetime64[s]"), None),
        (np.array([1700.0, 1701]), ["1702", "1703"]),
        (np.array([1700.0]), ["1701", "1702"]),
    ],
)
def test_an_index_goes_on(index, more):
    found = tables.extended(index, len(index) + 2)
    assert np.array_equal(found[: len(index)], index)
    assert [tables.label(x) for x in found[len(index) :]] == (more or ["2020-01-01"] * 2)
    assert np.array_equal(tables.extended(index, 1), index[:1])
