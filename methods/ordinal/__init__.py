"""Ordinal regression for rare classes: PRESTO (2305.18700), its baselines and its experiments."""
