"""The example of docs/sparse-ift.md runs and prints what the page shows."""

import contextlib
import io
import re
from pathlib import Path

PAGE = Path("docs/sparse-ift.md").read_text(encoding="utf-8")


def test_the_example_prints_what_the_page_shows():
    code, shown = (
        re.search(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)[1] for kind in ("python", "text")
    )
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "docs/sparse-ift.md", "exec"), {})
    assert printed.getvalue().splitlines() == shown.splitlines()
