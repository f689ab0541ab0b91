"""Builders on inputs small enough to check by eye: what is kept, what is dropped, which errors are raised."""

import io
import json
import os
import pickle

import numpy as np
import pandas
import pytest
from pydantic import ValidationError

from methods.data import builders, formats
from methods.data.builders import (
    chapters,
    digit_json,
    digits_csv,
    idx,
    lines,
    ordinal_table,
    prediabetes,
    wikipedia,
)
from methods.data.builders.options import by_hash, every_fifth
from methods.data.frames import read_frame

LONG = "This sentence is long enough to be kept as a line of running prose"


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        (f"{LONG}{{{{cite|a={{{{b}}}}|c}}}}.", f"{LONG}."),
        (f"{{| class=x\n|-\n| {LONG}\n{{|\n| inner\n|}}\n|}}\n{LONG}.", f"{LONG}."),
        (f"{LONG}<ref name=a>{LONG}</ref><ref name=b/>.", f"{LONG}."),
        (f"{LONG} [[Rome]], [[Athens|the city]] and [[cat]]s.", f"{LONG} Rome, the city and cats."),
        (f"[[File:x.jpg|thumb|A [[cat]] on a mat, {LONG}]]\n{LONG}.", f"{LONG}."),
        (f"{LONG}.\n[[Category:Things]]\n[[de:Ding]]", f"{LONG}."),
        (f"{LONG} [http://a.b/c of a site] http://d.e/f.", f"{LONG} of a site"),
        (f"'''{LONG}''' ''so''&nbsp;far &amp;amp; on.", f"{LONG} so far & on."),
        (f"* {LONG}\n# {LONG}\n: {LONG}\nshort\n{LONG}.", f"{LONG}."),
        (f"<!-- {LONG}\n{LONG} -->{LONG}<br/>.", f"{LONG}."),
        (f"{LONG} ({{{{lang|grc|x}}}}) here.", f"{LONG} here."),
    ],
    ids=[
        "template",
        "table",
        "ref",
        "link",
        "file",
        "category",
        "address",
        "bold",
        "list",
        "comment",
        "brackets",
    ],
)
def test_wikitext_becomes_prose(wikitext, expected):
    assert wikipedia.prose(wikitext) == expected


def test_headings_stay_only_above_text_and_the_last_sections_end_the_article():
    text = f"{LONG} one.\n== A ==\n=== B ===\n{LONG} two.\n== C ==\n* x\n== References ==\n{LONG} three."
    assert wikipedia.prose(text).split("\n") == [f"{LONG} one.", "= B =", f"{LONG} two."]


def test_only_a_main_heading_ends_the_article():
    text = f"{LONG} one.\n=== Notes ===\n{LONG} two.\n== Notes ==\n{LONG} three."
    assert wikipedia.prose(text).split("\n") == [f"{LONG} one.", "= Notes =", f"{LONG} two."]


def dump(*pages):
    inner = "".join(
        f"<page><title>{title}</title><ns>{ns}</ns><revision><text>{text}</text></revision></page>"
        for title, ns, text in pages
    )
    return f'<mediawiki xmlns="http://x/">{inner}</mediawiki>'.encode()


def test_wikipedia_drops_redirects_stubs_and_other_namespaces_and_splits_by_article():
    articles = [(f"Title {n}", 0, f"{LONG} {n}.\n" * 10) for n in range(20)]
    others = [
        ("Moved", 0, "#REDIRECT [[Title 1]]" + LONG * 20),
        ("Talk:Title 1", 1, LONG * 20),
        ("Stub", 0, "Short."),
    ]
    files = {"dump.xml": dump(*others, *articles)}
    options = wikipedia.Options(name="wikipedia")
    built = wikipedia.build(files, options)
    assert list(built) == options.splits == ["train", "validation", "test"]
    assert [len(text.titles) for text in built.values()] == [14, 2, 4]
    titles = [title for text in built.values() for title in text.titles]
    assert sorted(titles) == sorted(title for title, *_ in articles)
    for text in built.values():
        for title, document in zip(text.titles, text.documents, strict=True):
            assert f"{LONG} {title.split()[1]}." in document


def test_by_hash_is_disjoint_and_does_not_depend_on_the_order_of_titles():
    titles = [f"t{n}" for n in range(50)]
    shares = {"a": 0.5, "b": 0.3, "c": 0.2}
    first, second = by_hash(titles, shares), by_hash(titles[::-1], shares)
    assert sorted(index for rows in first.values() for index in rows) == list(range(50))
    for split, rows in first.items():
        assert {titles[i] for i in rows} == {titles[::-1][i] for i in second[split]}


def test_shares_that_do_not_add_up_are_refused():
    with pytest.raises(ValidationError, match="add up to 1"):
        wikipedia.Options(name="wikipedia", shares={"train": 0.7, "test": 0.2})


def test_every_fifth_of_each_class_is_for_testing():
    labels = [0] * 10 + [1] * 4 + [2] * 5
    train, test = every_fifth(labels)
    assert test == [4, 9, 18]
    assert sorted(train + test) == list(range(19))


def idx_file(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


def test_idx_reads_images_and_labels_of_both_splits():
    rng = np.random.default_rng(0)
    files, expected = {}, {}
    for rows, (split, (images, labels)) in zip((6, 4), idx.FILES.items(), strict=True):
        x, y = rng.integers(0, 256, (rows, 3, 2)), rng.integers(0, 2, rows)
        files[images], files[labels], expected[split] = idx_file(x), idx_file(y), (x, y)
    built = idx.build(files, idx.Options(name="idx", classes=["no", "yes"]))
    assert set(built) == {"train", "test"}
    for split, (x, y) in expected.items():
        np.testing.assert_array_equal(built[split].x, x)
        np.testing.assert_array_equal(built[split].y, y)
        assert (built[split].x.dtype, built[split].y.dtype) == (np.uint8, np.int64)


@pytest.mark.parametrize(
    "body",
    [b"", b"\x00\x00\x0d\x01\x00\x00\x00\x00", idx_file(np.zeros((2, 2)))[:-1]],
    ids=["empty", "floats", "short"],
)
def test_idx_refuses_what_contradicts_its_header(body):
    with pytest.raises(ValueError, match="IDX file"):
        idx.array(body)


def digit_files(change=None):
    pixels = np.arange(784) % 256
    files = {
        # The package writes a pixel with a few decimals, as here.
        name: json.dumps({"data": [round(p / 255, 4) for p in pixels.tolist()] * (5 + digit)})
        for digit, name in enumerate(digit_json.FILES)
    }
    return {name: text.encode() for name, text in {**files, **(change or {})}.items()}, pixels


def test_json_digits_come_back_as_the_bytes_they_were():
    files, pixels = digit_files()
    built = digit_json.build(files, digit_json.Options(name="digit-json"))
    assert np.bincount(built["train"].y).tolist() == [4, 5, 6, 7, 8, 8, 9, 10, 11, 12]
    assert np.bincount(built["test"].y).tolist() == [1] * 5 + [2] * 5
    for images in built.values():
        assert images.x.dtype == np.uint8
        assert (images.x.reshape(-1, 784) == pixels).all()


@pytest.mark.parametrize("data", [[0.5] * 783, [1.5] * 784, [-0.1] * 784])
def test_json_digits_of_the_wrong_size_or_range_are_refused(data):
    files, _ = digit_files({"3.json": json.dumps({"data": data})})
    with pytest.raises(ValueError, match=r"3\.json does not hold"):
        digit_json.build(files, digit_json.Options(name="digit-json"))


def test_csv_digits_are_scaled_without_rounding():
    rows = [[n % 17] * 64 + [n % 2] for n in range(17)]
    body = "\n".join(",".join(map(str, row)) for row in rows).encode()
    built = digits_csv.build({"digits.csv": body}, digits_csv.Options(name="digits-csv"))
    every = np.concatenate([built["train"].x, built["test"].x])
    assert sorted(every[:, 0, 0].tolist()) == [15 * n for n in range(17)]
    with pytest.raises(ValueError, match="64 pixels"):
        digits_csv.build({"digits.csv": b"17" + b",1" * 64}, digits_csv.Options(name="digits-csv"))


OLDER_NAMES = {
    "DataFrame": "pandas.core.frame",
    "Index": "pandas.core.indexes.base",
    "RangeIndex": "pandas.core.indexes.range",
}


def frame_file(**changes):
    columns = {
        "rating": [1, 3, 2, 1],
        "taste": ["sweet", "bitter", "sour", "sweet"],
        "day": [1, 2, 1, 10],
        "amount": [0.5, 1.5, 2.5, 3.5],
    }
    series = {
        name: pandas.Series(column, dtype=_kind(column))
        for name, column in {**columns, **changes}.items()
    }
    frame = pandas.DataFrame(series)
    frame.columns = pandas.Index(list(series), dtype=object)
    # Protocol 3 names classes in plain text, so they can be given the names that pandas 2 gave them.
    body = pickle.dumps(frame, protocol=3)
    for name, module in OLDER_NAMES.items():
        body = body.replace(f"cpandas\n{name}\n".encode(), f"c{module}\n{name}\n".encode())
    return {"frame.pickle": body}


def _kind(column):
    return object if isinstance(column[0], str) else None


def table_options(**changes):
    fields = {
        "name": "ordinal-table",
        "outcome": "rating",
        "classes": {"3": "high", "2": "middle", "1": "low"},
        "numeric": ["amount"],
        "categorical": ["taste", "day"],
    }
    return ordinal_table.Options(**{**fields, **changes})


def test_table_codes_words_as_dummies_and_reverses_the_outcome():
    table = ordinal_table.build(frame_file(), table_options())["all"]
    assert table.columns == ["amount", "taste=sour", "taste=sweet", "day=2", "day=10"]
    assert table.x.tolist() == [
        [0.5, 0, 1, 0, 0],
        [1.5, 0, 0, 1, 0],
        [2.5, 1, 0, 0, 0],
        [3.5, 0, 1, 0, 1],
    ]
    assert (table.classes, table.y.tolist()) == (["high", "middle", "low"], [2, 0, 1, 2])


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"numeric": ["weight"]}, "no column weight"),
        ({"rating": [1, 4, 2, 1]}, {}, "the value 4"),
        ({"taste": ["sweet", None, "sour", "sour"]}, {}, "taste has missing values"),
    ],
)
def test_table_refuses_missing_columns_values_and_unknown_classes(changes, options, message):
    with pytest.raises(ValueError, match=message):
        ordinal_table.build(frame_file(**changes), table_options(**options))


class _Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_that_asks_for_anything_else_runs_nothing(tmp_path):
    target = tmp_path / "made by the pickle"
    body = pickle.dumps(_Trap(str(target)))
    with pytest.raises(ValueError, match="no part of a data frame"):
        read_frame(body)
    assert not target.exists()
    # The trap is a real one: without the restriction it would have run.
    pickle.loads(body)
    assert target.exists()


@pytest.mark.parametrize("body", [b"", b"not a pickle", pickle.dumps([1, 2])])
def test_what_is_no_frame_is_refused(body):
    with pytest.raises(ValueError, match="not a data frame"):
        read_frame(body)


def test_chapters_are_disjoint_and_in_the_order_of_the_book():
    files = {
        f"chapter_{n}.json": json.dumps({"title": f"T{n}", "text": f" text {n}\n"}).encode()
        for n in range(1, 11)
    }
    built = chapters.build(files, chapters.Options(name="chapters", chapters=10))
    assert {split: len(text.titles) for split, text in built.items()} == {"train": 6, "test": 4}
    numbers = {s: [int(t.split(".")[0]) for t in text.titles] for s, text in built.items()}
    assert all(found == sorted(found) for found in numbers.values())
    assert sorted(numbers["train"] + numbers["test"]) == list(range(1, 11))
    for split, text in built.items():
        assert text.documents == [f"text {n}" for n in numbers[split]]


def test_prediabetes_outcome_follows_the_age_of_the_cutoff():
    # Prediabetes at 40, diabetes at 50; both bounds are strict: at 40 and at 50 it is not yet so.
    header = "Age,Sex,IMD_Decile,BMI,HbA1C,Age_PreDiabetes,Age_Diabetes"
    body = io.StringIO()
    print(header, "61,0,7,51.67,44,40,50", "41,1,2,38.39,42,20,25", sep="\n", file=body)
    options = prediabetes.Options(name="prediabetes", cutoffs=[20, 40, 41, 50, 51])
    built = prediabetes.build({"PreDiabetes.csv": body.getvalue().encode()}, options)
    assert list(built) == options.splits == [f"cutoff-{c}" for c in (20, 40, 41, 50, 51)]
    outcomes = np.stack([table.y for table in built.values()])
    assert outcomes.tolist() == [[0, 0], [0, 2], [1, 2], [1, 2], [2, 2]]
    for table in built.values():
        assert table.x.tolist() == [[61, 0, 7, 51.67, 44], [41, 1, 2, 38.39, 42]]


def test_what_a_builder_makes_is_written_to_the_same_bytes_and_read_back(tmp_path):
    files, _ = digit_files()
    sets = [
        (digit_json.build(files, digit_json.Options(name="digit-json")), "images"),
        (ordinal_table.build(frame_file(), table_options()), "table"),
    ]
    for built, kind in sets:
        first, second = tmp_path / kind / "1", tmp_path / kind / "2"
        for directory in (first, second):
            directory.mkdir(parents=True)
            formats.write(directory, built)
        for file in first.iterdir():
            assert file.read_bytes() == (second / file.name).read_bytes()
        for split, content in built.items():
            found = formats.read(first, split, "any")
            np.testing.assert_array_equal(found.x, content.x)
            np.testing.assert_array_equal(found.y, content.y)


def test_every_builder_declares_what_it_needs():
    for name in builders.names():
        options = builders.find(name).Options
        assert options.needs, name
        assert callable(builders.find(name).build), name


def test_lines_are_the_text_that_the_papers_measure():
    """As the hub has WikiText: line breaks kept, blank lines empty; the codes join by blank lines."""
    body = b" \n = Title = \n \n A sentence \xe2\x80\xa8 of it . \n"
    options = lines.Options(name="lines", of={"test": "wiki.test.raw"})
    (text,) = lines.build({"wiki.test.raw": body}, options).values()
    assert text.documents == ["", " = Title = \n", "", " A sentence \u2028 of it . \n"]
    assert "\n\n".join(text.documents) == "\n\n = Title = \n\n\n\n\n A sentence \u2028 of it . \n"


def test_lines_of_json_give_their_field():
    body = b'{"text": "one\\ntwo", "meta": {}}\n\n{"text": "three"}\n'
    options = lines.Options(name="lines", of={"train": "val.jsonl"}, field="text")
    assert lines.build({"val.jsonl": body}, options)["train"].documents == ["one\ntwo", "three"]
    with pytest.raises(KeyError):
        lines.build({"val.jsonl": b'{"txt": "one"}'}, options)


def test_instructions_are_rendered_and_the_first_held_out():
    import json

    from methods.data.builders import instructions

    samples = [
        {"instruction": f"do {i}", "input": "x" * (i % 2), "output": "yes"} for i in range(5)
    ]
    options = instructions.Options(name="instructions", file="a.json", held=2)
    made = instructions.build({"a.json": json.dumps(samples).encode()}, options)
    assert len(made["train"].documents) == 3
    assert made["validation"].documents[1].endswith("### Input:\nx\n\n### Response:\nyes")
    assert "### Input" not in made["validation"].documents[0]
    with pytest.raises(ValueError, match=r"sample 0 of a\.json has no 'output'"):
        instructions.build({"a.json": b'[{"instruction": "a"}, {}, {}]'}, options)
