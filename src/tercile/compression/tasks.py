"""What a model is for, and the loss of one unit: a number in [0, 1] that compares the small model with the original.

A Task is two functions: `outputs` runs a model on a batch, `losses` compares the outputs of two. The losses below are
the ones with a name; a user's own is any function of the same signature.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tercile.compression.batches import Batch
from tercile.compression.source import Source
from tercile.named import named

Losses = Callable[[Any, Any, Batch], Any]


@dataclass(frozen=True)
class Task:
    """A use of a model, and how much of it is lost.

    Attributes
    ----------
    name
        embedding, classifier, language-model or custom.
    loss
        Name of the loss: a key of `LOSSES`, or the user's `module:function`.
    description
        What the loss is, to stand in a sentence after "the mean loss (".
    outputs
        (module, batch) -> what the losses compare.
    losses
        (outputs of the original, of the small model, batch) -> (n,) numbers in [0, 1].
    smooth
        A loss that feels the smallest change, to compare layers by; a count of changed decisions would feel none.
    """

    name: str
    loss: str
    description: str
    outputs: Callable[[torch.nn.Module, Batch], Any]
    losses: Losses
    smooth: Losses


def run(module: torch.nn.Module, batch: Batch) -> Any:
    """The module's own output for a batch: unwrapped when a Transformers output has one obvious tensor."""
    inputs = batch.inputs
    out = module(inputs) if isinstance(inputs, torch.Tensor) else module(**inputs)
    for name in ("logits", "last_hidden_state"):
        if getattr(out, name, None) is not None:
            return getattr(out, name)
    return out


def cosine(original: torch.Tensor, small: torch.Tensor, batch: Batch) -> torch.Tensor:
    """1 - cosine of the two embeddings; a cosine below 0 counts as 1."""
    return (1 - torch.nn.functional.cosine_similarity(original.float(), small.float(), dim=-1)).clamp(0, 1)


def relative_change(original: torch.Tensor, small: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Squared change of a unit's output over its square, cut to [0, 1]: the smooth stand-in for a user's own loss."""
    first, second = original.float().flatten(1), small.float().flatten(1)
    return ((first - second).square().sum(1) / first.square().sum(1).clamp(min=1e-30)).clamp(0, 1)


def shifted_scores(original: torch.Tensor, small: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Total variation between the two distributions over classes."""
    return (0.5 * (original.float().softmax(-1) - small.float().softmax(-1)).abs().sum(-1)).clamp(0, 1)


def disagreement(original: torch.Tensor, small: torch.Tensor, batch: Batch) -> torch.Tensor:
    """1 where the two models choose different classes."""
    return original.argmax(-1) != small.argmax(-1)


def accuracy_lost(original: torch.Tensor, small: torch.Tensor, batch: Batch) -> torch.Tensor:
    """1 where the original was right and the small model is wrong; needs labels."""
    labels = [example.label for example in batch.examples]
    if any(not isinstance(label, int) for label in labels):
        raise ValueError(
            "loss accuracy-lost needs a whole number as label of every example; name the column with label_column"
        )
    truth = torch.tensor(labels, device=original.device)
    return (original.argmax(-1) == truth) & (small.argmax(-1) != truth)


def total_variation(original: torch.Tensor, small: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Total variation between the two next-token distributions, averaged over a document's positions."""
    distance = 0.5 * (original.float().softmax(-1) - small.float().softmax(-1)).abs().sum(-1)
    keep = batch.keep_mask(distance)
    return ((distance * keep).sum(1) / keep.sum(1).clamp(min=1)).clamp(0, 1)


def nll_rise(original: torch.Tensor, small: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Rise of a document's mean negative log-likelihood, over log(vocabulary), cut to [0, 1]."""
    if not isinstance(batch.inputs, dict) or "input_ids" not in batch.inputs:
        raise ValueError("loss nll-rise needs a language model that reads input_ids")
    target = batch.inputs["input_ids"][:, 1:, None]
    keep = batch.keep_mask(original[..., 0])[:, 1:]

    def nll(logits: torch.Tensor) -> torch.Tensor:
        chosen = logits[:, :-1].float().log_softmax(-1).gather(-1, target)[..., 0]
        return -(chosen * keep).sum(1) / keep.sum(1).clamp(min=1)

    return ((nll(small) - nll(original)) / float(np.log(original.shape[-1]))).clamp(0, 1)


#: Named losses: task they belong to, function, description. The first of a task is its default.
LOSSES: dict[str, tuple[str, Losses, str]] = {
    "cosine": ("embedding", cosine, "1 - cosine between the embeddings of the original and of the small model"),
    "disagreement": ("classifier", disagreement, "1 where the small model chooses another class than the original"),
    "accuracy-lost": ("classifier", accuracy_lost, "1 where the original is right and the small model is wrong"),
    "total-variation": (
        "language-model", total_variation,
        "total variation between the next-token distributions of the two models, averaged over a document"),
    "nll-rise": (
        "language-model", nll_rise,
        "rise of a document's mean negative log-likelihood as a share of log(vocabulary)"),
}  # fmt: skip
#: What layers are compared by, where the loss itself is too coarse for that.
SMOOTH: dict[str, Losses] = {
    "disagreement": shifted_scores,
    "accuracy-lost": shifted_scores,
    "nll-rise": total_variation,
}
TASKS = ("embedding", "classifier", "language-model", "custom")


def guess_task(source: Source) -> str:
    """What a model is for, by its config's architecture; custom when there is none to go by."""
    config = getattr(source.module, "config", None)
    names = " ".join(getattr(config, "architectures", None) or [type(source.module).__name__])
    if "CausalLM" in names or "LMHead" in names:
        return "language-model"
    if "Classification" in names:
        return "classifier"
    return "embedding" if source.kind == "folder" else "custom"


def make_task(source: Source, name: str | None = None, loss: str | Losses | None = None) -> Task:
    """The task of a model, by name or by guess, with its default loss, a named one, or the user's own.

    Raises
    ------
    ValueError
        If a name is not known, a loss belongs to another task, or nothing says how to measure a loss.
    """
    if name is not None and name not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {name!r}")
    task = name or guess_task(source)
    outputs = outputs_of(source, task)
    if callable(loss) or (isinstance(loss, str) and ":" in loss):
        function = loss if callable(loss) else _import(loss)
        label = loss if isinstance(loss, str) else getattr(loss, "__qualname__", type(loss).__name__)
        return Task(task, label, f"the loss {label}", outputs, function, relative_change)
    known = [key for key, (owner, _, _) in LOSSES.items() if owner == task]
    if loss is None and not known:
        raise ValueError(
            f"can't tell what {source.spec!r} is for; set the task (--task classifier, embedding or language-model) "
            "or give a loss of your own (--loss module:function)"
        )
    chosen = known[0] if loss is None else str(loss)
    if chosen not in known:
        mend = f"choose {', '.join(known)} or module:function" if known else "give module:function, or set the task"
        raise ValueError(f"loss {chosen!r} does not fit task {task!r}; {mend}")
    _, function, description = LOSSES[chosen]
    return Task(task, chosen, description, outputs, function, SMOOTH.get(chosen, function))


def outputs_of(source: Source, task: str) -> Callable[[torch.nn.Module, Batch], Any]:
    """What a task looks at: sentence embeddings for embedding, else what the module says."""
    return _Embed(_pooling(source)) if task == "embedding" else run


@dataclass(frozen=True)
class _Embed:
    """Sentence embeddings: mean or first token of the last hidden state; a module's own (n, d) output as it is."""

    pooling: str

    def __call__(self, module: torch.nn.Module, batch: Batch) -> torch.Tensor:
        out = run(module, batch)
        if out.ndim == 2:
            return torch.nn.functional.normalize(out.float(), dim=-1)
        if self.pooling == "cls":
            pooled = out[:, 0].float()
        else:
            keep = batch.keep_mask(out[..., 0])[..., None]
            pooled = (out.float() * keep).sum(1) / keep.sum(1).clamp(min=1)
        return torch.nn.functional.normalize(pooled, dim=-1)


def _pooling(source: Source) -> str:
    path = source.folder / "1_Pooling" / "config.json" if source.folder else Path("-")
    if not path.is_file():
        return "mean"
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("pooling_mode_cls_token"):
        return "cls"
    if config.get("pooling_mode_mean_tokens", True):
        return "mean"
    raise ValueError(f"{path}: only mean and cls pooling are known; give a loss of your own (--loss module:function)")


def _import(spec: str) -> Losses:
    try:
        function = named(spec)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f"loss {spec!r} can't be imported ({error}); run from the folder where it is") from None
    if not callable(function):
        raise ValueError(f"loss {spec!r} is no function")
    return function
