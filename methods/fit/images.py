"""Labelled images as a training gets them from a study: checked, limited, some held out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from methods.data.kinds import Images
from methods.fit.batches import held_out, subset
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.run.context import Context


def labelled(content: Any, who: str) -> Images:
    """The images of a set, as many as its `limit` says, the same ones for every seed.

    Raises RetrofitError, in the name of ``who``, for a set without images.
    """
    if not hasattr(content, "x") or content.x.ndim not in (3, 4):
        name = getattr(content, "name", content)
        raise RetrofitError(f"{who} needs images, and {name} has none")
    limit = (getattr(content, "options", None) or {}).get("limit")
    return rows_of(content, subset(len(content.y), limit))


def rows_of(images: Any, rows: Tensor) -> Images:
    """Those images of a set that the int64 indices name, in their order."""
    chosen = rows.numpy()
    return Images(images.name, images.x[chosen], images.y[chosen], images.classes)


def training_and_validation(
    data: dict[str, list[Any]], share: float, who: str, context: Context
) -> tuple[Images, Images]:
    """(training, validation): the first sets of these roles, or a share of the training images.

    Without validation images the second is empty. Raises RetrofitError: a set without images,
    validation images of other sizes or classes.
    """
    training = labelled(data["train"][0], f"{who}: train")
    if data.get("validation"):
        validation = labelled(data["validation"][0], f"{who}: validation")
        if (validation.x.shape[1:], validation.classes) != (training.x.shape[1:], training.classes):
            raise RetrofitError(
                f"{validation.name} has other sizes or classes of images than {training.name}"
            )
        return training, validation
    count = round(share * len(training.y))
    kept, out = held_out(len(training.y), count, context.seed_for("validation split"))
    return rows_of(training, kept), rows_of(training, out)
