"""Retrofit: change trained networks, and prove what the change cost."""

__version__ = "0.1.0"
