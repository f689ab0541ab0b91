import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from methods.report.figures import draw
from methods.run import artifact
from methods.study.errors import RetrofitError


def png(colour, title):
    info, body = PngInfo(), io.BytesIO()
    info.add_text("Title", title)
    Image.fromarray(np.full((4, 9, 3), colour, np.uint8)).save(body, "PNG", pnginfo=info)
    return body.getvalue()


@pytest.fixture
def pictured(workbench):
    write = workbench.write

    def with_pictures(run, found, history=None):
        write(run, found, history)
        if run.kind != "method":
            return
        with artifact.writing(workbench.results / run.directory) as aside:
            (aside / "pictures").mkdir()
            for name in ("01", "02", "other"):
                body = png(50 + 100 * (run.seed or 0), f"{run.slug} {name} seed {run.seed}")
                (aside / "pictures" / f"{name}.png").write_bytes(body)
            meta = {**run.describe(), **workbench.machine, "files": artifact.list_files(aside)}
            (aside / "meta.json").write_text(json.dumps(meta))

    workbench.write = with_pictures
    workbench.measured("a", {"ppl": [1.0, 2.0]}).measured("b", {"ppl": [1.0, 2.0]})
    return workbench


def drawn(workbench, tmp_path, pattern="*"):
    figure = {"title": "Pictures", "kind": "images", "y": pattern}
    workbench.study["figures"] = {"one": figure}
    record = draw(workbench.cells(), tmp_path).get("one")
    return record and (record, (tmp_path / record["file"]).read_text())


def test_the_first_seeds_pictures_by_variant_with_their_titles(pictured, tmp_path):
    record, svg = drawn(pictured, tmp_path, "0?")
    assert "a: a 01 seed 0; a 02 seed 0. b: b 01 seed 0; b 02 seed 0." in record["alt"]
    assert svg.count("<image") == 4
    assert "seed 1" not in svg
    assert {"a: a 01 seed 0", "a 02 seed 0"} <= set(re.findall(r">([^<>]+)</text>", svg))


def test_the_same_pictures_give_the_same_bytes(pictured, tmp_path):
    assert drawn(pictured, tmp_path / "x") == drawn(pictured, tmp_path / "y")


def test_an_edited_picture_goes_into_no_figure(pictured, tmp_path):
    path = next(pictured.results.glob("runs/method/a-*/pictures/01.png"))
    path.write_bytes(png(1, "better"))
    with pytest.raises(RetrofitError, match=r"01\.png is not what its run left"):
        drawn(pictured, tmp_path)


def test_without_pictures_nothing_is_drawn(workbench, tmp_path):
    workbench.tier = "quick"
    workbench.measured("a", {"ppl": [1.0]})
    assert drawn(workbench, tmp_path) is None
