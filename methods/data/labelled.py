"""Labelled texts from rows, for the builders that make them: classes in a fixed order, no text in two splits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from methods.data.builders.options import by_hash
from methods.data.kinds import LabelledText

Row = tuple[str, str] | tuple[str, str, str]
"""(text, class) or (text, class, second text)."""


def collected(
    splits: Mapping[str, Iterable[Row]], classes: Sequence[str] | None = None
) -> dict[str, LabelledText]:
    """Splits whose rows are given, under one list of classes (None: those found, in alphabetical order).

    Rows without a text are dropped. Raises ValueError: a split without rows, a class that is not listed,
    second texts in some rows only.
    """
    rows = {
        split: [row for row in given if all(part.strip() for part in row)]
        for split, given in splits.items()
    }
    found = sorted({row[1] for given in rows.values() for row in given})
    order = list(classes) if classes is not None else found
    strange = [name for name in found if name not in order]
    if strange:
        raise ValueError(f"'{strange[0]}' is no declared class; declared are {', '.join(order)}")
    number = {name: index for index, name in enumerate(order)}
    made = {}
    for split, given in rows.items():
        if not given:
            raise ValueError(f"the split '{split}' has no rows")
        widths = {len(row) for row in given}
        if len(widths) > 1:
            raise ValueError(f"the split '{split}' has second texts in some rows only")
        y = np.array([number[row[1]] for row in given], dtype=np.int64)
        pairs = [row[2] for row in given] if widths == {3} else None
        made[split] = LabelledText(split, [row[0] for row in given], y, order, pairs)
    return made


def divided(
    rows: Iterable[Row],
    shares: Mapping[str, float],
    classes: Sequence[str] | None = None,
    group: Sequence[str] | None = None,
) -> dict[str, LabelledText]:
    """Rows of one source, divided into splits by the hash of each row's text (or of its `group`).

    Equal texts count once, and not at all where their classes contradict each other. Rows of one group
    (a speech cut into pieces, a word with its senses) stay together.
    """
    rows = list(rows)
    names = list(group) if group is not None else ["\n".join((r[0], *r[2:])) for r in rows]
    labels: dict[tuple[str, ...], set[str]] = {}
    for row in rows:
        labels.setdefault((row[0], *row[2:]), set()).add(row[1])
    kept, titles, seen = [], [], set()
    for row, name in zip(rows, names, strict=True):
        texts = (row[0], *row[2:])
        if texts not in seen and len(labels[texts]) == 1:
            seen.add(texts)
            kept.append(row)
            titles.append(name)
    unique = list(dict.fromkeys(titles))
    cut = by_hash(unique, dict(shares))
    home = {unique[index]: split for split, indices in cut.items() for index in indices}
    splits: dict[str, list[Row]] = {split: [] for split in shares}
    for row, title in zip(kept, titles, strict=True):
        splits[home[title]].append(row)
    return collected(splits, classes)
