import pytest

from methods.study import strict_yaml
from methods.study.errors import SpecError


def load(tmp_path, text):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return strict_yaml.load(path)


def test_numbers_and_words_are_what_people_mean(tmp_path):
    value = load(tmp_path, "rate: 1e-4\nhalf: .5\ncountry: no\nflag: true\nnothing: ~\n").value
    assert value == {"rate": 1e-4, "half": 0.5, "country": "no", "flag": True, "nothing": None}
    assert type(value["rate"]) is float
    assert type(value["country"]) is str


def test_a_key_that_stands_twice_is_named_with_its_line(tmp_path):
    with pytest.raises(SpecError, match=r"study\.yaml:3.*bits"):
        load(tmp_path, "step:\n  bits: 4\n  bits: 3\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\n", "not valid YAML"),
        ("a: !!python/object/apply:os.system [ls]\n", "not allowed|not valid YAML"),
        ("- 1\n", "mapping"),
        ("a: 2020-01-01\n", "date values are not allowed"),
        ("", "mapping"),
        ("? [1, 2]\n: 3\n", "key must be text"),
    ],
)
def test_other_files_are_refused_in_one_sentence(tmp_path, text, message):
    with pytest.raises(SpecError, match=message):
        load(tmp_path, text)


def test_an_alias_bomb_is_stopped(tmp_path):
    layers = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    layers += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(SpecError, match="aliases"):
        load(tmp_path, "\n".join(layers))


def test_missing_binary_and_oversized_files(tmp_path):
    with pytest.raises(SpecError, match="no such file"):
        strict_yaml.load(tmp_path / "nothing.yaml")
    (tmp_path / "b.yaml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(SpecError, match="UTF-8"):
        strict_yaml.load(tmp_path / "b.yaml")
    (tmp_path / "c.yaml").write_text("a: " + "x" * 1_000_001)
    with pytest.raises(SpecError, match="larger"):
        strict_yaml.load(tmp_path / "c.yaml")


def test_lines_lead_to_the_deepest_known_part(tmp_path):
    document = load(tmp_path, "a:\n  b:\n    - c: 1\n      d: 2\n")
    assert document.line(("a", "b", 0, "d")) == 4
    assert document.line(("a", "b", 0, "missing")) == 3
    assert document.line(("elsewhere",)) is None


@pytest.mark.parametrize("number", [".inf", "-.inf", ".nan"])
def test_numbers_are_finite(tmp_path, number):
    with pytest.raises(SpecError, match=r"study\.yaml:3: .* is no finite number"):
        load(tmp_path, f"a: 1\nstep:\n  - rate: {number}\n")


def test_the_line_of_a_key_that_came_by_a_merge_is_the_one_that_merged_it(tmp_path):
    document = load(tmp_path, "one: &step\n  rate: 1\ntwo:\n  <<: *step\n  bits: 2\n")
    assert document.value["two"] == {"rate": 1, "bits": 2}
    assert document.line(("two", "rate")) == 3
    assert document.line(("two", "bits")) == 5
