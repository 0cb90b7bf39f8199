"""What the commands print: tables and sentences for people, JSON for programs, progress on the side."""

from tercile.terminal.diagnosis import print_diagnosis
from tercile.terminal.json_lines import print_json
from tercile.terminal.outcome import error_line, stop, stopping
from tercile.terminal.progress import stages
from tercile.terminal.results import print_compressed, print_export, print_verification
from tercile.terminal.search import print_search
from tercile.terminal.zoo import print_entry, print_zoo

__all__ = [
    "error_line",
    "print_compressed",
    "print_diagnosis",
    "print_entry",
    "print_export",
    "print_json",
    "print_search",
    "print_verification",
    "print_zoo",
    "stages",
    "stop",
    "stopping",
]
