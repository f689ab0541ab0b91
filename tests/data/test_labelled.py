"""Labelled texts from columns: classes in order, no text in two splits, contradictions left out."""

import io
import tarfile

import pytest
from pydantic import ValidationError

from methods.data.builders import archived_texts, labelled_columns, rated_snippets, wordnet
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


def tar(members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


def texts_of(splits):
    return {
        text: part.classes[label]
        for part in splits.values()
        for text, label in zip(part.documents, part.y, strict=True)
    }


def test_ratings_near_zero_are_left_out():
    lines = "".join(f"{n}\t{score}\tsnippet {n}\n" for n, score in enumerate([3.1, -2.0, 0.4] * 10))
    chosen = rated_snippets.Options(name="rated-snippets", member="a.txt")
    found = texts_of(rated_snippets.build({"ratings.tar": tar({"a.txt": lines})}, chosen))
    assert len(found) == 20
    assert found["snippet 0"] == "positive"
    assert found["snippet 1"] == "negative"
    with pytest.raises(ValueError, match=r"line 1: 'x' is no rating"):
        rated_snippets.build({"ratings.tar": tar({"a.txt": "1\tx\ttext\n"})}, chosen)
    with pytest.raises(ValueError, match=r"has no a\.txt"):
        rated_snippets.build({"ratings.tar": tar({"b.txt": lines})}, chosen)


def archived(members, **changes):
    given = {"name": "archived-texts", "classes": {"x/good/": "ham", "x/bad/": "spam"}}
    chosen = archived_texts.Options(**{**given, **changes})
    return archived_texts.build({"texts.tar": tar(members)}, chosen)


def test_a_message_loses_its_headers_and_markup():
    mail = "From: a\nTo: b\n\n<p>Buy  <b>now</b></p>=\nand save"
    members = {f"x/good/{n}": f"From: c\n\nhello {n}" for n in range(9)}
    members |= {f"x/bad/{n}": mail.replace("save", f"save {n}") for n in range(9)}
    found = texts_of(archived({**members, "y/other": "z"}, form="mail"))
    assert found["Buy now and save 3"] == "spam"
    assert found["hello 5"] == "ham"
    assert len(found) == 18


def test_tagged_files_are_cut_and_stay_whole():
    body = "\n".join(f"\tsentence/nn {n}/cd ./." for n in range(7))
    members = {
        f"x/{'good' if n % 2 else 'bad'}/{n}": body.replace("sentence", f"s{n}") for n in range(20)
    }
    built = archived(members, form="tagged", sentences=3)
    for part in built.values():
        files = [text.split()[0] for text in part.documents]
        assert all(files.count(name) == 2 for name in files)
    assert "s3 0 . s3 1 . s3 2 ." in texts_of(built)


def test_a_class_without_files_is_named():
    with pytest.raises(ValueError, match=r"under x/bad/\* has a text, so 'spam' is empty"):
        archived({"x/good/1": "a"})
    with pytest.raises(ValidationError, match="name the same files"):
        archived({}, classes={"x/": "a", "x/y": "b"})


def synset(offset, kind, words, pointers, gloss, part="n"):
    listed = " ".join(f"{word} 0" for word in words)
    up = " ".join(f"@ {target:08d} {part} 0000" for target in pointers)
    head = f"{offset:08d} {kind:02d} {part} {len(words):02x} {listed} {len(pointers):03d} {up}"
    return f"{head} | {gloss}\n"


NOUNS = "  licence\n" + "".join(
    synset(
        n,
        5 if n % 2 else 13,
        [f"thing_{n}"],
        [n - 1] if n else [],
        f'gloss {n}; "one thing {n} here"; "two thing {n} there"',
    )
    for n in range(40)
)


def wordnet_task(task, **changes):
    chosen = wordnet.Options(name="wordnet", task=task, **changes)
    return wordnet.build({"data.noun": NOUNS.encode(), "data.verb": b""}, chosen)


def test_wordnet_gives_kinds_senses_and_hypernyms():
    kinds = texts_of(wordnet_task("supersense"))
    assert kinds["gloss 3"] == "noun.animal"
    assert kinds["gloss 4"] == "noun.food"
    only = wordnet_task("supersense", per_class=6)
    assert sum(len(part.documents) for part in only.values()) == 12
    senses = wordnet_task("same-sense")
    assert {name for part in senses.values() for name in part.classes} == {"same"}
    assert texts_of(senses)["thing 7: one thing 7 here"] == "same"
    pairs = [
        (a, b, part.classes[k])
        for part in wordnet_task("kind-of").values()
        for a, b, k in zip(part.documents, part.pairs, part.y, strict=True)
    ]
    numbers = [(int(a.split()[1]), int(b.split()[1]), label) for a, b, label in pairs]
    assert {label for *_, label in numbers} == {"yes", "no"}
    assert all((a - b == 1) == (label == "yes") for a, b, label in numbers)
