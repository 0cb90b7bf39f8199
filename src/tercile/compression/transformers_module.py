"""A module of Transformers by its folder's config, before weights are put there: in milliseconds, no memory touched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tercile.compression.source import architecture


def empty_transformers_module(
    folder: Path, class_name: Any, tensors: int, check: Callable[[torch.nn.Module], None]
) -> torch.nn.Module:
    """The float32 module that a config describes; its parameters hold whatever was in memory.

    Parameters
    ----------
    folder
        With config.json.
    class_name
        Of the class, or None for the first of the config's architectures.
    tensors
        How many tensors there are to fill it: a config that asks for more layers is damaged.
    check
        Called with the module while it has shapes and no memory; raises ValueError if they are not what it expects.

    Raises
    ------
    ValueError
        If the config is damaged or describes no model of this version of Transformers.
    """
    import transformers
    from transformers.initialization import no_init_weights

    transformers.utils.logging.set_verbosity_error()
    cls = architecture(folder, class_name)
    try:
        config = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        config.dtype = torch.float32
        for name, count in _counts(config.to_dict()):
            if not 0 <= count <= tensors:
                raise ValueError(f"{name} is {count}, and there are {tensors} tensors")
        make = cls._from_config if issubclass(cls, transformers.PreTrainedModel) else cls.from_config
        with torch.device("meta"):
            shapes = make(config)
    except Exception as error:
        raise _damaged(folder, error) from None
    check(shapes)
    try:
        with no_init_weights():
            made: Any = make(config)
        made.tie_weights()
        module: torch.nn.Module = made
    except Exception as error:
        raise _damaged(folder, error) from None
    return module


def _counts(config: dict[Any, Any]) -> list[tuple[str, int]]:
    """Every number of layers that a config names, in its parts too."""
    found = []
    for name, value in config.items():
        if isinstance(value, dict):
            found += _counts(value)
        elif "layers" in str(name) and isinstance(value, int):
            found.append((str(name), value))
    return found


def _damaged(folder: Path, error: Exception) -> ValueError:
    said = str(error).strip().split("\n", maxsplit=1)[0] or type(error).__name__
    return ValueError(
        f"{folder / 'config.json'} describes no model that can be built ({said[:500]}); it is damaged, or of another "
        "version of Transformers"
    )
