"""The benchmarks of speed run; what they measure is not judged here."""

import csv
import io

import pytest

from benchmarks.speed import images


def test_the_image_benchmark_prints_a_line_for_each_thing(capsys: pytest.CaptureFixture[str]) -> None:
    assert images.main(["--images", "2", "--side", "64", "--seconds", "0", "--format", "csv"]) == 0
    out, err = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["part"] for row in rows] == ["loader"] * 9 + ["store"] * 3 + ["augmentation"] * 6
    assert all(float(row["images_per_second"]) > 0 and float(row["ratio"]) > 0 for row in rows)
    assert [rows[index]["ratio"] for index in (0, 3, 6, 9, 12, 14, 16)] == ["1.0"] * 7
    assert "2 JPEGs of 2240 x 1488 px" in err
