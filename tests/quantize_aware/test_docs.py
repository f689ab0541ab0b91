"""The example on the documentation's page runs and prints what the page says."""

import re
from pathlib import Path

PAGE = Path("docs/oscillation-free-quantization.md").read_text(encoding="utf-8")


def test_the_example_prints_what_the_page_says(capsys):
    code, said = re.search(
        r"```python\n(import torch.*?)```\n\n```\n(.*?)```", PAGE, re.DOTALL
    ).groups()
    exec(compile(code, "page", "exec"), {})
    assert capsys.readouterr().out == said
