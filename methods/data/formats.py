"""What a data set is on disk.

`data/<name>/` holds `dataset.json` (what the set is and its splits) and one packed file for each split:
JSON lines for text, safetensors for images and scenes, CSV for tables.  The same content always gives the same
bytes: no time stamps, fixed key order, numbers written so that they read back exactly.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
from safetensors import numpy as tensors

from methods.data.kinds import Images, LabelledText, Scenes, Split, Table, Text

INDEX = "dataset.json"
OUTCOME = "class"
"""Name of the last column of a table's file: the class in words."""


def write(directory: Path, splits: dict[str, Split]) -> None:
    """Write every split and the index; raises ValueError when a split contradicts itself."""
    entries: dict[str, dict] = {}
    for split, content in splits.items():
        kind, rows, body = _ENCODERS[type(content)](content)
        file = f"{split}.{_EXTENSIONS[kind]}"
        (directory / file).write_bytes(body)
        entries[split] = {"file": file, "kind": kind, "rows": rows, **_labels(content)}
    text = json.dumps({"splits": entries}, indent=1, ensure_ascii=False) + "\n"
    (directory / INDEX).write_bytes(text.encode("utf-8"))


def index(directory: Path) -> dict[str, dict]:
    """{split: {file, kind, rows, …}} of a built data set."""
    return json.loads((directory / INDEX).read_text(encoding="utf-8"))["splits"]


def read(directory: Path, split: str, name: str) -> Split:
    """One split of a built data set; the result carries `name`.  Raises ValueError on a damaged file."""
    entry = index(directory)[split]
    content = _DECODERS[entry["kind"]]((directory / entry["file"]).read_bytes(), entry, name)
    found = _rows(content)
    if found != entry["rows"]:
        raise ValueError(f"{entry['file']} holds {found} rows, {INDEX} says {entry['rows']}")
    return content


def _rows(content: Split) -> int:
    match content:
        case Text() | LabelledText():
            return len(content.documents)
        case Scenes():
            return len(content.images)
        case _:
            return len(content.x)


def _labels(content: Split) -> dict:
    if isinstance(content, Text | Scenes):
        return {}
    if isinstance(content, Images | LabelledText):
        return {"classes": content.classes}
    return {"columns": content.columns, "classes": content.classes}


def _encode_text(text: Text) -> tuple[str, int, bytes]:
    if len(text.titles) != len(text.documents):
        raise ValueError(f"{text.name}: {len(text.titles)} titles for {len(text.documents)} texts")
    lines = [
        json.dumps({"title": title, "text": document}, ensure_ascii=False) + "\n"
        for title, document in zip(text.titles, text.documents, strict=True)
    ]
    return "text", len(lines), "".join(lines).encode("utf-8")


def _decode_text(body: bytes, entry: dict, name: str) -> Text:
    # Not splitlines(): a document may hold U+2028, which JSON leaves as it is.
    rows = [json.loads(line) for line in body.decode("utf-8").split("\n") if line]
    return Text(name, [row["text"] for row in rows], [row["title"] for row in rows])


def _encode_labelled(texts: LabelledText) -> tuple[str, int, bytes]:
    count = len(texts.documents)
    if texts.y.dtype != np.int64 or texts.y.shape != (count,):
        raise ValueError(f"{texts.name}: expected int64 [{count}], one class for each text")
    if texts.pairs is not None and len(texts.pairs) != count:
        raise ValueError(f"{texts.name}: {len(texts.pairs)} second texts for {count} first ones")
    _check_classes(texts.name, texts.y, texts.classes)
    pairs = [{}] * count if texts.pairs is None else [{"pair": pair} for pair in texts.pairs]
    lines = [
        json.dumps({"class": texts.classes[label], "text": text, **pair}, ensure_ascii=False) + "\n"
        for text, label, pair in zip(texts.documents, texts.y.tolist(), pairs, strict=True)
    ]
    return "labelled_text", count, "".join(lines).encode("utf-8")


def _decode_labelled(body: bytes, entry: dict, name: str) -> LabelledText:
    rows = [json.loads(line) for line in body.decode("utf-8").split("\n") if line]
    classes = entry["classes"]
    index = {text: number for number, text in enumerate(classes)}
    y = np.array([index[row["class"]] for row in rows], dtype=np.int64)
    pairs = [row["pair"] for row in rows] if rows and "pair" in rows[0] else None
    return LabelledText(name, [row["text"] for row in rows], y, classes, pairs)


def _encode_scenes(scenes: Scenes) -> tuple[str, int, bytes]:
    count = len(scenes.images)
    if len(scenes.points) != count or len(scenes.titles) != count:
        raise ValueError(f"{scenes.name}: images, points and titles differ in number")
    for image, points in zip(scenes.images, scenes.points, strict=True):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"{scenes.name}: expected images as uint8 [h, w, 3]")
        if points.dtype != np.float64 or points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(f"{scenes.name}: expected points as float64 [k, 2]")
        if not np.isfinite(points).all():
            raise ValueError(f"{scenes.name}: a point is not finite")
    found = {f"image.{i:06d}": np.ascontiguousarray(x) for i, x in enumerate(scenes.images)}
    found |= {f"points.{i:06d}": np.ascontiguousarray(p) for i, p in enumerate(scenes.points)}
    titles = json.dumps(scenes.titles, ensure_ascii=False)
    return "scenes", count, tensors.save(found, metadata={"titles": titles})


def _decode_scenes(body: bytes, entry: dict, name: str) -> Scenes:
    found = tensors.load(body)
    length = int.from_bytes(body[:8], "little")
    titles = json.loads(json.loads(body[8 : 8 + length])["__metadata__"]["titles"])
    rows = range(len(titles))
    images = [found[f"image.{i:06d}"] for i in rows]
    return Scenes(name, images, [found[f"points.{i:06d}"] for i in rows], titles)


def _encode_images(images: Images) -> tuple[str, int, bytes]:
    x, y = np.ascontiguousarray(images.x), np.ascontiguousarray(images.y)
    if x.dtype != np.uint8 or x.ndim not in (3, 4) or y.dtype != np.int64 or y.shape != x.shape[:1]:
        raise ValueError(f"{images.name}: expected uint8 [n, h, w(, c)] and int64 [n]")
    _check_classes(images.name, y, images.classes)
    return "images", len(x), tensors.save({"x": x, "y": y})


def _decode_images(body: bytes, entry: dict, name: str) -> Images:
    found = tensors.load(body)
    return Images(name, found["x"], found["y"], entry["classes"])


def _encode_table(table: Table) -> tuple[str, int, bytes]:
    x, y = table.x, table.y
    if x.dtype != np.float64 or x.shape != (len(y), len(table.columns)) or y.dtype != np.int64:
        raise ValueError(f"{table.name}: expected float64 [n, {len(table.columns)}] and int64 [n]")
    if not np.isfinite(x).all():
        raise ValueError(f"{table.name}: a value is missing or not finite")
    _check_classes(table.name, y, table.classes)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*table.columns, OUTCOME])
    for values, label in zip(x.tolist(), y.tolist(), strict=True):
        writer.writerow([*map(_number, values), table.classes[label]])
    return "table", len(x), out.getvalue().encode("utf-8")


def _decode_table(body: bytes, entry: dict, name: str) -> Table:
    header, *rows = csv.reader(io.StringIO(body.decode("utf-8")))
    columns, classes = entry["columns"], entry["classes"]
    if header != [*columns, OUTCOME]:
        raise ValueError(f"{entry['file']} has other columns than {INDEX} says")
    x = np.array([row[:-1] for row in rows], dtype=np.float64).reshape(len(rows), len(columns))
    y = np.array([classes.index(row[-1]) for row in rows], dtype=np.int64)
    return Table(name, x, y, columns, classes)


def _check_classes(name: str, y: np.ndarray, classes: list[str]) -> None:
    if len(y) and (y.min() < 0 or y.max() >= len(classes)):
        raise ValueError(f"{name}: labels {y.min()}..{y.max()} for {len(classes)} classes")


def _number(value: float) -> str:
    """The shortest text that reads back as the same float64; whole numbers without a point."""
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


_ENCODERS = {
    Text: _encode_text,
    LabelledText: _encode_labelled,
    Images: _encode_images,
    Scenes: _encode_scenes,
    Table: _encode_table,
}
_DECODERS = {
    "text": _decode_text,
    "labelled_text": _decode_labelled,
    "images": _decode_images,
    "scenes": _decode_scenes,
    "table": _decode_table,
}
_EXTENSIONS = {
    "text": "jsonl",
    "labelled_text": "jsonl",
    "images": "safetensors",
    "scenes": "safetensors",
    "table": "csv",
}
