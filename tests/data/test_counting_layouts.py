"""Images with points in the layouts in which counting sets are published, and a user's own folder."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from methods.data import building, formats, scenes, spec
from methods.data.builders import (
    jhu_crowd,
    nwpu_crowd,
    point_folder,
    shanghaitech,
    trancos,
    ucf_cc_50,
)
from methods.study.errors import RetrofitError


def put(path, size=(20, 16), grey=90):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (grey, grey, grey)).save(path)


def mat(path, **variables):
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, variables, do_compression=True)


def image_info(points):
    """The nested form in which ShanghaiTech's points lie."""
    inner = np.empty((1, 1), [("location", object), ("number", object)])
    inner["location"][0, 0] = np.array(points, float).reshape(-1, 2)
    inner["number"][0, 0] = np.array([[len(points)]])
    cell = np.empty((1, 1), object)
    cell[0, 0] = inner
    return cell


@pytest.fixture(params=[("part_A", "ground-truth"), ("part_A_final", "ground_truth")])
def shanghai(request, tmp_path):
    part, truth = request.param
    for split, numbers in (("train_data", (10, 2)), ("test_data", (1,))):
        folder = tmp_path / part / split
        for number in numbers:
            put(folder / "images" / f"IMG_{number}.jpg", grey=number)
            points = [[number + 0.5, 3.5]] * number
            mat(folder / truth / f"GT_IMG_{number}.mat", image_info=image_info(points))
    return tmp_path


def build(module, folder, **options):
    name = module.__name__.rpartition(".")[2].replace("_", "-")
    return module.build({module.FOLDER: folder}, module.Options(name=name, **options))


def test_shanghaitech(shanghai):
    built = build(shanghaitech, shanghai)
    assert built["train"].titles == ["IMG_2", "IMG_10"]
    assert [len(p) for p in built["train"].points] == [2, 10]
    # MATLAB's first pixel has its middle at 1
    assert built["test"].points[0].tolist() == [[1.0, 3.0]]
    assert built["test"].images[0].shape == (16, 20, 3)
    with pytest.raises(ValueError, match="no folder part_B or part_B_final"):
        build(shanghaitech, shanghai, part="B")


def test_an_annotation_without_image_and_an_image_without_annotation(shanghai):
    (train,) = shanghai.glob("*/train_data")
    (train / "images/IMG_2.jpg").unlink()
    with pytest.raises(ValueError, match="annotations without an image: IMG_2"):
        build(shanghaitech, shanghai)
    for number in (2, 5, 6, 7, 8):
        put(train / f"images/IMG_{number}.jpg")
    with pytest.raises(ValueError, match="without an annotation: IMG_5, IMG_6, IMG_7 and 1 more"):
        build(shanghaitech, shanghai)


def test_a_broken_image_and_a_broken_annotation_are_named(shanghai):
    (test,) = shanghai.glob("*/test_data")
    image = test / "images/IMG_1.jpg"
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"IMG_1\.jpg is no image that can be read"):
        build(shanghaitech, shanghai)
    image.write_bytes(whole)
    (truth,) = test.glob("ground*/GT_IMG_1.mat")
    truth.write_bytes(truth.read_bytes()[:150])
    with pytest.raises(ValueError, match=r"GT_IMG_1\.mat is no MATLAB file"):
        build(shanghaitech, shanghai)
    mat(truth, image_info=np.zeros((2, 2)))
    with pytest.raises(ValueError, match="not in the published form"):
        build(shanghaitech, shanghai)
    mat(truth, other=np.zeros((2, 2)))
    with pytest.raises(ValueError, match="has no variable 'image_info'"):
        build(shanghaitech, shanghai)


def test_matlab_files_are_bounded_before_they_are_unpacked(tmp_path, monkeypatch):
    file = tmp_path / "x_ann.mat"
    mat(file, annPoints=np.zeros((20_000, 2)))
    assert scenes.read_mat(file, "annPoints").shape == (20_000, 2)
    assert file.stat().st_size < 10_000
    monkeypatch.setattr(scenes, "LARGEST_MAT", 100_000)
    with pytest.raises(ValueError, match="unpacks to more than 100000 bytes"):
        scenes.read_mat(file, "annPoints")
    monkeypatch.setattr(scenes, "LARGEST_MAT", 100)
    with pytest.raises(ValueError, match="is larger than 100 bytes"):
        scenes.read_mat(file, "annPoints")
    file.write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64")
    with pytest.raises(ValueError, match=r"MATLAB 7\.3"):
        scenes.read_mat(file, "annPoints")


def test_ucf_cc_50_has_five_folds_of_consecutive_images(tmp_path):
    for number in range(1, 11):
        put(tmp_path / f"{number}.jpg")
        mat(tmp_path / f"{number}_ann.mat", annPoints=np.full((number, 2), 2.0))
    built = build(ucf_cc_50, tmp_path)
    assert built["test-1"].titles == ["1", "2"]
    assert built["test-5"].titles == ["9", "10"]
    assert [len(p) for p in built["test-5"].points] == [9, 10]
    for fold in range(1, 6):
        titles = built[f"train-{fold}"].titles + built[f"test-{fold}"].titles
        assert sorted(map(int, titles)) == list(range(1, 11))


def test_jhu_crowd_reads_the_first_two_numbers_and_empty_files(tmp_path):
    for split in ("train", "val", "test"):
        for name, lines in (("0001", "12 5 20 20 1 0\n3.5 6 9 9 1 0\n"), ("0002", "")):
            put(tmp_path / split / "images" / f"{name}.jpg")
            (tmp_path / split / "gt").mkdir(exist_ok=True)
            (tmp_path / split / "gt" / f"{name}.txt").write_text(lines)
    built = build(jhu_crowd, tmp_path)
    assert list(built) == ["train", "validation", "test"]
    assert [p.tolist() for p in built["train"].points] == [[[12, 5], [3.5, 6]], []]
    (tmp_path / "val/gt/0002.txt").write_text("12 5 20 20 1 0\nhead\n")
    with pytest.raises(ValueError, match=r"0002\.txt, line 2: no point in 'head'"):
        build(jhu_crowd, tmp_path)


def test_nwpu_crowd_has_parts_of_a_thousand_and_takes_validation_as_test(tmp_path):
    assert nwpu_crowd.place(tmp_path, "1000").parent.name == "images_part1"
    assert nwpu_crowd.place(tmp_path, "1001").parent.name == "images_part2"
    assert nwpu_crowd.place(tmp_path, "5109").parent.name == "images_part5"
    for number, count in (("0001", 2), ("1001", 0), ("3110", 1)):
        put(nwpu_crowd.place(tmp_path, number), (40, 20))
        mat(tmp_path / "mats" / f"{number}.mat", annPoints=np.full((count, 2), 8.5))
    (tmp_path / "train.txt").write_text("1001 0 1\n0001 1 2\n")
    (tmp_path / "val.txt").write_text("3110 0 0\n")
    built = build(nwpu_crowd, tmp_path)
    assert built["train"].titles == ["1001", "0001"]
    assert [len(p) for p in built["train"].points] == [0, 2]
    # scaled down together
    small = build(nwpu_crowd, tmp_path, longest=64)
    assert small["test"].points[0].tolist() == [[8, 8]]
    (tmp_path / "val.txt").write_text("3111 0 0\n")
    with pytest.raises(ValueError, match="names 3111, which has neither image nor annotation"):
        build(nwpu_crowd, tmp_path)
    (tmp_path / "val.txt").write_text("../secret 0 0\n")
    with pytest.raises(ValueError, match=r"'\.\./secret' is no number of an image"):
        build(nwpu_crowd, tmp_path)


def test_large_images_are_scaled_down_with_their_points(tmp_path):
    put(tmp_path / "a.png", (200, 100))
    image, points = scenes.scene(tmp_path / "a.png", np.array([[100.0, 50.0]]), 50)
    assert image.shape == (25, 50, 3)
    assert points.tolist() == [[25, 12.5]]


@pytest.fixture
def road(tmp_path):
    for split in ("training", "validation", "test"):
        (tmp_path / "image_sets").mkdir(exist_ok=True)
        (tmp_path / "image_sets" / f"{split}.txt").write_text(f"{split}-1.jpg\n")
        folder = tmp_path / "images"
        put(folder / f"{split}-1.jpg")
        dots = np.zeros((16, 20, 3), np.uint8)
        dots[3, 4, 0] = dots[10, 15, 0] = 255
        Image.fromarray(dots).save(folder / f"{split}-1dots.png")
        mask = np.zeros((16, 20), np.uint8)
        mask[:, :10] = 1
        mat(folder / f"{split}-1mask.mat", BW=mask)
    return tmp_path


def test_trancos_keeps_the_road_and_the_vehicles_on_it(road):
    built = build(trancos, road)
    assert list(built) == ["train", "validation", "test"]
    assert built["test"].points[0].tolist() == [[4.5, 3.5]]
    image = built["test"].images[0]
    assert image[:, :10].any(2).all()
    assert not image[:, 10:].any()
    put(road / "images/test-1.jpg", (20, 17))
    with pytest.raises(ValueError, match=r"test-1dots\.png is \(16, 20\), its image \(17, 20\)"):
        build(trancos, road)
    (road / "image_sets/test.txt").write_text("test-2.jpg\n")
    with pytest.raises(ValueError, match="names test-2, of which there is no image"):
        build(trancos, road)


def test_a_black_pixel_on_the_road_is_not_taken_for_the_outside(road):
    put(road / "images/test-1.jpg", grey=0)
    assert build(trancos, road)["test"].images[0][:, :10].any(2).all()


@pytest.fixture
def own(tmp_path):
    for split in ("train", "test"):
        for name in ("b.png", "a.jpg", "none.png"):
            put(tmp_path / split / name)
        rows = "image,x,y\nb.png,3,4.5\na.jpg,1,2\nb.png,7,8\nnone.png,,\n"
        (tmp_path / split / "points.csv").write_text(rows)
    return tmp_path


def test_a_folder_of_ones_own(own):
    built = build(point_folder, own)
    assert built["train"].titles == ["a.jpg", "b.png", "none.png"]
    assert [p.tolist() for p in built["train"].points] == [[[1, 2]], [[3, 4.5], [7, 8]], []]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("b.png,3,4\na.jpg,1,2\n", "images without an annotation: none.png"),
        ("b.png,3,4\na.jpg,1,2\nnone.png,,\nc.png,1,1\n", "annotations without an image: c.png"),
        ("b.png,3,four\n", "line 2: '3,four' is no point"),
        ("b.png,3\n", "line 2: '3,' is no point"),
        ("b.png,nan,2\na.jpg,1,2\nnone.png,,\n", r"b\.png: a point is not finite"),
    ],
)
def test_a_file_of_points_that_does_not_fit(own, rows, words):
    (own / "train/points.csv").write_text("image,x,y\n" + rows)
    with pytest.raises(ValueError, match=words):
        build(point_folder, own)


def test_a_file_of_points_needs_its_heading(own):
    (own / "train/points.csv").write_text("b.png,3,4\n")
    with pytest.raises(ValueError, match=r"first line must be image,x,y, not b\.png,3,4"):
        build(point_folder, own)
    (own / "train/points.csv").unlink()
    with pytest.raises(ValueError, match=r"there is no file .*points\.csv"):
        build(point_folder, own)


def test_two_images_that_differ_in_their_suffix_are_refused(own):
    put(own / "train/a.png")
    with pytest.raises(ValueError, match="differ in their suffix only"):
        build(point_folder, own)


def test_what_would_fill_the_memory_is_refused(own, monkeypatch):
    monkeypatch.setattr(scenes.os, "sysconf", lambda name: 30 if name.endswith("ES") else 50)
    with pytest.raises(ValueError, match="a smaller `longest` side than the images have would fit"):
        build(point_folder, own)


def test_a_user_declares_it_and_builds_it(own, tmp_path, monkeypatch):
    path = tmp_path / "project/configs/datasets/mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(
        "title: Mine\nlicence: mine\ndescription: x\nfiles: {images/: {}}\n"
        "sources: [{kind: path, files: {images/: $MY_POINTS}}]\nbuilder: {name: point-folder}\n"
    )
    root = tmp_path / "project/data"
    with pytest.raises(RetrofitError, match="the environment variable MY_POINTS is not set"):
        building.build("mine", root)
    monkeypatch.setenv("MY_POINTS", str(own))
    assert building.build("mine", root) == "built"
    found = formats.read(root / "mine", "train", "mine.train")
    assert [len(p) for p in found.points] == [1, 2, 0]


@pytest.mark.parametrize(
    ("name", "splits"),
    [
        ("shanghaitech-a", ["train", "test"]),
        ("shanghaitech-b", ["train", "test"]),
        ("ucf-cc-50", [f"{s}-{k}" for k in range(1, 6) for s in ("train", "test")]),
        ("jhu-crowd", ["train", "validation", "test"]),
        ("nwpu-crowd", ["train", "test"]),
        ("trancos", ["train", "validation", "test"]),
    ],
)
def test_they_are_declared_and_optional(name, splits):
    found = spec.find(name)
    assert found.optional
    assert found.splits == splits
