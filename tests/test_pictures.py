"""Pictures of results: the same input gives the same bytes."""

import pytest
from PIL import Image

from experiments.pictures import confusion_picture
from sentimoe.errors import DataError


def test_same_input_same_bytes(tmp_path):
    for name, diagonal in (("a", 40), ("b", 40), ("c", 41)):
        confusion_picture([[diagonal, 2], [0, 0]], ["bad", "good"], tmp_path / f"{name}.png", "title")
    first, second, other = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert first == second != other


def test_png_at_150_dpi_without_metadata(tmp_path):
    confusion_picture([[3, 1], [0, 4]], ["$\\frac{1}", "100 $"], tmp_path / "confusion.png", "$x")
    with Image.open(tmp_path / "confusion.png") as image:
        assert image.format == "PNG"
        assert image.info.pop("dpi") == pytest.approx((150, 150), abs=0.1)
        assert image.info == {}


def test_refuses(tmp_path):
    with pytest.raises(DataError, match="one row and one column per name"):
        confusion_picture([[1, 2], [3, 4]], ["a", "b", "c"], tmp_path / "x.png")
    with pytest.raises(OSError, match="missing"):
        confusion_picture([[1]], ["a"], tmp_path / "missing" / "x.png")
