"""The example of the page runs and prints what the page says, where MiniLM has been fetched."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from methods.data.sources import cache
from methods.models.params import ModelDeclaration
from methods.study import strict_yaml

PAGE = Path("docs/prompt-tuning.md").read_text(encoding="utf-8")
MINILM = ModelDeclaration.model_validate(strict_yaml.load(Path("configs/models/minilm.yaml")).value)


def test_the_example_prints_what_the_page_says():
    if not all((cache() / file.sha256).is_file() for file in MINILM.files.values()):
        pytest.skip("MiniLM has not been fetched yet (a run of the study ept fetches it)")
    code, said = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", PAGE, re.DOTALL).groups()
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "docs/prompt-tuning.md", "exec"), {})
    assert out.getvalue() == said
