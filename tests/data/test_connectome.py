"""The builder of connectomes on a graph small enough to check by eye, and the worm's where it is built."""

from pathlib import Path

import numpy as np
import pytest

from methods.data.builders import connectome
from methods.data.loading import load

EDGES = """Source,Target,Weight,Type
A1 , B2 ,3,chemical
B2,A1,1,chemical
B2,muscle,5,chemical
A1,B2,2,electrical
A1,B2,4,chemical
"""
ROOT = Path(__file__).resolve().parents[2] / "data"


def options(**changes):
    return connectome.Options(name="connectome", **{"inhibitory": ["B2"], **changes})


def built(text=EDGES, **changes):
    return connectome.build({"edges.csv": text.encode()}, options(**changes))


def test_weights_of_equal_contacts_add_up_and_types_are_apart():
    tables = built()
    chemical = tables["chemical"]
    assert chemical.columns == ["A1", "B2", "muscle"]
    np.testing.assert_array_equal(chemical.x, [[0, 7, 0], [1, 0, 5], [0, 0, 0]])
    np.testing.assert_array_equal(tables["electrical"].x, [[0, 2, 0], [0, 0, 0], [0, 0, 0]])
    assert [chemical.classes[y] for y in chemical.y] == [
        "excitatory neuron",
        "inhibitory neuron",
        "other cell",
    ]


@pytest.mark.parametrize(
    ("text", "changes", "message"),
    [
        (EDGES.replace("electrical", "magnetic"), {}, "A1 -> B2 is of the undeclared type 'mag"),
        (EDGES.replace(",5,", ",-5,"), {}, "B2 -> muscle has the weight -5"),
        (EDGES.replace(",5,", ",nan,"), {}, "B2 -> muscle has the weight nan"),
        (EDGES.replace("Weight", "Size"), {}, "expected the columns Source, Target, Weight"),
        (EDGES, {"inhibitory": ["B3"]}, "the inhibitory neuron B3 is not in the file"),
    ],
)
def test_wrong_files_are_refused(text, changes, message):
    with pytest.raises(ValueError, match=message):
        built(text, **changes)


def test_a_pattern_that_is_none_is_refused():
    with pytest.raises(ValueError, match="no regular expression"):
        options(neuron="[A")


def test_the_worm():
    if not (ROOT / "c-elegans" / "dataset.json").is_file():
        pytest.skip("c-elegans is not built here (python -m methods data c-elegans)")
    chemical, electrical = load("c-elegans.chemical", ROOT), load("c-elegans.electrical", ROOT)
    assert chemical.x.shape == (448, 448)
    assert int((chemical.x > 0).sum()) == 4681
    assert int((electrical.x > 0).sum()) == 2698
    assert np.bincount(chemical.y).tolist() == [148, 274, 26]
    assert chemical.x.sum() == 27019
