"""Every example of the pages in docs/ that shows what it prints does print that."""

import contextlib
import io
import re
from pathlib import Path

import pytest
import torch

EXAMPLE = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)
EXAMPLES = {
    f"{page.stem}-{number}": (page, *found.groups())
    for page in sorted(Path("docs").glob("*.md"))
    for number, found in enumerate(EXAMPLE.finditer(page.read_text(encoding="utf-8")), 1)
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_prints_what_the_page_shows(name):
    page, code, shown = EXAMPLES[name]
    printed = io.StringIO()
    with torch.random.fork_rng(), contextlib.redirect_stdout(printed):
        exec(compile(code, str(page), "exec"), {"__name__": "example"})
    lines = [line.rstrip() for line in printed.getvalue().splitlines()]
    assert lines == shown.splitlines()


def test_no_page_shows_output_that_nothing_checks():
    for page in Path("docs").glob("*.md"):
        text = page.read_text(encoding="utf-8")
        # counting.md shows its folder first; tests/counting/test_docs.py makes that folder and runs the example.
        if page.stem != "counting":
            assert len(EXAMPLE.findall(text)) == text.count("```text\n"), page
