"""Pictures of a training run."""

import sys

import numpy as np
import pytest

from rnncore import pictures
from rnncore.tasks import BinaryAddition


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Return the figures that are drawn, which are written to picture.png."""
    figure = pytest.importorskip("matplotlib.figure")
    figures: list = []
    save = figure.Figure.savefig

    def saved(self, path, **options):
        figures.append(self)
        save(self, path, **options)
        self.draw_without_rendering()  # so that places are told in the resolution of the figure

    monkeypatch.setattr(figure.Figure, "savefig", saved)
    monkeypatch.chdir(tmp_path)
    return figures


def visible(figure):
    return [axis for axis in figure.axes if axis.get_visible()]


def test_training_curves(tmp_path):
    image = pytest.importorskip("matplotlib.image")
    path = tmp_path / "curves.png"
    panels = [
        pictures.Panel("loss", {"loss": [4.0, 0.4, 0.03]}, logarithmic=True),
        pictures.Panel("right, %", {"8 bits": [0.0, 50.0, 100.0], "10 bits": [0.0, 25.0, 100.0]}),
    ]
    pictures.training_curves(path, "A run", [1, 2, 3], panels)
    pixels = image.imread(path)
    height, width, _ = pixels.shape
    assert (width, height) == (840, round(120 * (2 * 2.6 + 0.6)))
    dark = pixels[:, :, :3].sum(axis=2) < 1
    assert dark[: height // 12].any()  # the title
    assert dark[-height // 12 :].any()  # the legend


@pytest.mark.parametrize("count", [0, 1, 3])
def test_curves_of_short_runs(tmp_path, count):
    pytest.importorskip("matplotlib")
    metrics = {20 * i: {"error": 4.0 / i, "exact_8": 0.5, "exact_10": 0.25} for i in range(1, count + 1)}
    BinaryAddition().draw(tmp_path / "curves.png", metrics)
    assert (tmp_path / "curves.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("count", "shown", "size"), [(1, 1, (7, 3.2)), (3, 3, (7, 8.4)), (6, 6, (10, 8.4)), (600, 12, (15, 11))]
)
def test_many_panels_are_a_grid_of_limited_size(drawn, count, shown, size):
    panels = [pictures.Panel(f"panel {i}", {"network": [3, 1], "last value": [2, 2]}) for i in range(count)]
    pictures.training_curves("picture.png", "Run", [1, 2], panels)
    (figure,) = drawn
    assert len(visible(figure)) == shown
    assert tuple(figure.get_size_inches()) == pytest.approx(size)
    assert figure.get_suptitle() == ("Run" if count == shown else "Run: 12 of 600 panels")


def test_legends_lie_on_no_curve(drawn):
    panels = [pictures.Panel(f"panel {i}", {"network": [3, 1], "last value": [2, 2]}) for i in range(4)]
    pictures.training_curves("picture.png", "Run", [1, 2], panels)
    pictures.gradient_norms("picture.png", "Gradient", [0.1, 0.5, 1.0], ["full", 1])
    pictures.forecast("picture.png", "Forecast", ["a"], np.arange(90.0)[:, None], 80, np.ones((10, 1)))
    for figure in drawn:
        (legend,) = figure.legends
        below = legend.get_window_extent()
        assert not any(axis.get_window_extent().overlaps(below) for axis in figure.axes)
        labels = (axis.xaxis.get_tightbbox() for axis in figure.axes)
        assert not any(box.overlaps(below) for box in labels if box)


def test_a_long_series_is_shown_near_its_forecast(drawn):
    series = np.sin(np.arange(100_000.0))[:, None]
    pictures.forecast("picture.png", "Forecast", ["a"], series, 99_000, series[99_000:99_060])
    pictures.forecast("picture.png", "Forecast", ["a"], series, 80_000, series[80_000:])
    for figure, (low, high) in zip(drawn, [(98_880, 99_120), (79_600, 80_400)], strict=True):
        left, right = figure.axes[0].dataLim.intervalx
        assert (left, right) == (low, high - 1)
    assert drawn[1].get_suptitle() == "Forecast: 200 of 20,000 rows"


def test_dates_stand_below_a_forecast(drawn):
    dates = np.datetime64("2020-01-30T00:00:00") + np.arange(60) * np.timedelta64(86400, "s")
    series = np.arange(60.0)[:, None]
    pictures.forecast("picture.png", "Forecast", ["a"], series, 60, np.ones((5, 1)), dates, "day")
    (axis,) = drawn[0].axes
    assert axis.get_xlabel() == "day"
    known, predicted, _ = axis.lines
    assert known.get_xdata()[0] == dates[0]
    assert predicted.get_xdata()[-1] == np.datetime64("2020-04-03")
    assert any("2020" in str(axis.xaxis.get_major_formatter().get_offset()) for axis in drawn[0].axes)


def test_hundreds_of_columns(drawn):
    names = [f"c{i}" for i in range(300)]
    series = np.zeros((100, 300))
    title = pictures.forecast_title(names, "wide.csv")
    pictures.forecast("picture.png", title, names, series, 90, series[90:])
    assert len(visible(drawn[0])) == 12
    assert drawn[0].get_suptitle() == "Forecast of c0, c1, c2 and 297 others, wide.csv: 12 of 300 columns"
    assert pictures.forecast_title(["a"], None) == "Forecast of a"


def test_long_class_names_do_not_overlap(drawn):
    names = ["cat", "a long name of a class", "Iris versicolor", "x" * 99]
    pictures.confusion_matrix("picture.png", names, np.arange(16).reshape(4, 4))
    (axis,) = drawn[0].axes
    labels = axis.get_xticklabels()
    boxes = [label.get_window_extent() for label in labels]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert [label.get_text() for label in labels] == [*names[:3], "x" * 29 + "…"]
    assert all(drawn[0].bbox.contains(box.x0, box.y0) for box in boxes)


def test_available(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not pictures.available()
