"""What docs/rich-and-lazy.md shows of a study may be said."""

import re
from pathlib import Path

from methods.dynamics.rich_lazy.params import RichLazy
from methods.study import strict_yaml

PAGE = Path("docs/rich-and-lazy.md").read_text(encoding="utf-8")


def test_the_steps_on_the_page_are_valid(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1], encoding="utf-8")
    variants = strict_yaml.load(file).value["variants"]
    assert len(variants) == 2
    for variant in variants.values():
        for step in variant["steps"]:
            RichLazy.model_validate(step)
