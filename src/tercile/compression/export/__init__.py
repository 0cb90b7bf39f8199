"""The small model in the formats of other programs."""

from tercile.compression.export.compressed_tensors import export_compressed_tensors
from tercile.compression.export.gguf import export_gguf
from tercile.compression.export.onnx import export_onnx
from tercile.compression.export.plain import export_float

__all__ = ["export_compressed_tensors", "export_float", "export_gguf", "export_onnx"]
