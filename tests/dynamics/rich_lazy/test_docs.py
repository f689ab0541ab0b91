"""The example of docs/rich-and-lazy.md runs and prints what the page shows; its study is planned."""

import contextlib
import io
import re
from pathlib import Path

from methods.dynamics.rich_lazy.params import RichLazy
from methods.study import strict_yaml

PAGE = Path("docs/rich-and-lazy.md").read_text(encoding="utf-8")


def block(kind):
    return re.search(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)[1]


def test_the_example_prints_what_the_page_shows():
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block("python"), "docs/rich-and-lazy.md", "exec"), {})
    assert printed.getvalue().splitlines() == block("text").splitlines()


def test_the_steps_on_the_page_are_valid(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(block("yaml"), encoding="utf-8")
    variants = strict_yaml.load(file).value["variants"]
    for variant in variants.values():
        for step in variant["steps"]:
            RichLazy.model_validate(step)
