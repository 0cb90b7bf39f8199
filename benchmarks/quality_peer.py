"""One peer on one model, in an interpreter of its own: weights as the peer stores them, decoded.

    python benchmarks/quality_peer.py METHOD BITS FOLDER TEXTS.json OUT.safetensors

Peers ask for versions of torch and transformers that do not go together, so benchmarks/quality.py runs each under the
interpreter that TERCILE_PEERS_<METHOD> names (or its own). Weight-only, groups of 64, the calibration text of the
benchmark; other settings are those that the peer's own documentation gives for low bits.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # its pools ask for more workers than one core gives them

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

GROUP = 64


def blocks_of(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Linear layers of the blocks by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "layers." in n}


def hqq(model, tokenizer, texts, bits, axis=1):
    """HQQ: scales and zero points in float16, half-quadratic optimization."""
    from hqq.core.quantize import Quantizer

    for layer in blocks_of(model).values():
        stored, meta = Quantizer.quantize(
            layer.weight.data, nbits=bits, channel_wise=True, group_size=GROUP, optimize=True, axis=axis, device="cpu",
            compute_dtype=torch.float32,
        )  # fmt: skip
        layer.weight.data = Quantizer.dequantize(stored, meta).float()
    return bits + 32 / GROUP


def torchao(model, tokenizer, texts, bits):
    """torchao IntxWeightOnlyConfig with the scales of HQQ, which are symmetric."""
    from torchao.quantization import IntxWeightOnlyConfig, PerGroup, quantize_
    from torchao.quantization.quantize_.workflows import IntxChooseQParamsAlgorithm

    config = IntxWeightOnlyConfig(
        weight_dtype=getattr(torch, f"int{bits}"), granularity=PerGroup(GROUP),
        intx_choose_qparams_algorithm=IntxChooseQParamsAlgorithm.HQQ_SCALE_ONLY,
    )  # fmt: skip
    quantize_(model, config, filter_fn=lambda module, name: isinstance(module, torch.nn.Linear) and "layers." in name)
    for layer in blocks_of(model).values():
        layer.weight = torch.nn.Parameter(layer.weight.dequantize().float(), requires_grad=False)
    return bits + 16 / GROUP


def auto_round(model, tokenizer, texts, bits):
    """AutoRound: 200 steps a block, minima learnt."""
    from auto_round import AutoRound

    rows = [tokenizer(text, return_tensors="pt")["input_ids"] for text in texts]
    rows = [row[:, :LENGTH] for row in rows if row.shape[1] >= LENGTH][:128]
    rounder = AutoRound(
        model, tokenizer, bits=bits, group_size=GROUP, sym=False, iters=200, dataset=rows, seqlen=LENGTH,
        nsamples=len(rows), batch_size=8, device_map="cpu", scheme="W4A16", enable_torch_compile=False,
    )  # fmt: skip
    done = rounder.quantize()
    rounded = done[0] if isinstance(done, tuple) else done
    for name, layer in blocks_of(model).items():
        layer.weight.data = rounded.get_submodule(name).weight.data.float()
    return bits + (16 + bits) / GROUP


def llm_compressor(model, tokenizer, texts, bits):
    """llm-compressor's GPTQModifier, asymmetric groups."""
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import GPTQModifier

    group = {
        "targets": ["Linear"],
        "weights": {
            "num_bits": bits, "type": "int", "symmetric": False, "strategy": "group", "group_size": GROUP,
        },
    }  # fmt: skip
    recipe = GPTQModifier(config_groups={"group_0": group}, ignore=["lm_head"])
    rows = Dataset.from_list([dict(tokenizer(text, truncation=True, max_length=384)) for text in texts])
    oneshot(
        model=model, dataset=rows, recipe=recipe, max_seq_length=384, num_calibration_samples=len(texts),
        tokenizer=tokenizer,
    )  # fmt: skip
    return bits + (16 + bits) / GROUP


def gptqmodel(model, tokenizer, texts, bits):
    """GPTQModel: asymmetric groups, activation-aware groups as by default."""
    from gptqmodel import GPTQModel, QuantizeConfig

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        # Its first format keeps zero points less one, and a layer in memory does not add it when asked for its weight.
        config = QuantizeConfig(
            bits=bits, group_size=GROUP, sym=False, device="cpu", offload_to_disk=False, format="gptq_v2"
        )
        made = GPTQModel.load(folder, config)
        made.quantize([tokenizer(text, truncation=True, max_length=384)["input_ids"] for text in texts], batch_size=4)
        modules = dict(made.model.named_modules())
        for name, layer in blocks_of(model).items():
            layer.weight.data = modules[name].dequantize_weight().T.float().contiguous()
    return bits + (16 + bits) / GROUP


#: llama.cpp's own mixtures of block formats near each number of bits; rows that no block divides take larger ones.
LLAMA_TYPES = {4: "Q4_K_S", 3: "Q3_K_S", 2: "Q2_K_S"}
LLAMA_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def llama_cpp(model, tokenizer, texts, bits):
    """llama.cpp's quantizer with an importance matrix: mean squares of every layer's inputs on the calibration text."""
    import ctypes

    import gguf
    import llama_cpp.llama_cpp as lib

    from tercile.compression.export import export_gguf
    from tercile.compression.package import save_package
    from tercile.compression.source import open_source

    layers = blocks_of(model)
    stored = {name: _llama_name(name) for name in layers}
    means = _mean_squares(model, layers, tokenizer, texts)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "packed").mkdir()
        save_package(Path(folder, "packed"), open_source(model.config._name_or_path), {})
        original, small = Path(folder, "original.gguf"), Path(folder, "small.gguf")
        export_gguf(Path(folder, "packed"), original)
        entries = (lib.llama_model_imatrix_data * (len(means) + 1))()  # the last one stays empty: it ends the list
        for entry, (name, mean) in zip(entries, means.items(), strict=False):
            entry.name, entry.size = stored[name].encode(), mean.numel()
            entry.data = ctypes.cast(mean.data_ptr(), ctypes.POINTER(ctypes.c_float))
        settings = lib.llama_model_quantize_default_params()
        settings.nthread, settings.imatrix = 1, entries
        settings.ftype = getattr(lib, f"LLAMA_FTYPE_MOSTLY_{LLAMA_TYPES[bits]}")
        if lib.llama_model_quantize(str(original).encode(), str(small).encode(), ctypes.byref(settings)):
            raise RuntimeError("llama_model_quantize failed")
        tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(small).tensors}
        config = model.config
        for name, layer in layers.items():
            tensor = tensors[stored[name]]
            weight = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
            if stored[name].endswith(("attn_q.weight", "attn_k.weight")):
                heads = config.num_attention_heads if "attn_q" in stored[name] else config.num_key_value_heads
                weight = weight.reshape(heads, -1, 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
            layer.weight.data = weight.float().contiguous()
        nbytes = sum(tensors[stored[name]].n_bytes for name in layers)
    return 8 * nbytes / sum(layer.weight.numel() for layer in layers.values())


def _llama_name(name):
    _, _, number, part = name.split(".", 3)
    return f"blk.{number}.{LLAMA_NAMES[part]}.weight"


def _mean_squares(model, layers, tokenizer, texts):
    sums, rows = {}, {}

    def note(name, read):
        flat = read.reshape(-1, read.shape[-1])
        sums[name] = sums.get(name, 0) + flat.square().sum(0)
        rows[name] = rows.get(name, 0) + len(flat)

    handles = [
        layer.register_forward_pre_hook(lambda module, args, name=name: note(name, args[0]))
        for name, layer in layers.items()
    ]
    with torch.inference_mode():
        for text in texts:
            model(**tokenizer(text, truncation=True, max_length=384, return_tensors="pt"))
    for handle in handles:
        handle.remove()
    return {name: (total / rows[name]).float().contiguous() for name, total in sums.items()}


METHODS = {
    "hqq": hqq,
    "torchao": torchao,
    "auto-round": auto_round,
    "llm-compressor": llm_compressor,
    "gptqmodel": gptqmodel,
    "llama-cpp": llama_cpp,
}
LENGTH = 224


def main() -> None:
    method, bits, folder, texts, out = sys.argv[1:]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    stored = METHODS[method](model, tokenizer, json.loads(Path(texts).read_text()), int(bits))
    weights = {name: layer.weight.data.clone().contiguous() for name, layer in blocks_of(model).items()}
    save_file(weights, out, {"bits": str(stored)})


if __name__ == "__main__":
    main()
