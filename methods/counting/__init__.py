"""Counting objects in images by density maps."""
