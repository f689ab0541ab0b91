"""Reading images with marked points: one way to decode, to pair files, and to take points out of MATLAB files.

Wrong input gets one ValueError that names the file.
"""

from __future__ import annotations

import csv
import io
import os
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from methods.data.kinds import Scenes
from methods.run.progress import track
from methods.study.errors import choices

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})
LARGEST_MAT = 64_000_000
"""Bytes that a MATLAB file may have, as it lies and unpacked."""
LARGEST_TEXT = 64_000_000
SHOWN = 3
"""So many files an error names."""
Read = tuple[np.ndarray, np.ndarray]
"""An image uint8 [h, w, 3] and its points float64 [k, 2]."""


def gathered(
    name: str, items: Iterable[tuple[str, Path, Callable[[], np.ndarray]]], longest: int | None
) -> Scenes:
    """Scenes of (title, image file, its points), in that order; see :func:`scene`.

    Raises ValueError where there is nothing, or more than half of this machine's memory would be filled.
    """
    items = list(items)
    if not items:
        raise ValueError(f"{name}: there are no images")
    fits((file for _, file, _ in items), longest)
    read = [scene(file, points(), longest) for _, file, points in track(items, label=name)]
    return Scenes(
        name, [x for x, _ in read], [p for _, p in read], [title for title, _, _ in items]
    )


def scene(file: Path | bytes, points: np.ndarray, longest: int | None, label: str = "") -> Read:
    """The decoded image, scaled down so that no side is longer than `longest`, and its points with it."""
    image = decoded(file, label or str(file))
    points = np.asarray(points, np.float64).reshape(-1, 2)
    if not np.isfinite(points).all():
        raise ValueError(f"{label or file}: a point is not finite")
    if longest is None or max(image.size) <= longest:
        return np.asarray(image), points
    from PIL.Image import Resampling

    factor = longest / max(image.size)
    size = tuple(max(1, round(side * factor)) for side in image.size)
    scale = np.array(size) / np.array(image.size)
    return np.asarray(image.resize(size, Resampling.BOX)), points * scale


def decoded(file: Path | bytes, label: str) -> Any:
    """A Pillow image in RGB; ValueError for what is none, is broken, or would fill the memory."""
    from PIL import Image, UnidentifiedImageError

    with warnings.catch_warnings():
        # What Pillow warns of is an image that would fill the memory.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            source = io.BytesIO(file) if isinstance(file, bytes) else file
            with Image.open(source) as opened:
                return opened.convert("RGB")
        except (
            UnidentifiedImageError,
            OSError,
            SyntaxError,
            ValueError,
            Image.DecompressionBombError,
            Warning,
        ) as error:
            raise ValueError(f"{label} is no image that can be read: {error}") from None


def fits(files: Iterable[Path], longest: int | None) -> None:
    """Refuse images that together, decoded, need more than half of this machine's memory."""
    from PIL import Image

    needed = 0
    for file in files:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(file) as opened:
                    width, height = opened.size
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            continue  # decoding names it
        factor = 1.0 if longest is None else min(1.0, longest / max(width, height))
        needed += round(width * height * 3 * factor**2)
    half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    if needed > half:
        raise ValueError(
            f"the images need {needed / 1e9:.0f} GB and half of this machine's memory is {half / 1e9:.0f} GB; "
            f"a smaller `longest` side than {longest or 'the images have'} would fit"
        )


def images_in(folder: Path) -> dict[str, Path]:
    """{stem: file} of the images of a folder, numbers in their order; ValueError where there is no such folder."""
    if not folder.is_dir():
        beside = sorted(path.name for path in folder.parent.glob("*/"))
        raise ValueError(f"there is no folder {folder}; {choices(folder.name, beside)}")
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir(), key=lambda path: by_number(path.name)):
        if file.suffix.lower() in SUFFIXES and not file.name.startswith("."):
            if file.stem in found:
                raise ValueError(f"{file} and {found[file.stem].name} differ in their suffix only")
            found[file.stem] = file
    return found


def by_number(name: str) -> list[tuple[int, str]]:
    """A key that puts IMG_2 before IMG_10."""
    import re

    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def paired(images: Mapping[str, Path], annotations: Mapping[str, Any], where: object) -> None:
    """Every image has its annotation and the other way round; ValueError names those that do not."""
    for what, has, lacks in (
        ("images without an annotation", images, annotations),
        ("annotations without an image", annotations, images),
    ):
        alone = [name for name in has if name not in lacks]
        if alone:
            more = f" and {len(alone) - SHOWN} more" if len(alone) > SHOWN else ""
            raise ValueError(f"{where}: {what}: {', '.join(alone[:SHOWN])}{more}")


def read_mat(file: Path, variable: str) -> Any:
    """A variable of a MATLAB file (before version 7.3), its size bounded before it is unpacked."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    if not file.is_file():
        raise ValueError(f"there is no annotation {file}")
    if file.stat().st_size > LARGEST_MAT:
        raise ValueError(f"{file} is larger than {LARGEST_MAT} bytes")
    body = file.read_bytes()
    if body[:19].startswith(b"MATLAB 7.3"):
        raise ValueError(f"{file} is of MATLAB 7.3 (HDF5); save it with the option -v7")
    _bounded(body, file)
    try:
        found = loadmat(io.BytesIO(body), variable_names=[variable])
    except (MatReadError, ValueError, TypeError, OSError, NotImplementedError, zlib.error) as error:
        raise ValueError(f"{file} is no MATLAB file that can be read: {error}") from None
    if variable not in found:
        raise ValueError(f"{file} has no variable '{variable}'")
    return found[variable]


def _bounded(body: bytes, file: Path) -> None:
    """Refuse a file whose compressed parts unpack to more than `LARGEST_MAT`."""
    little = body[126:128] == b"IM"
    position, total = 128, 0
    while position + 8 <= len(body):
        kind, length = (
            int.from_bytes(body[position + at : position + at + 4], "little" if little else "big")
            for at in (0, 4)
        )
        part = body[position + 8 : position + 8 + length]
        if kind == 15:  # a compressed element
            try:
                total += len(zlib.decompressobj().decompress(part, LARGEST_MAT + 1))
            except zlib.error as error:
                raise ValueError(f"{file} is no MATLAB file that can be read: {error}") from None
        if total > LARGEST_MAT:
            raise ValueError(f"{file} unpacks to more than {LARGEST_MAT} bytes")
        position += 8 + length


def as_points(found: Any, file: Path) -> np.ndarray:
    """float64 [k, 2] of a MATLAB array of at least two columns; an empty one has no points."""
    array = np.asarray(found)
    if array.size == 0:
        return np.empty((0, 2))
    if array.ndim != 2 or array.shape[1] < 2 or array.dtype.kind not in "iuf":
        raise ValueError(f"{file}: expected points as rows of two numbers, found {array.shape}")
    return array[:, :2].astype(np.float64)


def matlab(points: np.ndarray) -> np.ndarray:
    """From MATLAB's coordinates, where the first pixel's middle is 1, to pixels from the corner."""
    return points - 0.5


def read_text(file: Path) -> str:
    """The text of a small file; ValueError where there is none or it is no text."""
    try:
        if file.stat().st_size > LARGEST_TEXT:
            raise ValueError(f"{file} is larger than {LARGEST_TEXT} bytes")
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"there is no file {file}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{file} is no text") from None


def read_points(file: Path) -> dict[str, np.ndarray]:
    """{image: points [k, 2]} of a CSV file under the heading `image,x,y`.

    A row is one point, in pixels from the upper left corner. A row with an image and nothing else says that there is
    nothing in it. ValueError names the line of what is neither.
    """
    rows = list(csv.reader(io.StringIO(read_text(file))))
    heading = [word.strip().lower() for word in rows[0]] if rows else []
    if heading[:3] != ["image", "x", "y"]:
        raise ValueError(f"{file}: the first line must be image,x,y, not {','.join(heading)}")
    found: dict[str, list[tuple[float, float]]] = {}
    for line, row in enumerate(rows[1:], start=2):
        if not any(word.strip() for word in row):
            continue
        image, x, y = (word.strip() for word in (*row, "", "")[:3])
        points = found.setdefault(image, [])
        if x or y:
            try:
                points.append((float(x), float(y)))
            except ValueError:
                raise ValueError(f"{file}, line {line}: '{x},{y}' is no point") from None
    return {image: np.array(points, np.float64).reshape(-1, 2) for image, points in found.items()}


def read_folder(
    folder: Path | str, points: str = "points.csv", name: str = "", longest: int | None = None
) -> Scenes:
    """A folder of images with a file of points in it (see :func:`read_points`), by name.

    Raises ValueError for an image without a row, a row without an image, and an image that is broken.
    """
    folder = Path(folder)
    images = {file.name: file for file in images_in(folder).values()}
    marked = read_points(folder / points)
    paired(images, marked, folder)
    items = [(image, file, lambda image=image: marked[image]) for image, file in images.items()]
    return gathered(name or folder.name, items, longest)
