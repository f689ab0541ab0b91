"""Data sets: declared in `configs/datasets/`, built to the same bytes everywhere, loaded without torch."""
