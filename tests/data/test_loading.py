"""References to data: found, or refused with what to do."""

from types import SimpleNamespace

import numpy as np
import pytest

from methods.data import formats, kinds
from methods.data.loading import load
from methods.study.errors import RetrofitError


@pytest.fixture
def root(tmp_path):
    """A project with one built set of text and one that is declared only."""
    (tmp_path / "configs" / "datasets").mkdir(parents=True)
    (tmp_path / "configs" / "datasets" / "wikipedia.yaml").write_text("")
    directory = tmp_path / "data" / "tales"
    directory.mkdir(parents=True)
    formats.write(
        directory,
        {
            "train": kinds.Text("train", ["one\ntwo\u2028three", "four"], ["A", "B"]),
            "test": kinds.Text("test", ["five"], ["C"]),
        },
    )
    return tmp_path / "data"


def test_text_comes_back_with_its_name_and_odd_line_ends(root):
    tales = load("tales.train", root)
    assert tales == kinds.Text("tales.train", ["one\ntwo\u2028three", "four"], ["A", "B"])
    assert load(SimpleNamespace(set="tales.test"), root).titles == ["C"]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("tale.train", "there is no data set 'tale'; did you mean 'tales'"),
        ("tales.trian", "has no split 'trian'; did you mean 'train'. allowed: train, test"),
        ("tales", "needs a split; allowed: train, test"),
        ("wikipedia.train", "is not built.*run: python -m methods data wikipedia"),
        (".train", "there is no data set ''"),
    ],
)
def test_what_cannot_be_loaded_says_what_to_do(root, reference, message):
    with pytest.raises(RetrofitError, match=message):
        load(reference, root)


@pytest.mark.parametrize("file", ["train.jsonl", "dataset.json"])
def test_a_cut_file_is_damage_and_not_less_data(root, file):
    path = root / "tales" / file
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(RetrofitError, match=r"is damaged.*--refresh"):
        load("tales.train", root)


def test_tables_and_images_keep_every_bit(tmp_path):
    numbers = np.array([[0.1, 1e300], [-0.0, 3.0], [1 / 3, 2**-1074]])
    table = kinds.Table("t", numbers, np.array([1, 0, 1]), ["a", "b, c"], ["no", "yes"])
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    images = kinds.Images("i", pixels, np.array([2, 0]), ["x", "y", "z"])
    formats.write(tmp_path, {"t": table, "i": images})
    back = formats.read(tmp_path, "t", "set.t")
    np.testing.assert_array_equal(back.x, numbers)
    assert (back.y.tolist(), back.columns, back.classes) == (
        [1, 0, 1],
        table.columns,
        table.classes,
    )
    back = formats.read(tmp_path, "i", "set.i")
    np.testing.assert_array_equal(back.x, pixels)
    assert (back.x.dtype, back.y.dtype, back.y.tolist()) == (np.uint8, np.int64, [2, 0])


def test_labelled_text_comes_back_alone_or_in_pairs(tmp_path):
    y = np.array([1, 0], dtype=np.int64)
    alone = kinds.LabelledText("a", ["one\ntwo\u2028three", "four"], y, ["no", "yes"])
    pairs = kinds.LabelledText("p", ["one", "two"], y, ["no", "yes"], ["uno", "due"])
    formats.write(tmp_path, {"a": alone, "p": pairs})
    back = formats.read(tmp_path, "a", "set.a")
    assert (back.documents, back.pairs, back.classes) == (alone.documents, None, ["no", "yes"])
    assert (back.y.dtype, back.y.tolist()) == (np.int64, [1, 0])
    assert formats.read(tmp_path, "p", "set.p").pairs == ["uno", "due"]


def test_scenes_keep_images_of_any_size_and_their_points(tmp_path):
    images = [np.full((h, w, 3), h, np.uint8) for h, w in ((2, 5), (4, 3), (1, 1))]
    points = [np.array([[0.5, 1.25], [4.0, 0.0]]), np.zeros((0, 2)), np.array([[0.1, 0.2]])]
    formats.write(tmp_path, {"s": kinds.Scenes("s", images, points, ["b", "\u00e4", "c"])})
    before = (tmp_path / "s.safetensors").read_bytes()
    back = formats.read(tmp_path, "s", "set.s")
    assert back.titles == ["b", "\u00e4", "c"]
    for ours, theirs in zip(back.images + back.points, images + points, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    formats.write(tmp_path, {"s": back})
    assert (tmp_path / "s.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [
        kinds.LabelledText("l", ["one"], np.array([1]), ["x"]),
        kinds.LabelledText("l", ["one"], np.array([0]), ["x"], []),
        kinds.LabelledText("l", ["one"], np.array([0.0]), ["x"]),
        kinds.Scenes("s", [np.zeros((2, 2, 3))], [np.zeros((0, 2))], ["a"]),
        kinds.Scenes("s", [np.zeros((2, 2, 3), np.uint8)], [np.full((1, 2), np.nan)], ["a"]),
        kinds.Scenes("s", [np.zeros((2, 2, 3), np.uint8)], [], ["a"]),
        kinds.Table("t", np.array([[np.nan]]), np.array([0]), ["a"], ["x", "y"]),
        kinds.Table("t", np.array([[1.0]]), np.array([2]), ["a"], ["x", "y"]),
        kinds.Images("i", np.zeros((1, 2, 2)), np.array([0]), ["x"]),
        kinds.Text("d", ["one"], []),
    ],
)
def test_content_that_contradicts_itself_is_not_written(tmp_path, content):
    with pytest.raises(
        ValueError, match=r"missing|labels|expected|titles|second texts|not finite|in number"
    ):
        formats.write(tmp_path, {"all": content})
