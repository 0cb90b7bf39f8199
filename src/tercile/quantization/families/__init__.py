"""Families: what a model looks like to the engine. One file a family; `describe` picks it."""

from tercile.quantization.families.describe import describe
from tercile.quantization.families.family import Block, Family, Layer, Scaling, Stream
from tercile.quantization.families.segments import Segments, find_segments

__all__ = ["Block", "Family", "Layer", "Scaling", "Segments", "Stream", "describe", "find_segments"]
