"""Folders of images, as users and ImageNet have them."""

import numpy as np
import pytest
from PIL import Image

from methods.data import building, formats, lock, spec
from methods.data.builders import image_folder
from methods.study.errors import RetrofitError, SpecError


def put(path, color, size=(40, 30), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, **options)


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    put(root / "train/dog/2.png", (0, 200, 0))
    put(root / "train/dog/1.png", (0, 100, 0))
    put(root / "train/cat/deeper/a.JPEG", (90, 90, 90))
    put(root / "test/cat/z.png", (5, 5, 5))
    (root / "train/dog/notes.txt").write_text("no image")
    put(root / "train/.cache/hidden.png", (1, 1, 1))
    put(root / "train/dog/.cache/hidden.png", (1, 1, 1))
    return root


def build(root, **options):
    made = image_folder.Options(name="image-folder", **{"side": 8, **options})
    return image_folder.build({"images/": root}, made)


def test_classes_are_folders_and_order_is_by_name(photos):
    built = build(photos)
    train = built["train"]
    assert train.classes == built["test"].classes == ["cat", "dog"]
    assert train.y.tolist() == [0, 1, 1]
    assert train.x.shape == (3, 8, 8, 3)
    assert train.x[1, 0, 0].tolist() == [0, 100, 0]
    assert built["test"].y.tolist() == [0]


def test_the_middle_is_cut_out_of_the_scaled_image(tmp_path):
    # 16 x 8: the left quarter red, the right one blue, green between
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :4, 0] = pixels[:, 4:12, 1] = pixels[:, 12:, 2] = 255
    (tmp_path / "train/a").mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / "train/a/x.png")
    (image,) = build(tmp_path, folders={"train": "train"})["train"].x
    assert (image == [0, 255, 0]).all()
    # the shorter side 16 and its middle half: columns 6..9 and rows 2..5 of the original
    (image,) = build(tmp_path, folders={"train": "train"}, resize=16)["train"].x
    assert (image == [0, 255, 0]).all()


def test_grey_images_and_a_limit(photos):
    train = build(photos, channels=1, per_class=1)["train"]
    assert train.x.shape == (2, 8, 8)
    assert train.y.tolist() == [0, 1]


def test_an_image_is_turned_as_its_camera_says(tmp_path):
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    (tmp_path / "train/a").mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / "train/a/x.png", exif=exif)
    (image,) = build(tmp_path, folders={"train": "train"})["train"].x
    assert image[4, 0, 0] < 10
    assert image[4, -1, 0] > 245


def test_imagenets_validation_images_have_their_classes_in_a_table(photos):
    put(photos / "val/ILSVRC_1.JPEG", (1, 1, 1))
    put(photos / "val/ILSVRC_2.JPEG", (2, 2, 2))
    table = photos / "solution.csv"
    table.write_text("ImageId,PredictionString\nILSVRC_2,dog 1 2 3 4\nILSVRC_1,cat 5 6 7 8\n")
    options = {"folders": {"train": "train", "test": "val"}, "labels": {"test": "solution.csv"}}
    assert build(photos, **options)["test"].y.tolist() == [0, 1]
    table.write_text("ImageId,PredictionString\nILSVRC_1,cat\n")
    with pytest.raises(ValueError, match=r"no class for ILSVRC_2\.JPEG"):
        build(photos, **options)
    table.write_text("ImageId,PredictionString\nILSVRC_1,cat\nILSVRC_2,cow\n")
    with pytest.raises(ValueError, match=r"class 'cow' of ILSVRC_2\.JPEG has no folder"):
        build(photos, **options)


def test_a_broken_image_is_named(photos):
    whole = (photos / "train/dog/1.png").read_bytes()
    (photos / "train/dog/1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"train/dog/1\.png is no image that can be read"):
        build(photos)


def test_a_bomb_is_refused(photos, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"is no image that can be read.*exceeds limit"):
        build(photos)


def test_what_does_not_fit_names_the_side_that_would(photos, monkeypatch):
    monkeypatch.setattr(image_folder.os, "sysconf", lambda name: 30 if name.endswith("ES") else 50)
    with pytest.raises(ValueError, match="`side: 7` or `per_class` would fit"):
        build(photos)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"folders": {"train": "trian"}}, "there is no folder .*trian; .*'train'"),
        ({"folders": {"train": "train/dog"}}, "no images in folders by class"),
        ({"folders": {"train": "../x"}}, "does not lie inside"),
        ({"labels": {"tset": "x.csv"}}, "labels for the split 'tset'.*'test'"),
        ({"labels": {"test": "x.csv", "train": "y.csv"}}, "folder for each class"),
        ({"side": 8, "resize": 4}, "resize"),
        ({"resize": 12, "side": 16}, "resize 12 is smaller than side 16"),
    ],
)
def test_settings_that_cannot_work(photos, options, words):
    with pytest.raises((ValueError, SpecError), match=words):
        build(photos, **options)


DECLARED = """
title: My photographs
licence: mine
description: Two animals.
files: {images/: %s}
sources: [{kind: %s, files: {images/: %s}}]
builder: {name: image-folder, side: 16}
"""


@pytest.fixture
def project(tmp_path):
    def declare(raw="{}", kind="path", place="$MY_PHOTOS"):
        path = tmp_path / "configs/datasets/mine.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(DECLARED % (raw, kind, place))
        return tmp_path / "data"

    return declare


def test_a_user_declares_a_folder_and_builds_it(project, photos, monkeypatch):
    root = project()
    with pytest.raises(RetrofitError, match="the environment variable MY_PHOTOS is not set"):
        building.build("mine", root)
    monkeypatch.setenv("MY_PHOTOS", str(photos / "nowhere"))
    with pytest.raises(RetrofitError, match=r"there is no folder .*nowhere"):
        building.build("mine", root)
    monkeypatch.setenv("MY_PHOTOS", str(photos))
    assert building.build("mine", root) == "built"
    assert formats.read(root / "mine", "train", "mine.train").x.shape == (3, 16, 16, 3)
    before = lock.content_hash(root / "mine")
    assert building.build("mine", root, refresh=True) == "built"
    assert lock.content_hash(root / "mine") == before


@pytest.mark.parametrize(
    ("raw", "kind", "place", "words"),
    [
        ("{}", "url", "https://example.org/x", "is a folder, which only a source of kind path has"),
        ("{bytes: 3}", "path", "$MY_PHOTOS", "is a folder and has no checksum"),
    ],
)
def test_a_folder_is_only_ever_local(project, raw, kind, place, words):
    root = project(raw, kind, place)
    with pytest.raises(SpecError, match=words):
        spec.find("mine", root)
