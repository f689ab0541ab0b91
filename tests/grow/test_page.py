"""The example of the page runs and prints what the page says."""

import contextlib
import io
import re
from pathlib import Path

PAGE = Path("docs/mixture-growth.md").read_text(encoding="utf-8")


def test_the_example_prints_what_the_page_says():
    code, said = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", PAGE, re.DOTALL).groups()
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "docs/mixture-growth.md", "exec"), {})
    assert out.getvalue() == said
