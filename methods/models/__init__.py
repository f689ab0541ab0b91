"""Pretrained and own networks: import, storage, access to their blocks."""
