"""Pictures of a training run."""

import sys

import pytest

from rnncore import pictures
from rnncore.tasks import BinaryAddition


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
    assert dark[-height // 12 :].any()  # the label of the horizontal axis


@pytest.mark.parametrize("count", [0, 1, 3])
def test_curves_of_short_runs(tmp_path, count):
    pytest.importorskip("matplotlib")
    metrics = {20 * i: {"error": 4.0 / i, "exact_8": 0.5, "exact_10": 0.25} for i in range(1, count + 1)}
    BinaryAddition().draw(tmp_path / "curves.png", metrics)
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_available(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not pictures.available()
