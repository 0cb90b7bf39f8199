"""Weights and activations rounded to 8 and to 4 bits: MiniLM and the zoo's ViT, tercile beside its peers, in one run.

    python benchmarks/activations.py [--model minilm vit] [--out benchmarks/results]

Peers, each at its documented settings and calibrated on the same data: torchao (dynamic int8, and its fake quantizers
for 4 bits, which no kernel of a CPU runs), ONNX Runtime (dynamic and static int8), NNCF (static int8 with its
transformer preset). A peer that is not installed or does not take the model is named with the reason. What is compared
is the loss on held-out data: 1 - cosine of sentence embeddings, and the divergence of class probabilities. `layers`
rounds what linear layers and convolutions read; `all` rounds the operands of attention too.
"""

from __future__ import annotations

import os

os.environ |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "TERCILE_THREADS"), "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("NNCF_EXTENSION_LOAD_TIMEOUT", "600")  # it compiles an extension at first

import argparse
import copy
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tercile.papers.digits_network import pictures
from tercile.papers.machine import code_version, describe_machine
from tercile.papers.sentence_encoder import SentenceEncoder
from tercile.quantization import Scheme
from tercile.quantization.activations import Quantizer, Site, attached, calibrate
from tercile.quantization.activations.block_tuning import tune_blocks
from tercile.quantization.activations.quantizers import Static
from tercile.quantization.calibration import collect
from tercile.quantization.families import describe
from tercile.quantization.ranges import mse
from tercile.quantization.solvers import gptq
from tercile.zoo import find

LENGTH = 64
Inputs = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Case:
    """A model as a function of tensors, data of one shape a batch, and what is lost."""

    name: str
    model: nn.Module
    calibration: list[Inputs]
    held_out: list[Inputs]
    loss: Callable[[torch.Tensor, torch.Tensor], float]

    @torch.no_grad()
    def outputs(self, run: Callable[..., torch.Tensor]) -> torch.Tensor:
        return torch.cat([run(*batch).detach() for batch in self.held_out])


class Embedding(nn.Module):
    """MiniLM up to its sentence embedding."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        keep = attention_mask[..., None].to(hidden.dtype)
        return nn.functional.normalize((hidden * keep).sum(1) / keep.sum(1), dim=-1)


class Logits(nn.Module):
    """A classifier's logits as a tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=pixel_values).logits


def minilm(calibrated: int, judged: int) -> Case:
    bench = SentenceEncoder(calibrated, 0, 0)
    more = SentenceEncoder(calibrated + judged, 0, 0)  # the same order, so the rest is held out

    def batches(texts: list[str]) -> list[Inputs]:
        found = []
        for start in range(0, len(texts), 16):
            part = bench.tokenizer(
                texts[start : start + 16], padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
            )
            found.append((part["input_ids"], part["attention_mask"]))
        return found

    def lost(truth: torch.Tensor, got: torch.Tensor) -> float:
        return float((1 - nn.functional.cosine_similarity(truth, got.float())).mean())

    texts = more.calibration
    return Case("minilm", Embedding(bench.model), batches(texts[:calibrated]), batches(texts[calibrated:]), lost)


def vit(calibrated: int, judged: int) -> Case:
    from transformers import ViTForImageClassification

    model = ViTForImageClassification.from_pretrained(find("digits-vit").source).eval().requires_grad_(False)
    split = lambda images: [(part,) for part in images.split(16)]  # noqa: E731
    held, pool = pictures(0, 2)[0][:judged], pictures(1, 2)[0][:calibrated]

    def diverged(truth: torch.Tensor, got: torch.Tensor) -> float:
        pair = got.float().log_softmax(-1), truth.log_softmax(-1)
        return float(nn.functional.kl_div(*pair, reduction="batchmean", log_target=True))

    return Case("vit", Logits(model), split(pool), split(held), diverged)


CASES = {"minilm": minilm, "vit": vit}


# ---- tercile


def ours(case: Case, bits: int) -> Iterator[tuple[str, Callable[..., torch.Tensor], Callable[[], None]]]:
    """Each step on top of the one before: (name, how to run it, what to do afterwards)."""
    inner = case.model.model
    family = describe(inner)
    token = Scheme.parse(f"int{bits}-token-asym")
    outside = {layer.name for layer in family.outside} if case.name == "vit" else set()

    def choose(attention: bool) -> Callable[[Site], Scheme | None]:
        def scheme(site: Site) -> Scheme | None:
            if site.module in outside:
                return Scheme.parse("int8-token-asym")
            return token if attention or site.operand == "input" else None

        return scheme

    for label, attention in (("layers", False), ("all", True)):
        quantizers = calibrate(inner, family, choose(attention))
        stored = copy.deepcopy(case.model)
        put_weights(case, stored, family, quantizers, bits, outside)
        yield f"tercile GPTQ, {label}", *running(stored, family, quantizers)
        if bits < 8:
            tuned = copy.deepcopy(case.model)
            tune(case, tuned, family, quantizers, bits, outside)
            yield f"tercile tuned blocks, {label}", *running(tuned, family, quantizers)


def running(
    model: nn.Module, family: Any, quantizers: Mapping[str, Quantizer]
) -> tuple[Callable[..., torch.Tensor], Callable[[], None]]:
    context = attached(model.model, family, quantizers)
    context.__enter__()
    return model, lambda: context.__exit__(None, None, None)


def forward(case: Case) -> Callable[[nn.Module, Inputs], Any]:
    names = ("input_ids", "attention_mask") if case.name == "minilm" else ("pixel_values",)
    return lambda model, batch: model(**dict(zip(names, batch, strict=True)))


def scheme_of(name: str, bits: int, outside: set[str]) -> Scheme:
    """As the peers have them: a scale a row at 8 bits, groups of 32 at 4."""
    return Scheme.parse("int8-channel" if bits == 8 or name in outside else f"int{bits}-g32")


def put_weights(
    case: Case, model: nn.Module, family: Any, quantizers: Mapping[str, Quantizer], bits: int, outside: set[str]
) -> None:
    keep = (lambda batch: batch[1]) if case.name == "minilm" else None
    statistics: dict[str, Any] = {}
    with attached(model.model, family, quantizers):
        for _, part in collect(model.model, family, case.calibration, forward=forward(case), keep=keep):
            statistics |= part
    for layer in family.layers:
        if layer.kind == "embedding" or not statistics[layer.name].count:
            continue
        weight = model.model.get_parameter(f"{layer.name}.weight")
        kept = gptq(weight.detach().numpy(), statistics[layer.name], scheme_of(layer.name, bits, outside))
        with torch.no_grad():
            weight.copy_(torch.from_numpy(kept.dequantize()).reshape(weight.shape))


def tune(
    case: Case, model: nn.Module, family: Any, quantizers: Mapping[str, Quantizer], bits: int, outside: set[str]
) -> None:
    """The blocks' weights, trained through their rounding in groups of 32."""
    put_weights(case, model, family, quantizers, bits, outside)
    original = case.model.model
    weights = {}
    for layer in (each for block in family.blocks for each in block.layers):
        scheme = scheme_of(layer.name, bits, outside)
        weight = original.get_parameter(f"{layer.name}.weight").detach()
        scale = torch.from_numpy(mse(weight.numpy(), scheme).scale.copy())
        weights[layer.name] = grouped(scheme, scale, 32)
        with torch.no_grad():
            model.model.get_parameter(f"{layer.name}.weight").copy_(weight)
    tune_blocks(
        model.model, original, family, quantizers, case.calibration, forward=forward(case), weights=weights,
        steps=60, rate=0.01,
    )  # fmt: skip


def grouped(scheme: Scheme, scale: torch.Tensor, size: int) -> Quantizer:
    """A scale for each `size` neighbours of a row, (rows, groups)."""
    flat = Static(scheme, scale.reshape(-1), torch.zeros(scale.numel()), 0)
    return lambda weight: flat(weight.reshape(-1, size)).reshape(weight.shape)


# ---- peers


def torchao_dynamic(case: Case, bits: int) -> Callable[..., torch.Tensor]:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    model = copy.deepcopy(case.model)
    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    return model


def torchao_fake(case: Case, bits: int) -> Callable[..., torch.Tensor]:
    from torchao.quantization import quantize_
    from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig

    model = copy.deepcopy(case.model)
    inputs = IntxFakeQuantizeConfig(torch.int4, "per_token", is_symmetric=False)
    weights = IntxFakeQuantizeConfig(torch.int4, group_size=32)
    quantize_(model, QATConfig(activation_config=inputs, weight_config=weights, step="prepare"))
    return model.eval()


def onnx_file(case: Case, folder: Path) -> Path:
    names = ["input_ids", "attention_mask"] if case.name == "minilm" else ["pixel_values"]
    path = folder / "float.onnx"
    torch.onnx.export(case.model, case.held_out[0], path, input_names=names, dynamo=False, opset_version=17)
    return path


def onnx_runner(case: Case, path: Path) -> Callable[..., torch.Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(*batch: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run(None, {n: x.numpy() for n, x in zip(names, batch, strict=False)})[0])

    return run


def onnx_dynamic(case: Case, bits: int) -> Callable[..., torch.Tensor]:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    folder = Path(tempfile.mkdtemp())
    quantize_dynamic(onnx_file(case, folder), folder / "small.onnx", weight_type=QuantType.QInt8, per_channel=True)
    return onnx_runner(case, folder / "small.onnx")


def onnx_static(case: Case, bits: int) -> Callable[..., torch.Tensor]:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    folder = Path(tempfile.mkdtemp())
    path = onnx_file(case, folder)
    quant_pre_process(path, folder / "ready.onnx", skip_symbolic_shape=True)
    names = ["input_ids", "attention_mask"] if case.name == "minilm" else ["pixel_values"]

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rest = iter(case.calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.rest, None)
            return None if batch is None else {n: x.numpy() for n, x in zip(names, batch, strict=True)}

    quantize_static(
        folder / "ready.onnx", folder / "small.onnx", Reader(), per_channel=True,
        weight_type=QuantType.QInt8, activation_type=QuantType.QUInt8,
    )  # fmt: skip
    return onnx_runner(case, folder / "small.onnx")


def nncf_static(case: Case, bits: int) -> Callable[..., torch.Tensor]:
    import nncf

    data = nncf.Dataset(case.calibration, lambda batch: batch if len(batch) > 1 else batch[0])
    small: Callable[..., torch.Tensor] = nncf.quantize(
        copy.deepcopy(case.model), data, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(case.calibration)
    )
    return small


PEERS = {
    8: {
        "torchao, dynamic int8": torchao_dynamic,
        "ONNX Runtime, dynamic int8": onnx_dynamic,
        "ONNX Runtime, static int8": onnx_static,
        "NNCF, static int8": nncf_static,
    },
    4: {"torchao, fake int4": torchao_fake},
}


def measure(case: Case, wanted: str) -> list[dict[str, Any]]:
    """Ours first: some peers change torch for the whole process, and what runs after them is not what it was."""
    truth = case.outputs(case.model)
    rows: list[dict[str, Any]] = []
    for bits in PEERS:
        for name, run, leave in ours(case, bits):
            rows.append({"bits": bits, "who": name, "loss": case.loss(truth, case.outputs(run))})
            leave()
            print(case.name, rows[-1], flush=True)
    for bits, peers in PEERS.items():
        for name, make in ((name, make) for name, make in peers.items() if wanted.lower() in name.lower()):
            try:
                rows.append({"bits": bits, "who": name, "loss": case.loss(truth, case.outputs(make(case, bits)))})
            except Exception as error:  # a peer may fail in any way of its own
                reason = f"{type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''}"
                rows.append({"bits": bits, "who": name, "reason": reason})
            print(case.name, rows[-1], flush=True)
    for bits in PEERS:
        theirs = [row["loss"] for row in rows if row["bits"] == bits and row["who"] in PEERS[bits] and "loss" in row]
        for row in rows:
            if theirs and row["bits"] == bits and row["who"] not in PEERS[bits]:
                row["ratio"] = row["loss"] / min(theirs)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--calibrated", type=int, default=128)
    parser.add_argument("--judged", type=int, default=256)
    parser.add_argument("--peers", default="", help="only those with this in their name")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = {name: measure(CASES[name](given.calibrated, given.judged), given.peers) for name in given.model}
    lines = ["| model | bits | who | loss | of the best peer's |", "| --- | --- | --- | --- | --- |"]
    for name, rows in found.items():
        for row in rows:
            loss = f"{row['loss']:.5f}" if "loss" in row else row["reason"]
            ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
            lines.append(f"| {name} | W{row['bits']}A{row['bits']} | {row['who']} | {loss} | {ratio} |")
    print("\n".join(lines))
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "activations.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
        commit, changed = code_version(Path(__file__).parent.parent)
        stored = {
            "benchmark": "activations",
            "calibration": given.calibrated,
            "held_out": given.judged,
            "commit": commit,
            "code_changed_since": changed,
            "machine": describe_machine(),
            "rows": found,
        }
        (given.out / "activations.json").write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
