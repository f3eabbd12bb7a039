"""Commands for forecasting and for the long-lag problems: what they print and write, and wrong input."""

import csv
import json
import re
import sys
from typing import NamedTuple

import numpy as np
import pytest

import rnncore as rc
from rnncore import cli


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def rnncore(monkeypatch, capsys, tmp_path):
    """Run the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["rnncore", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return Result(end.value.code or 0, *capsys.readouterr())

    return run


@pytest.fixture
def table(tmp_path):
    """Return a CSV file with two columns of 80 numbers and one of names."""
    path = tmp_path / "table.csv"
    rows = [f"{np.sin(t):.6f},{t},name{t}" for t in range(80)]
    path.write_text("\n".join(["wave,time,name", *rows]) + "\n", encoding="utf-8")
    return path


FILES = "model.safetensors, history.csv, metrics.json, curves.png"


@pytest.mark.parametrize(
    ("command", "metric"),
    [
        (
            ["adding-problem", "--length", 10, "--cell", "rnn"],
            "mean squared error  .* \\(always answering 1: 0.1",
        ),
        (["temporal-order", "--length", 20], "accuracy  .*% \\(by guessing: 12.50%"),
        (["reber"], "strings with every legal continuation predicted  .*%"),
    ],
)
def test_train_a_problem(rnncore, tmp_path, command, metric):
    result = rnncore("train", *command, "--steps", 2, "--quiet")
    assert result.code == 0
    assert result.err == ""
    shown, written = result.out.splitlines()
    assert re.match(metric, shown)
    assert written == f"written to runs/{command[0]}: {FILES}"
    assert rnncore("evaluate", tmp_path / "runs" / command[0]).out == f"{shown}\n"


@pytest.mark.parametrize("recipe", ["default", "tutorial"])
def test_train_sine(rnncore, tmp_path, recipe):
    result = rnncore("train", "sine", "--recipe", recipe, "--steps", 3, "--quiet")
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[0].split() == ["root", "mean", "squared", "error", "network", "last", "value"]
    assert [line.split("  ")[0] for line in lines[1:-1]] == ["1 row ahead", "91 rows ahead"]
    assert lines[-1] == f"written to runs/sine: {FILES}, forecast.png"
    assert (tmp_path / "runs" / "sine" / "forecast.png").read_bytes().startswith(b"\x89PNG")
    assert rnncore("evaluate", "runs/sine").out.splitlines() == lines[:-1]


@pytest.mark.parametrize("extra", [(), ("--recipe", "network", "--horizon", 2)])
def test_train_series_and_forecast_from_the_folder(rnncore, table, tmp_path, extra):
    options = ("--window", 5, "--season", 6, "--steps", 3, "--quiet", "--out", "run", *extra)
    result = rnncore("train", "series", table, "--column", "time", "--column", "wave", *options)
    assert result.code == 0
    shown = [line.split("  ")[0] for line in result.out.splitlines()[1:5]]
    assert shown == [f"{name}, {far} ahead" for far in ("1 row", "6 rows") for name in ("time", "wave")]
    table.unlink()  # the folder is enough

    (tmp_path / "run" / "forecast.png").unlink()
    rows = list(csv.DictReader(rnncore("forecast", "run").out.splitlines()))
    assert [int(row["row"]) for row in rows] == list(range(64, 80))
    rows = list(csv.DictReader(rnncore("forecast", "run", "--start", 80, "--steps", 3).out.splitlines()))
    assert [list(row) for row in rows] == [["row", "time", "wave"]] * 3
    assert (tmp_path / "run" / "forecast.png").read_bytes().startswith(b"\x89PNG")


def test_the_included_series(rnncore):
    result = rnncore("train", "series", "--steps", 3, "--quiet")
    assert result.code == 0
    heads, _, ahead = result.out.splitlines()[:3]
    column = re.split("  +", heads).index("last season")
    assert re.split("  +", ahead)[column] == "39.18"
    first = rnncore("forecast", "runs/series", "--steps", 1)
    assert first.out.splitlines()[0] == "row,year,sunspots"
    assert first.out.splitlines()[1].startswith("247,1947,")


def test_what_was_chosen_is_told(rnncore, table, tmp_path):
    result = rnncore("train", "series", table, "--column", "wave", "--quiet", "--verbose", "--ahead", 3)
    assert result.code == 0
    lines = result.out.splitlines()
    assert any(line.startswith("1 row ahead, wave: AR(") for line in lines)
    assert any(line.startswith("3 rows ahead, wave: AR(") for line in lines)
    assert "next:" in lines
    assert sum(line.startswith("    tried: last value ") for line in lines) == 2
    about = json.loads((tmp_path / "runs" / "series" / "metrics.json").read_text(encoding="utf-8"))
    assert set(about["choice"]["next"]["wave"]["tried"]) >= {"last value", "AR(1)", "AR(2)"}
    forecaster = rc.load(tmp_path / "runs" / "series" / "model.safetensors")  # alone, of raw values
    wave = np.sin(np.arange(200.0))
    assert forecaster.forecast(wave[:150], 50) == pytest.approx(wave[150:], abs=1e-3)


@pytest.mark.parametrize("level", [123456791, -1e-9, 0, 5e9])
def test_forecasts_have_digits_enough_to_tell_them_apart(rnncore, tmp_path, level):
    """In relation to how much the series varies, not to how far from zero it is."""
    scale = 1e-12 if level == -1e-9 else 1.0
    rows = [f"{level + scale * np.sin(t / 3):.17g}" for t in range(200)]
    (tmp_path / "s.csv").write_text("\n".join(["a", *rows]), encoding="utf-8")
    rnncore("train", "series", "s.csv", "--column", "a", "--steps", 40, "--quiet", "--out", "run")
    shown = [float(row["a"]) for row in csv.DictReader(rnncore("forecast", "run").out.splitlines())]
    path = tmp_path / "run"
    config = rc.load_extra(path / "model.safetensors")["task"]
    del config["name"]
    task = rc.tasks.Forecasting(**config)
    expected = task.forecast(rc.load(path / "model.safetensors"))[:, 0]
    assert len(set(shown)) == len(shown)
    np.testing.assert_allclose(shown, expected, rtol=1e-15, atol=1e-6 * scale)


def test_without_matplotlib(rnncore, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert rnncore("train", "sine", "--steps", 1, "--quiet").code == 0
    assert rnncore("forecast", "runs/sine").code == 0
    assert not list((tmp_path / "runs" / "sine").glob("*.png"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "adding-problem", "--length", 1], ["--length"]),
        (["train", "temporal-order", "--length", 5], ["--length"]),
        (["train", "reber", "--steps", 0], ["--steps"]),
        (["train", "sine", "--recipe", "fast"], ["fast"]),
        (["train", "series", "nowhere.csv", "--column", "a"], ["nowhere.csv"]),
        (["train", "series", "--horizon", 2], ["--horizon is for --recipe network"]),
        (["train", "series", "--recipe", "network", "--patience", 2], ["--patience is for the default"]),
        (["train", "series", "--column", "a"], ["--column", "FILE"]),
        (["train", "series", "table.csv", "--column", "height"], ["no column 'height'", "'wave'"]),
        (["train", "series", "table.csv", "--column", "name"], ["line 2", "name0"]),
        (
            ["train", "series", "table.csv", "--column", "wave", "--window", 99],
            ["80 rows, of which 64 are to train on", "window = 99"],
        ),
        (["train", "series", "table.csv", "--column", "wave", "--held-out", 1], ["--held-out"]),
        (["forecast"], ["MODEL"]),
        (["forecast", "nowhere"], ["nowhere"]),
    ],
)
def test_wrong_input_is_told_in_one_line(rnncore, table, tmp_path, arguments, words):
    assert_refused(rnncore(*arguments), *words)
    assert not (tmp_path / "runs").exists()


def test_a_missing_value_is_told_with_its_line(rnncore, table):
    lines = table.read_text().splitlines()
    lines[17] = ",3,x"
    table.write_text("\n".join(lines))
    assert_refused(rnncore("train", "series", table, "--column", "wave"), "table.csv, line 18", "wave")


def test_forecast_of_wrong_ranges_and_models(rnncore):
    rnncore("train", "sine", "--steps", 1, "--quiet")
    assert_refused(rnncore("forecast", "runs/sine", "--start", 9), "start must lie in 10 ... 101", "got 9")
    rnncore("train", "reber", "--steps", 1, "--quiet")
    assert_refused(rnncore("forecast", "runs/reber"), "'reber', not on a series")


def assert_refused(result: Result, *words: str) -> None:
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("rnncore: ")
    assert result.err.count("\n") == 1
    for word in words:
        assert word in result.err


# --- files as people have them ---


def dated(start, days, columns="Tag;Höhe;Breite"):
    """A file with semicolons, decimal commas and dates."""
    dates = np.datetime64(start) + np.arange(days)
    values = [f"{10 + np.sin(t):.4f};{t % 7},5".replace(".", ",") for t in range(days)]
    lines = [f"{day.astype(object):%d.%m.%Y};{row}" for day, row in zip(dates, values, strict=True)]
    return "\n".join([columns, *lines]) + "\n"


@pytest.fixture
def days(rnncore, tmp_path):
    """Train on 120 days of a file in cp1252."""
    (tmp_path / "tage.csv").write_bytes(dated("2020-01-01", 120).encode("cp1252"))
    result = rnncore("train", "series", "tage.csv", "--steps", 10, "--ahead", 7, "--out", "run")
    assert result.code == 0
    return result


def test_all_columns_of_numbers_are_learnt(days):
    assert days.err == "tage.csv is no UTF-8 text (byte 0xf6 in line 1): it is read as cp1252\n"
    assert days.out.startswith("tage.csv: 120 rows (Tag 2020-01-01 to 2020-04-29) of Höhe, Breite\n")


def test_forecasts_have_the_dates_of_their_rows(rnncore, days):
    rows = list(csv.DictReader(rnncore("forecast", "run", "--start", 119, "--steps", 3).out.splitlines()))
    assert [(row["row"], row["Tag"]) for row in rows] == [
        ("119", "2020-04-29"),
        ("120", "2020-04-30"),
        ("121", "2020-05-01"),
    ]
    by_date = rnncore("forecast", "run", "--start", "29.4.2020", "--steps", 3)
    assert list(csv.DictReader(by_date.out.splitlines())) == rows


def test_another_series_is_continued(rnncore, days, tmp_path):
    (tmp_path / "neu.csv").write_text(dated("2021-01-01", 100), encoding="utf-8")
    (tmp_path / "run" / "model.safetensors").rename(tmp_path / "alone")
    result = rnncore("forecast", "alone", "--file", "neu.csv")
    rows = list(csv.DictReader(result.out.splitlines()))
    assert [row["row"] for row in rows] == [str(row) for row in range(100, 107)]
    assert (rows[0]["Tag"], rows[-1]["Tag"]) == ("2021-04-11", "2021-04-17")
    assert (tmp_path / "forecast.png").exists()
    model = rc.load(tmp_path / "alone")
    truth = np.stack([np.round(10 + np.sin(np.arange(100)), 4), np.arange(100) % 7 + 0.5], axis=1)
    shown = [[float(row["Höhe"]), float(row["Breite"])] for row in rows]
    np.testing.assert_allclose(shown, model.forecast(truth, 7), atol=1e-5)

    (tmp_path / "other.csv").write_text(dated("2021-01-01", 100, "d;a;b"), encoding="utf-8")
    assert_refused(rnncore("forecast", "alone", "--file", "other.csv"), "no column 'Höhe', but 'd', 'a', 'b'")
    named = rnncore("forecast", "alone", "--file", "other.csv", "--column", "a", "--column", "b")
    assert named.out == result.out.replace("Tag", "d")
    one = rnncore("forecast", "alone", "--file", "other.csv", "--column", "a")
    assert_refused(one, "--column must be given for each column of the model (Höhe, Breite), got 1")
    assert_refused(rnncore("forecast", "alone", "--fill", "linear"), "are for --file")
    assert_refused(rnncore("forecast", "alone", "--file", "neu.csv", "--start", 1), "start must lie in")
    assert_refused(
        rnncore("forecast", "alone", "--start", "soon"), "must be a row, counted from 0, or a date"
    )


def test_dates_need_dates(rnncore):
    rnncore("train", "sine", "--steps", 1, "--quiet")
    assert_refused(rnncore("forecast", "runs/sine", "--start", "2020-01-01"), "the series has no dates")


def test_missing_values_are_filled(rnncore, table):
    lines = table.read_text().splitlines()
    lines[17] = ",16,x"
    table.write_text("\n".join(lines))
    arguments = ("train", "series", table, "--column", "wave", "--steps", 2, "--quiet")
    assert_refused(
        rnncore(*arguments, "--fill", "often"), "must be previous, linear or a number, got 'often'"
    )
    for fill in ("previous", "linear", "0.5"):
        result = rnncore(*arguments, "--fill", fill)
        assert result.code == 0
        assert f"'wave': 1 missing value filled ({fill}), the first in line 18" in result.err


def test_columns_twice_and_rows_that_do_not_fit(rnncore, tmp_path):
    (tmp_path / "a.csv").write_text("date,v\n2020-01-01,10,5\n2020-01-02,11,5\n")
    assert_refused(rnncore("train", "series", "a.csv"), "a.csv, line 2: 3 fields, but the first line has 2")
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    assert_refused(rnncore("train", "series", "a.csv", "--column", "a", "--column", "1"), "given twice")
