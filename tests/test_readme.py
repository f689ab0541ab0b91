"""The front page says what the committed tables say, and its links lead somewhere."""

import re
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
