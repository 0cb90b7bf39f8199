"""QTensors in the layouts of other programs, bit for bit."""

from tercile.quantization.export.formats import FORMATS, Format, find_format
from tercile.quantization.export.gguf_blocks import block_type, to_blocks
from tercile.quantization.export.pack_quantized import pack_quantized, quantization_args

__all__ = ["FORMATS", "Format", "block_type", "find_format", "pack_quantized", "quantization_args", "to_blocks"]
