"""Checkpoint formats: how a quantised or dense language model is written for other tools."""
