"""The main job: select, encode, certify, report."""

from tercile.compression.certificate import NotCertified
from tercile.compression.certify import certify
from tercile.compression.export import (
    export_compressed_tensors,
    export_float,
    export_gguf,
    export_onnx,
)
from tercile.compression.package import load_package, save_package
from tercile.compression.pipeline import Outcome, compress
from tercile.compression.runtime import Runtime, open_runtime
from tercile.compression.scoring import Scorer
from tercile.compression.settings import SCHEMES, Settings
from tercile.compression.source import Source, open_source
from tercile.compression.tasks import LOSSES, TASKS, Task, make_task
from tercile.compression.third_party import ThirdParty, open_third_party
from tercile.compression.verify import Check, Verification, verify

__all__ = [
    "LOSSES",
    "SCHEMES",
    "TASKS",
    "Check",
    "NotCertified",
    "Outcome",
    "Runtime",
    "Scorer",
    "Settings",
    "Source",
    "Task",
    "ThirdParty",
    "Verification",
    "certify",
    "compress",
    "export_compressed_tensors",
    "export_float",
    "export_gguf",
    "export_onnx",
    "load_package",
    "make_task",
    "open_runtime",
    "open_source",
    "open_third_party",
    "save_package",
    "verify",
]
