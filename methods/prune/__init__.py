"""Sparse training: layers made larger by what a sparsity saves, and masks that hold its count exactly."""
