"""The front page says what the committed tables say, and its links lead somewhere."""

import re
import shutil
from itertools import pairwise
from pathlib import Path

README = Path("README.md").read_text(encoding="utf-8")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_its_numbers_stand_in_the_table_that_it_names():
    table = Path("results/tables/awq.md").read_text(encoding="utf-8").splitlines()
    main = table[table.index("## Perplexity and size") :]
    head = next(line for line in README.splitlines() if line.startswith("| variant"))
    columns = cells(head)
    full = next(line for line in main if line.startswith("| variant"))
    places = [cells(full).index(column) for column in columns]
    rows = README.split(head)[1].split("\n\n")[0].strip().splitlines()[1:]
    assert len(rows) == 5
    known = [
        [cells(line)[i] for i in places] for line in main if line.count("|") == full.count("|")
    ]
    for row in rows:
        assert cells(row) in known, row


def test_its_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) > 6
    assert [link for link in links if not link.startswith("http") and not Path(link).exists()] == []


def test_studies_and_data_sets_in_the_docs_can_be_planned(tmp_path, monkeypatch):
    from methods.study.expansion import plan

    # add-a-method.md has a method that is not there; tests/workflow/test_add_a_method.py makes it.
    pages = [Path("README.md"), *Path("docs").glob("[!a]*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    shutil.copytree("configs", tmp_path / "configs")
    shutil.copy("data.dvc", tmp_path)
    monkeypatch.chdir(tmp_path)
    parts, studies = text.split("```yaml\n"), []
    for before, after in pairwise(parts):
        block = after.split("```")[0]
        if re.search(r"^study:", block, re.MULTILINE):
            studies.append(block)
        else:
            name = re.findall(r"`(configs/datasets/[\w-]+\.yaml)`", before)[-1]
            Path(name).write_text(block, encoding="utf-8")
    for number, study in enumerate(studies):
        path = tmp_path / f"{number}.yaml"
        path.write_text(study, encoding="utf-8")
        assert plan(path).cells
    assert len(studies) >= 3


def test_links_in_the_docs_lead_somewhere():
    for page in Path("docs").glob("*.md"):
        text = page.read_text(encoding="utf-8")
        for name, _, test in re.findall(r"`(tests/[\w/]+\.py)(::(\w+))?`", text):
            assert Path(name).exists(), name
            assert f"def {test}" in Path(name).read_text(encoding="utf-8"), f"{name}::{test}"
