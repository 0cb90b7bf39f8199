"""A small model that somebody else made, opened so that it can be compared with its original.

It is never changed and never converted: what is certified is what its user runs. Opening a file runs none of it; a
model that only code can build is named by its user as `module:function`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from tercile.compression.llama_cpp_module import PREFIX, LlamaCppModule
from tercile.compression.package import DESCRIPTION, load_package
from tercile.compression.runtime import open_runtime
from tercile.compression.source import architecture, build, learnt
from tercile.files import read_json_object

#: Before a folder of tercile's: run it on its packed weights with activations rounded to eight bits.
ROUNDED = "int8:"

#: What a small model can be, in words that an error can list.
KINDS = (
    "a folder that `tercile compress` wrote (int8:FOLDER rounds its activations too), a Transformers folder (also one "
    "quantized with compressed-tensors or another tool that Transformers loads), a .gguf file (llama.cpp:FILE.gguf to "
    "run it with that), an .onnx file, or module:function"
)


@dataclass(frozen=True)
class ThirdParty:
    """A small model, as it is.

    Attributes
    ----------
    spec, kind
        What names it, and which sort it is: tercile, with int8 activations or without, transformers, gguf, llama.cpp,
        onnx, builder or module.
    module
        What is called with the original's inputs.
    nbytes
        Of its weights as they are stored.
    files
        By name, those that hold it; empty for a model that code builds.
    """

    spec: str
    kind: str
    module: torch.nn.Module
    nbytes: int
    files: Mapping[str, Path] = field(default_factory=dict)


def open_third_party(small: str | os.PathLike[str] | torch.nn.Module, builder: Any = None) -> ThirdParty:
    """Opens a small model of any make.

    Parameters
    ----------
    small
        A torch module, or a path or name of one of `KINDS`.
    builder
        For a folder of tercile's whose module only code can build: as in `load_package`.

    Raises
    ------
    ValueError
        If it is none of these, or it can't be loaded; the message names the file and what to do.
    """
    if isinstance(small, torch.nn.Module):
        return ThirdParty(type(small).__qualname__, "module", small.eval(), _stored_bytes(small))
    spec = os.fspath(small)
    path = place_of(spec)
    if spec.startswith(PREFIX):
        if not path.is_file():
            raise ValueError(f"there is no file {str(path)!r} to run with llama.cpp")
        return ThirdParty(spec, "llama.cpp", LlamaCppModule(path), path.stat().st_size, {path.name: path})
    if spec.startswith(ROUNDED):
        if not (path / DESCRIPTION).is_file():
            raise ValueError(f"{str(path)!r} is no folder that `tercile compress` wrote, which {ROUNDED} runs")
        module = open_runtime(path, builder, activations="int8").module
        return ThirdParty(spec, "tercile, int8 activations", module, *_weights(path, "*.safetensors", DESCRIPTION))
    if not path.exists():
        if ":" in spec and not spec.startswith((".", "/", "~")):
            module, _ = build(spec)
            return ThirdParty(spec, "builder", module, _stored_bytes(module))
        raise ValueError(f"there is no small model {spec!r}; give {KINDS}")
    if path.is_dir():
        return _from_folder(spec, path, builder)
    opened = {".gguf": _gguf, ".onnx": _onnx}.get(path.suffix.lower())
    if opened is None:
        raise ValueError(f"{spec!r} is no model that can be opened; give {KINDS}")
    return opened(spec, path)


def place_of(spec: str | os.PathLike[str]) -> Path:
    """Where a small model is that is not code: its name without what is said of how to run it.

    Examples
    --------
    >>> place_of("llama.cpp:models/a.gguf"), place_of("int8:small")
    (PosixPath('models/a.gguf'), PosixPath('small'))
    """
    return Path(os.fspath(spec).removeprefix(PREFIX).removeprefix(ROUNDED)).expanduser()


def _from_folder(spec: str, path: Path, builder: Any) -> ThirdParty:
    if (path / DESCRIPTION).is_file():
        module = load_package(path, builder).module
        return ThirdParty(spec, "tercile", module, *_weights(path, "*.safetensors", DESCRIPTION))
    if any(path.glob("*.safetensors")) and (path / "config.json").is_file():
        return _transformers(spec, path)
    for pattern, opened in (("*.gguf", _gguf), ("*.onnx", _onnx)):
        found = sorted(path.glob(pattern))
        if len(found) == 1:
            return opened(spec, found[0])
        if found:
            raise ValueError(f"{spec!r} holds {len(found)} {pattern[1:]} files; name the one that you mean")
    raise ValueError(f"{spec!r} holds no model; give {KINDS}")


def _weights(folder: Path, *patterns: str) -> tuple[int, dict[str, Path]]:
    """Size of the files of the first pattern, and all files by name."""
    files = {path.name: path for pattern in patterns for path in sorted(folder.glob(pattern))}
    return sum(path.stat().st_size for path in folder.glob(patterns[0])), files


def _transformers(spec: str, path: Path) -> ThirdParty:
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    quantized = read_json_object(path / "config.json").get("quantization_config")
    method = quantized.get("quant_method", "none") if isinstance(quantized, dict) else "none"
    try:
        module = architecture(path).from_pretrained(str(path), local_files_only=True, use_safetensors=True)
    except ImportError as error:
        raise ValueError(
            f"{spec!r} is quantized with {method}, which Transformers can't load here ({_first_line(error)})"
        ) from None
    except Exception as error:
        raise ValueError(
            f"{spec!r} can't be loaded ({_first_line(error)}); it is truncated, damaged or of another model"
        ) from None
    return ThirdParty(spec, "transformers", module.eval(), *_weights(path, "*.safetensors", "config.json"))


def _gguf(spec: str, path: Path) -> ThirdParty:
    """Through Transformers, which decodes every block format of the `gguf` package to float32."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError(f"{spec!r} is no GGUF file: it does not start with GGUF")
    try:
        import gguf  # noqa: F401  Transformers' own message about this names no command

        module = transformers.AutoModelForCausalLM.from_pretrained(
            str(path.parent), gguf_file=path.name, local_files_only=True, dtype=torch.float32
        )
    except ImportError as error:
        raise ValueError(
            f'reading {spec!r} takes {error.name or "gguf"}; run: pip install "tercile[formats]"'
        ) from None
    except Exception as error:
        raise ValueError(
            f"{spec!r} can't be loaded ({_first_line(error)}); it is truncated, damaged, or of an architecture that "
            "Transformers does not read from GGUF"
        ) from None
    return ThirdParty(spec, "gguf", module.eval(), path.stat().st_size, {path.name: path})


def _onnx(spec: str, path: Path) -> ThirdParty:
    module = OnnxModule(path)
    beside = {p.name: p for p in path.parent.glob(f"{path.name}*data")}
    files = {path.name: path} | beside
    return ThirdParty(spec, "onnx", module, sum(p.stat().st_size for p in files.values()), files)


class OnnxModule(torch.nn.Module):
    """An ONNX file run by ONNX Runtime on the CPU, called like the torch module that it was made from.

    Parameters
    ----------
    path
        Of the .onnx file; weights beside it are found by ONNX Runtime.

    Raises
    ------
    ValueError
        If ONNX Runtime is missing or refuses the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        try:
            import onnxruntime
        except ImportError:
            raise ValueError(f'running {str(path)!r} takes onnxruntime; run: pip install "tercile[formats]"') from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ValueError(f"{str(path)!r} can't be opened by ONNX Runtime ({_first_line(error)})") from None
        self.wanted = {one.name: one.type for one in self.session.get_inputs()}
        self.given = [one.name for one in self.session.get_outputs()]

    def forward(self, *inputs: torch.Tensor, **named: torch.Tensor) -> Any:
        """Runs the graph; inputs that it does not ask for are left out."""
        tensors = dict(zip(self.wanted, inputs)) | {name: named[name] for name in self.wanted if name in named}
        if missing := self.wanted.keys() - tensors.keys():
            raise ValueError(
                f"the ONNX model asks for {', '.join(sorted(missing))}, which the original does not read; export it "
                "with the original's inputs"
            )
        fed = {name: tensors[name].cpu().numpy().astype(_numpy_type(kind)) for name, kind in self.wanted.items()}
        outputs = [torch.from_numpy(np.asarray(out)) for out in self.session.run(None, fed)]
        known = dict(zip(self.given, outputs))
        if "logits" in known or "last_hidden_state" in known:
            return SimpleNamespace(**known)
        return outputs[0]


def _numpy_type(kind: str) -> str:
    return {"tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(float16)": "float16"}.get(kind, "float32")


def _plain_tensors(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """What a module has learnt, by name; a tensor subclass as the tensors that it stores."""

    def opened(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        parts = getattr(tensor, "__tensor_flatten__", None)
        if parts is None:
            yield name, tensor.detach()
            return
        for part in parts()[0]:
            yield from opened(f"{name}.{part}", getattr(tensor, part))

    for name, tensor in learnt(module).items():
        yield from opened(name, tensor)


def _stored_bytes(module: torch.nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for _, tensor in _plain_tensors(module))


def tensors_digest(module: torch.nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of what a module stores, tensor subclasses opened."""
    digest = hashlib.sha256()
    for name, tensor in _plain_tensors(module):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0] or type(error).__name__
