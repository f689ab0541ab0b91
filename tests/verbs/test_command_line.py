import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from methods.__main__ import main, parser
from methods.study import strict_yaml
from methods.study.loading import load_study
from methods.verbs import new_study, schema


def test_help_names_every_verb_and_does_not_load_torch():
    code = (
        "import sys, methods.__main__ as m; m.parser().format_help(); "
        "print('torch' in sys.modules, 'pydantic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
    text = parser().format_help()
    for verb in [
        "plan",
        "data",
        "base",
        "apply",
        "evaluate",
        "table",
        "report",
        "verify",
        "explain",
        "new-study",
    ]:
        assert f"\n    {verb}" in text


def test_planning_does_not_load_torch():
    code = (
        "import sys; from methods.study.specification import study_type; study_type(); "
        "import methods.verbs.planning, methods.report.command; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_new_study_is_a_valid_study(tmp_path, monkeypatch):
    [path] = new_study.write("my-study", tmp_path / "my-study.yaml")
    for tier in ("quick", "full"):
        study = load_study(path, tier)
        assert study.study == "my-study"
    assert set(load_study(path, "quick").variants) == {"dense", "rtn-w3", "awq-w3"}
    assert main(["new-study", "my-study", "--to", str(path)]) == 2
    assert main(["new-study", "My Study"]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plan", "awk"], "there is no study 'awk' in configs/studies/; did you mean 'awq'?"),
        (["plan", "nothing.yaml"], "there is no study file nothing.yaml"),
        (["apply", "awq-000000000000"], "there is no run 'awq-000000000000'"),
        (["explain", "awq", "a", "b", "--tier", "ful"], "tier 'ful' does not exist"),
        (["table", "awq", "--tier", "ful"], "tier 'ful' does not exist; did you mean 'full'?"),
    ],
)
def test_mistakes_get_one_sentence(words, message, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_the_schema_in_the_repository_is_in_step():
    assert schema.PATH.read_text() == schema.text()


def validator():
    return Draft202012Validator(json.loads(schema.text()))


def test_editors_accept_every_study(tmp_path):
    [written] = new_study.write("my-study", tmp_path / "my-study.yaml")
    readme = Path("README.md").read_text(encoding="utf-8")
    example = tmp_path / "readme.yaml"
    example.write_text(re.search(r"```yaml\n(.*?)```", readme, re.DOTALL).group(1))
    load_study(example)
    for path in [*sorted(Path("configs/studies").glob("*.yaml")), written, example]:
        errors = list(validator().iter_errors(strict_yaml.load(path).value))
        assert not errors, (path, errors[0].message)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("group_size: 64", "groupsize: 64"),
        ("method: awq", "method: awk"),
        ("bits: [4, 3]", "bits: 4"),
        ("base: smollm2-135m", "base: {nam: smollm2-135m}"),
        ("measure: perplexity", "measure: perplexty"),
        ("eval: [wikipedia.test]", "evla: [wikipedia.test]"),
    ],
)
def test_editors_underline_what_is_wrong(tmp_path, old, new):
    [path] = new_study.write("my-study", tmp_path / "my-study.yaml")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert list(validator().iter_errors(strict_yaml.load(path).value))
