"""Models and data that are always there, each with the script that made it and a card of its scores."""

from .entries import ZooEntry, find, list_models

__all__ = ["ZooEntry", "find", "list_models"]
