"""Puts the module named by TERCILE_NATIVE in the place of the installed one: how `make sanitize` tests its own."""

import importlib.util
import os
import sys

if os.environ.get("TERCILE_NATIVE"):
    spec = importlib.util.spec_from_file_location("tercile._native", os.environ["TERCILE_NATIVE"])
    module = importlib.util.module_from_spec(spec)
    sys.modules["tercile._native"] = module
    spec.loader.exec_module(module)
