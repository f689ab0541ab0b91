"""The real data sets, where they are built: their bytes, sizes and splits."""

from pathlib import Path

import numpy as np
import pytest

from methods.data import lock
from methods.data.loading import load

ROOT = Path(__file__).resolve().parents[2] / "data"


def built(reference):
    name = reference.partition(".")[0]
    if not (ROOT / name / "dataset.json").is_file():
        pytest.skip(f"{name} is not built here (python -m methods data {name})")
    return load(reference, ROOT)


@pytest.mark.parametrize("name", sorted(lock.locked(ROOT)))
def test_the_bytes_are_the_locked_ones(name):
    if not (ROOT / name / "dataset.json").is_file():
        pytest.skip(f"{name} is not built here (python -m methods data {name})")
    assert lock.content_hash(ROOT / name)[0] == lock.locked(ROOT)[name]["md5"]


def test_wikipedia_is_prose_and_no_article_is_in_two_splits():
    splits = [built(f"wikipedia.{name}") for name in ("train", "validation", "test")]
    titles = [title for split in splits for title in split.titles]
    assert len(titles) == len(set(titles)) > 90
    words = [sum(len(text.split()) for text in split.documents) for split in splits]
    assert 380_000 < sum(words) < 430_000
    assert words[0] > words[2] > words[1]
    text = "\n".join(text for split in splits for text in split.documents)
    for markup in ("{{", "}}", "[[", "]]", "<ref", "&nbsp;", "'''", "{|"):
        assert text.count(markup) < 5, markup


def test_moby_dick_has_all_chapters_once():
    titles = built("moby-dick.train").titles + built("moby-dick.test").titles
    assert sorted(int(title.split(".")[0]) for title in titles) == list(range(1, 136))


def test_soup_is_as_the_paper_prepares_it():
    soup = built("soup.all")
    assert soup.x.shape == (1847, 22)
    assert set(np.unique(soup.x)) == {0.0, 1.0}
    shares = np.bincount(soup.y) / len(soup.y)
    np.testing.assert_allclose(shares, [0.470, 0.150, 0.053, 0.062, 0.141, 0.123], atol=6e-4)


def test_hpc_data_has_its_rare_class_last():
    counts = np.bincount(built("hpc-data.all").y)
    assert counts.tolist() == [2211, 1347, 514, 259]


def test_prediabetes_gets_common_with_age():
    shares = [
        np.mean(built(f"prediabetes.cutoff-{age}").y == 2) for age in (30, 35, 40, 45, 50, 65)
    ]
    np.testing.assert_allclose(shares, [0.009, 0.021, 0.040, 0.077, 0.144, 0.509], atol=6e-4)
    assert built("prediabetes.cutoff-30").x.shape == (3059, 5)


@pytest.mark.parametrize(
    ("name", "train", "test", "side"),
    [("fashion-mnist", 60_000, 10_000, 28), ("mnist-10k", 8_004, 1_996, 28), ("digits", 0, 0, 8)],
)
def test_images_have_every_class_and_no_picture_in_both_splits(name, train, test, side):
    splits = built(f"{name}.train"), built(f"{name}.test")
    sizes = [len(split.x) for split in splits]
    assert sizes == [train, test] if train else sum(sizes) == 1797
    for split in splits:
        assert split.x.shape[1:] == (side, side)
        assert split.x.max() == (255 if side == 28 else 240)
        assert np.bincount(split.y).min() > 0.05 * len(split.y)
