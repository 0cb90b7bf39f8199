"""The model that is to be compressed: a Transformers folder, a hub name, `module:function`, or a torch module.

What every kind comes to is the same: a torch module in evaluation mode, a function that turns examples into its
inputs, and a guess at what the model is for.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from tercile.files import read_json_object
from tercile.filters.data.example import Content
from tercile.named import named

Kind = Literal["folder", "builder", "module"]
Inputs = Mapping[str, torch.Tensor] | torch.Tensor
Prepare = Callable[[Sequence[Content]], Inputs]

#: Files of a Transformers folder that belong to the model beside its weights.
COMPANIONS = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "vocab.txt", "vocab.json", "merges.txt", "modules.json", "sentence_bert_config.json", "preprocessor_config.json",
    "config_sentence_transformers.json", "1_Pooling/config.json",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """A loaded model.

    Attributes
    ----------
    spec
        What names it: a path, a hub name, `module:function`, or the class of a module that was handed over.
    kind
        How it is built again: from a folder's config, by a function, or not at all.
    module
        In evaluation mode.
    prepare
        Contents of examples to inputs of the module: keyword arguments, or one tensor.
    folder
        Of the config and tokenizer, if it came from one.
    max_tokens
        Longest text, in tokens, that is read; longer ones are cut. None where there are no tokens.
    dtypes
        Type that each parameter and buffer is stored in; the module itself runs in float32.
    """

    spec: str
    kind: Kind
    module: torch.nn.Module
    prepare: Prepare
    folder: Path | None = None
    max_tokens: int | None = None
    dtypes: Mapping[str, torch.dtype] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of everything the model has learnt, in the types it is stored in; shared tensors count once."""
        return sum(
            tensor.numel() * self.dtypes.get(name, tensor.dtype).itemsize
            for name, tensor in learnt(self.module).items()
        )


def open_source(model: str | os.PathLike[str] | torch.nn.Module, prepare: Prepare | None = None) -> Source:
    """Loads a model.

    Parameters
    ----------
    model
        A torch module; a local Transformers folder; `module:function` (the function returns a torch module, or a pair
        of one and a `prepare` function; the current folder is on the path); or a name on the hub.
    prepare
        Turns a list of contents (texts or arrays) into the module's inputs; the default stacks arrays into one tensor.

    Raises
    ------
    ValueError
        If there is no such model, it can't be loaded, or its weights hold NaN; the message says what to mend.
    """
    if isinstance(model, torch.nn.Module):
        source = Source(type(model).__qualname__, "module", model.eval(), prepare or stack_arrays)
    else:
        spec = os.fspath(model)
        looks_like_path = Path(spec).exists() or spec.startswith((".", "/", "~"))
        if not looks_like_path and ":" in spec:
            source = _from_builder(spec, prepare)
        else:
            source = _from_folder(spec, prepare)
    for name, parameter in source.module.named_parameters():
        if not parameter.dtype.is_floating_point:
            raise ValueError(
                f"{name} of {source.spec!r} is {parameter.dtype}: it is quantized already; give the original"
            )
        if not bool(torch.isfinite(parameter).all()):
            raise ValueError(f"weights of {source.spec!r} hold NaN or infinity in {name}; train or save it again")
    if not any(True for _ in source.module.parameters()):
        raise ValueError(f"{source.spec!r} has no parameters; there is nothing to compress")
    dtypes = {name: tensor.dtype for name, tensor in source.module.state_dict().items()}
    source.module.requires_grad_(False).float()
    return replace(source, dtypes=dtypes)


def learnt(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and persistent buffers by name; of tensors that share memory only the first name."""
    seen: set[tuple[int, tuple[int, ...]]] = set()
    found = {}
    for name, tensor in module.state_dict().items():
        key = (tensor.data_ptr(), tuple(tensor.shape))
        if tensor.numel() == 0 or key not in seen:
            seen.add(key)
            found[name] = tensor
    return found


def stack_arrays(contents: Sequence[Content]) -> torch.Tensor:
    """Stacks arrays of one shape into a float32 (or integer) tensor; uint8 pictures are scaled to [0, 1]."""
    if any(isinstance(content, str) for content in contents):
        raise ValueError(
            "the model was given no way to read text; let module:function return (module, prepare), where "
            "prepare(list of texts) makes the module's inputs"
        )
    shapes = {np.shape(content) for content in contents}
    if len(shapes) > 1:
        raise ValueError(
            f"arrays of one batch have different shapes, {sorted(shapes)[:3]}; make them alike or give prepare"
        )
    array = np.stack([np.asarray(content) for content in contents])
    if array.dtype == np.uint8:
        array = array.astype(np.float32) / 255
    elif np.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float32)
    return torch.from_numpy(array)


def weights_digest(source: Source) -> str:
    """SHA-256, in hexadecimal, over the names, shapes, types and bytes of everything a model has learnt."""
    digest = hashlib.sha256()
    for name, tensor in sorted(source.module.state_dict().items()):
        stored = tensor.detach().cpu().to(source.dtypes.get(name, tensor.dtype)).contiguous()
        digest.update(f"{name} {stored.dtype} {tuple(stored.shape)}\n".encode())
        digest.update(stored.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def build(spec: str) -> tuple[torch.nn.Module, Prepare | None]:
    """Calls `module:function` and checks what comes back."""
    try:
        function = named(spec)
    except ModuleNotFoundError as error:
        mend = "run from the folder where it is, or install it"
        raise ValueError(f"{spec!r}: no module {error.name!r}; {mend}") from None
    except AttributeError:
        module_name, _, function_name = spec.partition(":")
        raise ValueError(f"{spec!r}: module {module_name!r} has no {function_name!r}") from None
    built = function()
    module, prepare = built if isinstance(built, tuple) and len(built) == 2 else (built, None)
    if not isinstance(module, torch.nn.Module):
        raise ValueError(f"{spec!r} returned {type(module).__name__}; it must return a torch.nn.Module")
    return module.eval(), prepare


def _from_builder(spec: str, prepare: Prepare | None) -> Source:
    module, own = build(spec)
    return Source(spec, "builder", module, prepare or own or stack_arrays)


def _from_folder(spec: str, prepare: Prepare | None) -> Source:
    path = Path(spec).expanduser()
    offline = path.exists() or spec.startswith((".", "/", "~"))
    if offline and not path.is_dir():
        what = "is a file, not a folder" if path.exists() else "does not exist"
        raise ValueError(f"model folder {spec!r} {what}")
    if offline and not (path / "config.json").is_file():
        raise ValueError(f"{spec!r} is no model: it has no config.json (a Transformers folder has)")
    if not offline:
        path = _from_hub(spec)
    module = _load_pretrained(path, spec)
    if prepare is None:
        prepare, limit = preparer(path, module)
    else:
        limit = None
    return Source(spec if not offline else str(path.resolve()), "folder", module, prepare, path, limit)


def _from_hub(spec: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(spec, allow_patterns=["*.json", "*.safetensors", "*.txt", "1_Pooling/*"]))
    except Exception as error:
        raise ValueError(
            f"no model {spec!r}: it is no folder here, no name of the zoo (see `tercile zoo list`), and the hub "
            f"did not give it ({type(error).__name__})"
        ) from None


def architecture(folder: Path, module_class: str | None = None) -> type[Any]:
    """The Transformers class that a folder's config asks for."""
    import transformers

    config = _config(folder)
    named = [module_class] if module_class else config.get("architectures") or []
    for name in named if isinstance(named, list) else []:
        found = getattr(transformers, name, None) if isinstance(name, str) else None
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return found
    return transformers.AutoModel


def _config(folder: Path) -> dict[str, Any]:
    config = read_json_object(folder / "config.json")
    if not isinstance(config.get("model_type"), str):
        raise ValueError(f"{folder} is no model: its config.json names no model_type")
    return config


def _load_pretrained(folder: Path, spec: str) -> torch.nn.Module:
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    cls = architecture(folder)
    if not any(folder.glob("*.safetensors")):
        raise ValueError(f"{spec!r} has no .safetensors weights; save it again with safe_serialization=True")
    try:
        # What a folder lacks (often a pooler that nobody reads) Transformers draws: always the same, for a certificate
        # names the original by its weights.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = cls.from_pretrained(str(folder), local_files_only=True, use_safetensors=True, dtype="auto")
    except Exception as error:
        first = str(error).strip().split("\n", maxsplit=1)[0]
        raise ValueError(
            f"{spec!r} can't be loaded ({first}); its weights are truncated, damaged or of another model"
        ) from None
    return module.eval()


def preparer(folder: Path, module: torch.nn.Module) -> tuple[Prepare, int | None]:
    """How to turn contents into inputs, from a folder's tokenizer if it has one; and the longest text in tokens."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json")):
        return _pixels, None
    settings = folder / "sentence_bert_config.json"
    limits = [getattr(module.config, "max_position_embeddings", None)]
    if settings.is_file():
        limits.append(read_json_object(settings).get("max_seq_length"))
    limit = min([int(n) for n in limits if n] or [512])
    kept: list[Any] = []

    def prepare(contents: Sequence[Content]) -> Inputs:
        if any(not isinstance(content, str) for content in contents):
            raise ValueError("this model reads text, but an example is an array; give text data")
        if not kept:  # reading it takes longer than opening a packed model
            kept.append(read_tokenizer(folder))
        batch = kept[0](list(contents), padding=True, truncation=True, max_length=limit, return_tensors="pt")
        return dict(batch)

    return prepare, limit


def read_tokenizer(folder: Path) -> Any:
    """A folder's tokenizer; it pads on the right, with some token that the mask leaves out."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:
        first = str(error).strip().split("\n", maxsplit=1)[0]
        raise ValueError(f"the tokenizer in {folder} can't be read ({first}); it is damaged") from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    tokenizer.padding_side = "right"
    return tokenizer


def _pixels(contents: Sequence[Content]) -> Inputs:
    pictures = stack_arrays(contents)
    return {"pixel_values": pictures if pictures.ndim == 4 else pictures[:, None]}
