"""The example of docs/counting.md runs on a folder of drawn images and prints what the page shows."""

import csv
import re
from pathlib import Path

import pytest
from PIL import Image

from tests.counting.scenes import scenes

PAGE = Path("docs/counting.md").read_text(encoding="utf-8")


def write(folder, drawn):
    folder.mkdir(parents=True)
    rows = [("image", "x", "y")]
    for number, (image, points) in enumerate(zip(drawn.images, drawn.points, strict=True)):
        name = f"{number:02d}.png"
        Image.fromarray(image).save(folder / name)
        rows += [(name, x, y) for x, y in points] or [(name, "", "")]
    with open(folder / "points.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def test_the_example_prints_what_the_page_shows(tmp_path, monkeypatch, capsys):
    code, shown = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", PAGE, re.DOTALL).groups()
    write(tmp_path / "photos/train", scenes(24, seed=1))
    write(tmp_path / "photos/test", scenes(5, seed=2))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/counting.md", "exec"), {})
    found = capsys.readouterr().out
    number = r"\d+\.\d"
    assert re.sub(number, "#", found) == re.sub(number, "#", shown)
    # Another processor's sums differ, and training spreads the difference.
    ours, theirs = ([float(n) for n in re.findall(number, text)] for text in (found, shown))
    assert ours == pytest.approx(theirs, abs=0.4)
    assert (tmp_path / "my-counter" / "model.safetensors").is_file()
