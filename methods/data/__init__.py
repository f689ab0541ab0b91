"""Data sets: declared in `configs/datasets/`, built to the same bytes everywhere, loaded without torch."""

from methods.data.formats import Images, LabelledText, Scenes, Table, Text
from methods.data.loading import load

__all__ = ["Images", "LabelledText", "Scenes", "Table", "Text", "load"]
