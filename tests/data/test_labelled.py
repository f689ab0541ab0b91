"""Labelled texts from columns: classes in order, no text in two splits, contradictions left out."""

import pytest
from pydantic import ValidationError

from methods.data.builders import labelled_columns
from methods.data.labelled import collected, divided

TABLE = b"label\ttext\tpart\nd\ts\t\nham\ta b\tone\nspam\tc d\ttwo\nham\t  \tone\neggs\te f\tone\n"


def options(**changes):
    given = {"name": "labelled-columns", "text": "text", "label": "label", "delimiter": "\t"}
    return labelled_columns.Options(**{**given, "skip": 1, **changes})


def test_columns_become_texts_and_classes():
    built = labelled_columns.build({"t": TABLE}, options(of={"train": "t"}))["train"]
    assert built.documents == ["a b", "c d", "e f"]
    assert [built.classes[k] for k in built.y] == ["ham", "spam", "eggs"]
    assert built.classes == ["eggs", "ham", "spam"]


def test_classes_select_and_rename_rows():
    chosen = options(of={"train": "t"}, classes={"spam": "junk", "ham": "mail"})
    built = labelled_columns.build({"t": TABLE}, chosen)["train"]
    assert built.classes == ["junk", "mail"]
    assert built.y.tolist() == [1, 0]


def test_a_column_may_name_the_split():
    chosen = options(file="t", split_column="part", split_names={"one": "train", "two": "test"})
    built = labelled_columns.build({"t": TABLE}, chosen)
    assert list(built) == chosen.splits == ["train", "test"]
    assert built["train"].documents == ["a b", "e f"]
    assert built["test"].documents == ["c d"]
    assert built["test"].classes == built["train"].classes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "either `of`"),
        ({"of": {"train": "t"}, "file": "t"}, "either `of`"),
        ({"file": "t", "split_column": "part"}, "go together"),
        ({"file": "t", "shares": {"train": 0.5}}, "add up to 1"),
    ],
)
def test_contradictions_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        options(**changes)


def test_a_missing_column_is_named():
    with pytest.raises(ValueError, match="no column 'txt', only label, text, part"):
        labelled_columns.build({"t": TABLE}, options(of={"train": "t"}, text="txt"))


def test_division_keeps_each_text_once_and_groups_together():
    rows = [(f"text {n}", "ab"[n % 2]) for n in range(100)]
    double, contradiction = ("text 4", "a"), ("text 7", "a")
    shares = {"train": 0.8, "test": 0.2}
    parts = divided([*rows, double, contradiction], shares)
    texts = [set(part.documents) for part in parts.values()]
    assert not texts[0] & texts[1]
    assert texts[0] | texts[1] == {text for text, _ in rows} - {"text 7"}
    assert sum(len(part.documents) for part in parts.values()) == 99
    groups = [str(n // 10) for n in range(100)]
    for part in divided(rows, shares, group=groups).values():
        of = [int(text.split()[1]) // 10 for text in part.documents]
        assert all(of.count(group) == 10 for group in set(of))


def test_second_texts_are_all_or_none():
    pairs = collected({"train": [("a", "yes", "b"), ("c", "no", "d")]})["train"]
    assert pairs.pairs == ["b", "d"]
    with pytest.raises(ValueError, match="in some rows only"):
        collected({"train": [("a", "yes", "b"), ("c", "no")]})
    with pytest.raises(ValueError, match="'test' has no rows"):
        collected({"train": [("a", "yes")], "test": [("", "no")]})
    with pytest.raises(ValueError, match="'maybe' is no declared class"):
        collected({"train": [("a", "maybe")]}, ["yes", "no"])
