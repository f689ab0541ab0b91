"""docs/add-a-method.md, done as it says: one file and one study."""

import csv
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.workflow
PAGE = Path("docs/add-a-method.md").read_text(encoding="utf-8")


def test_a_method_is_one_file_and_one_study(fresh):
    root = Path(__file__).resolve().parents[2]
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1]
    study = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1]
    fresh.write("methods/magnitude/__init__.py", "")
    fresh.write("methods/magnitude/params.py", code)
    fresh.write("configs/studies/pruned.yaml", study)
    fresh.write("configs/datasets/digits.yaml", (root / "configs/datasets/digits.yaml").read_text())
    fresh.write("data.dvc", (root / "data.dvc").read_text())
    fresh.snakemake("--config", "study=pruned")
    table = fresh.root / "results/quick/tables/pruned.csv"
    rows = {row["variant"]: row for row in csv.DictReader(table.open())}
    assert list(rows) == ["dense", "half", "zeros-0.8", "zeros-0.95"]
    assert len({row["value"] for row in rows.values()}) > 2
    fresh.edit(
        "configs/studies/pruned.yaml", "{method: magnitude}", "{method: magnitude, shere: 1}"
    )
    assert "did you mean 'share'" in fresh.snakemake("--config", "study=pruned", ok=False)
