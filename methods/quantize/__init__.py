"""Fewer bits for the weights of a trained language model: round-to-nearest, AWQ, GPTQ and the
salient-channel experiments, all on one integer grid (`grid.py`)."""
