"""Photographs cut into squares: where from, how often, which are refused; sources that have parts."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from methods.data import building, sources, spec
from methods.data.builders import photo_crops
from methods.data.loading import load
from methods.study.errors import RetrofitError

ROOT = Path(__file__).resolve().parents[2] / "data"


def photo(width=60, height=40, kind="PNG"):
    """Red counts columns, green rows: every crop says where it comes from."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    pixels = np.stack([x * 4, y * 4, np.zeros_like(x)], -1).astype(np.uint8)
    body = io.BytesIO()
    Image.fromarray(pixels).save(body, kind)
    return body.getvalue()


def options(**changes):
    return photo_crops.Options.model_validate(
        {
            "name": "photo-crops",
            "size": 16,
            "crops": 30,
            "split": {"calibration": ["a.png"], "test": ["b.png"]},
            **changes,
        }
    )


FILES = {"a.png": photo(), "b.png": photo(40, 60)}


def test_crops_are_squares_inside_the_photograph_of_the_asked_sizes_and_some_are_mirrored():
    built = photo_crops.build(FILES, options())
    x = built["calibration"].x
    assert x.shape == (30, 16, 16, 3)
    assert x.dtype == np.uint8
    red, green = x[..., 0].astype(int), x[..., 1].astype(int)
    # Between the middles of the outer pixels lie 15/16 of the square.
    across = (red[:, 8, -1] - red[:, 8, 0]) / 4 * 16 / 15
    down = (green[:, -1, 8] - green[:, 0, 8]) / 4 * 16 / 15
    assert 5 < sum(across < 0) < 25
    np.testing.assert_allclose(abs(across), down, atol=2)
    assert down.min() >= 0.6 * 40 - 2
    assert down.max() <= 40 + 2
    assert len({(int(r), int(g)) for r, g in zip(red[:, 0, 0], green[:, 0, 0], strict=True)}) > 20


def test_the_same_photograph_gives_the_same_crops_and_another_name_gives_others():
    one, two = (photo_crops.build(FILES, options())["calibration"].x for _ in range(2))
    assert np.array_equal(one, two)
    renamed = photo_crops.build(
        {"c.png": photo(), "b.png": photo(40, 60)},
        options(split={"calibration": ["c.png"], "test": ["b.png"]}),
    )
    assert not np.array_equal(renamed["calibration"].x, one)


def test_a_photograph_is_a_class_or_has_a_label():
    built = photo_crops.build(FILES, options())
    assert built["test"].classes == built["calibration"].classes == ["a", "b"]
    assert set(built["calibration"].y) == {0}
    assert set(built["test"].y) == {1}
    labelled = options(classes=5, split={"test": {"a.png": 3, "b.png": 4}})
    found = photo_crops.build(FILES, labelled)["test"]
    assert found.classes == ["0", "1", "2", "3", "4"]
    assert found.y.tolist() == [3] * 30 + [4] * 30


def test_the_middle_is_seven_eighths_of_the_shorter_side():
    chosen = options(size=28, split={}, centre={"test": ["a.png"]})
    x = photo_crops.build({"a.png": photo(96, 64)}, chosen)["test"].x
    assert x.shape == (1, 28, 28, 3)
    middle = x[0, 13:15, 13:15].reshape(-1, 3).mean(0) / 4
    np.testing.assert_allclose(middle[:2], [47.5, 31.5], atol=0.6)
    rows = (int(x[0, -1, 14, 1]) - int(x[0, 0, 14, 1])) / 4
    assert rows == pytest.approx(64 * 7 / 8 * 27 / 28, abs=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": {}}, "needs `split` or `centre`"),
        ({"split": {"a": ["x.png"], "b": ["x.png"]}}, r"x\.png is in the splits a and b"),
        ({"centre": {"test": ["c.png"]}}, "'test' stands under"),
        ({"split": {"test": {"a.png": 3}}}, "labels if and only if `classes`"),
        ({"classes": 5}, "labels if and only if `classes`"),
        ({"classes": 3, "split": {"test": {"a.png": 3}}}, r"labels lie in 0\.\.2"),
        ({"smallest": 0}, "greater than 0"),
    ],
)
def test_options_that_contradict_themselves_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        options(**changes)


def test_files_that_are_no_photographs_are_refused():
    with pytest.raises(ValueError, match=r"a\.png is no image"):
        photo_crops.build({**FILES, "a.png": b"nothing"}, options())
    with pytest.raises(ValueError, match=r"a\.png is no image"):
        photo_crops.build({**FILES, "a.png": FILES["a.png"][:90]}, options())
    with pytest.raises(ValueError, match=r"a\.png has 60 x 40 pixels, less than a crop of 48"):
        photo_crops.build(FILES, options(size=48))


def declaration(*parts):
    names = ("a.png", "b.png")
    return spec.DataSet.model_validate(
        {
            "title": "t",
            "licence": "l",
            "description": "d",
            "files": {name: {"sha256": "0" * 64} for name in names},
            "sources": [
                {"kind": "path", "files": {name: f"/nowhere/{name}" for name in part}}
                for part in parts
            ],
            "builder": options().model_dump(),
        }
    )


def test_sources_with_parts_are_all_needed_and_alternatives_are_not():
    def groups(*parts):
        return [[sorted(s.files) for s in group] for group in declaration(*parts).parts]

    a, b, both = ["a.png"], ["b.png"], ["a.png", "b.png"]
    assert groups(both, both) == [[both, both]]
    assert groups(a, b) == [[a], [b]]
    assert groups(a, b, a) == [[a, a], [b]]
    for wrong in ((a,), (a, both), (both, b)):
        with pytest.raises(ValidationError, match="the builder needs"):
            declaration(*wrong)


def test_a_set_is_built_from_the_parts_of_several_sources(tmp_path, monkeypatch):
    import hashlib

    import yaml

    monkeypatch.setenv(sources.CACHE_VARIABLE, str(tmp_path / "cache"))
    for name, body in FILES.items():
        (tmp_path / name).write_bytes(body)
    whole = declaration(["a.png"], ["b.png"]).model_dump(mode="json")
    for name, body in FILES.items():
        whole["files"][name] = {"sha256": hashlib.sha256(body).hexdigest()}
    whole["sources"] = [{"kind": "path", "files": {name: str(tmp_path / name)}} for name in FILES]
    whole["builder"] = {"name": "photo-crops", "size": 16, "split": {"test": list(FILES)}}
    folder = tmp_path / "configs" / "datasets"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(yaml.safe_dump(whole))
    assert building.build("mine", tmp_path / "data") == "built"
    assert load("mine.test", tmp_path / "data").x.shape == (48, 16, 16, 3)
    (tmp_path / "b.png").unlink()
    (tmp_path / "cache" / whole["files"]["b.png"]["sha256"]).unlink()
    with pytest.raises(RetrofitError, match=r"there is no file .*b\.png"):
        building.build("mine", tmp_path / "data", refresh=True)


def built(reference):
    if not (ROOT / reference.partition(".")[0] / "dataset.json").is_file():
        pytest.skip(f"{reference} is not built here")
    return load(reference, ROOT)


def test_no_photograph_is_in_both_splits():
    calibration, test = built("photos.calibration"), built("photos.test")
    assert calibration.x.shape == test.x.shape == (256, 224, 224, 3)
    assert not set(calibration.y) & set(test.y)
    assert len(calibration.classes) == 16
    samples = built("imagenet-samples.whole")
    assert samples.x.shape == (20, 224, 224, 3)
    assert len(samples.classes) == 1000
