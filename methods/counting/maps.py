"""The step that turns points into density maps, kept as an artifact: made once, keyed by points and kernel."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as tensors

from methods.counting.density import adaptive_sigmas, density_map, kept, outside, radii
from methods.data.kinds import Scenes
from methods.fit.batches import subset
from methods.run.metrics import Metric
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.counting.params import DensityMaps
    from methods.models.networks.network import Network
    from methods.run.context import Context

FILE, NETWORK, CONFIG = "maps.safetensors", "network", "config.json"


@dataclass
class Maps:
    """float32 maps [h, w] by role and image, what they were made with, and perhaps a network carried along."""

    loader: ClassVar[str] = "methods.counting.maps:load"

    maps: dict[str, list[np.ndarray]]
    kernel: dict[str, Any]
    network: Network | None = None
    metrics: dict[str, Metric] | None = None

    def save(self, directory: Path) -> None:
        """Write maps, kernel and network into the directory."""
        directory.mkdir(parents=True, exist_ok=True)
        found = {
            f"{role}.{i:06d}": m for role, maps in self.maps.items() for i, m in enumerate(maps)
        }
        counts = {role: len(maps) for role, maps in self.maps.items()}
        (directory / FILE).write_bytes(tensors.save(found))
        text = json.dumps({"kernel": self.kernel, "counts": counts}, indent=1)
        (directory / CONFIG).write_text(text + "\n", encoding="utf-8")
        if self.network is not None:
            self.network.save(directory / NETWORK)

    def of(self, role: str, scenes: Scenes) -> list[np.ndarray]:
        """The role's maps; RetrofitError where they are not those of the scenes' sizes."""
        found = self.maps.get(role, [])
        shapes = [image.shape[:2] for image in scenes.images]
        if [m.shape for m in found] != shapes:
            raise RetrofitError(
                f"the density maps of '{role}' are not those of {scenes.name}: other images or sizes"
            )
        return found


def load(directory: Path) -> Maps:
    """What :meth:`Maps.save` wrote. Raises RetrofitError on a bad directory."""
    directory = Path(directory)
    try:
        config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
        found = tensors.load((directory / FILE).read_bytes())
        maps = {
            role: [found[f"{role}.{i:06d}"] for i in range(count)]
            for role, count in config["counts"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise RetrofitError(f"{directory} holds no usable density maps ({error})") from None
    network = None
    if (directory / NETWORK).is_dir():
        from methods.models.networks.network import load as load_network

        network = load_network(directory / NETWORK)
    return Maps(maps, config["kernel"], network)


def apply(base: None, data: dict[str, list[Any]], params: DensityMaps, context: Context) -> Maps:
    """Maps of the first set of each role; metrics: points, and how many lay outside their images."""
    return beside(None, data, params, context)


def beside(
    base: Network | None, data: dict[str, list[Any]], params: DensityMaps, context: Context
) -> Maps:
    """The same with a network carried along."""
    maps, points, strayed = {}, 0, 0
    for role in ("train", "validation"):
        if data.get(role):
            scenes = as_scenes(data[role][0], f"{params.method}: {role}")
            maps[role] = maps_of(scenes, params, context)
            points += sum(map(len, scenes.points))
            strayed += count_outside(scenes, context, params.outside)
    metrics = {"points": Metric(points), "points_outside": Metric(strayed)}
    kernel = params.model_dump(include={"kernel", "sigma", "size", "beta", "neighbours", "border"})
    return Maps(maps, kernel, base, metrics)


def as_scenes(content: Any, who: str) -> Scenes:
    """The scenes of a set, as many as its `limit` says, the same ones for every seed.

    Raises RetrofitError, in the name of ``who``, for a set without marked points.
    """
    if not hasattr(content, "points"):
        name = getattr(content, "name", content)
        raise RetrofitError(f"{who} needs images with points, and {name} has none")
    limit = (getattr(content, "options", None) or {}).get("limit")
    return chosen(content, subset(len(content.images), limit).tolist())


def chosen(scenes: Scenes, rows: list[int]) -> Scenes:
    """Those scenes, in that order."""
    parts = ([p[i] for i in rows] for p in (scenes.images, scenes.points, scenes.titles))
    return Scenes(scenes.name, *parts)


def count_outside(scenes: Scenes, context: Context, policy: str) -> int:
    """How many points lie outside their images; a warning where there are any."""
    strayed = sum(
        int(outside(p, x.shape[:2]).sum())
        for x, p in zip(scenes.images, scenes.points, strict=True)
    )
    if strayed:
        done = {"clamp": "counted at its edge", "drop": "left out", "refuse": "refused"}[policy]
        context.log.warning(
            "%s: %s: %d points lie outside their image and are %s",
            context.label,
            scenes.name,
            strayed,
            done,
        )
    return strayed


def maps_of(scenes: Scenes, params: DensityMaps, context: Context) -> list[np.ndarray]:
    """float32 [h, w] for each scene; RetrofitError names the image whose points or size cannot be used."""
    found = []
    for image, points, title in context.progress(
        zip(scenes.images, scenes.points, scenes.titles, strict=True),
        total=len(scenes.images),
        label="density maps",
    ):
        try:
            found.append(one(points, image.shape[:2], params).astype(np.float32))
        except ValueError as error:
            raise RetrofitError(f"{scenes.name}, {title}: {error}") from None
    return found


def one(points: np.ndarray, shape: tuple[int, int], params: DensityMaps) -> np.ndarray:
    """The map of one image, float64; ValueError for a fixed kernel wider than the image.

    An adaptive kernel is made as narrow as the image, since a lone point has no neighbours to say its width.
    """
    points = kept(points, shape, params.outside)
    if params.kernel == "fixed":
        side = params.size or 2 * int(radii(np.array([params.sigma]), None)[0]) + 1
        if side > min(shape):
            raise ValueError(
                f"a kernel of {side} pixels is wider than the image of {shape[1]} x {shape[0]}; "
                "a smaller size or sigma would fit"
            )
        return density_map(points, shape, params.sigma, params.size, params.border)
    sigmas = adaptive_sigmas(points, shape, params.beta, params.neighbours)
    widest = max(0.5, (min(shape) - 1) / 8)
    return density_map(points, shape, sigmas.clip(0.5, widest), None, params.border)
