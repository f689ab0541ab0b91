"""Base networks that the pipeline trains itself."""
