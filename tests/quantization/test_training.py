"""Stored weights in torch, students, block reconstruction, distillation, repair."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from tercile.quantization import QTensor, Scheme, ranges
from tercile.quantization.families import describe
from tercile.quantization.solvers import round_to_nearest
from tercile.quantization.training import (
    Distillation,
    FixedCodes,
    Rates,
    Reconstruction,
    Repair,
    SoftRounding,
    StraightThrough,
    Student,
    Substitution,
    distil,
    reconstruct,
    repair,
)

SCHEMES = ["int4-g8-asym", "int3-g8-asym-k6", "int2-channel-f32", "nf4-g7", "fp4-e2m1-g16-e4m3", "ternary-t3x5-k6",
           "normal6-channel", "int4-tensor-bf16", "int8-g5-e8m0"]  # fmt: skip
FAST = Rates(codes=0.02, scales=0.003, offsets=0.01, vectors=0.005)


def stored(spelling: str, seed: int = 0, shape: tuple[int, ...] = (9, 23)) -> tuple[np.ndarray, QTensor]:
    weight = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    scheme = Scheme.parse(spelling)
    return weight, QTensor.quantize(weight, scheme, ranges.mse(weight, scheme))


def bert() -> tuple[nn.Module, list[dict[str, torch.Tensor]]]:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=16,
    )  # fmt: skip
    model = BertModel(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(4)  # a fresh model is close to linear
    batches = []
    for _ in range(16):
        ids = torch.randint(50, (4, 10))
        mask = torch.ones(4, 10, dtype=torch.long)
        mask[0, 6:] = 0
        batches.append({"input_ids": ids, "attention_mask": mask})
    return model, batches


def run(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(**batch)[0]


def keep(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return batch["attention_mask"]


def square(wanted: torch.Tensor, got: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return ((wanted - got).square().mean(-1) * batch["attention_mask"]).mean(1)


def rounded(model: nn.Module, spelling: str = "int3-g16-asym") -> dict[str, QTensor]:
    scheme = Scheme.parse(spelling)
    return {
        layer.name: round_to_nearest(model.get_parameter(layer.parameter).detach().numpy(), None, scheme)
        for layer in describe(model).layers
    }


@pytest.mark.parametrize("kind", [FixedCodes, StraightThrough, SoftRounding])
@pytest.mark.parametrize("spelling", SCHEMES)
def test_a_stored_weight_starts_as_the_tensor_that_it_was_made_of(kind, spelling: str) -> None:
    weight, tensor = stored(spelling)
    made = kind(tensor, weight)
    again = made.tensor()
    # Scales are stored a second time, which may round again where a format depends on its neighbours.
    assert np.allclose(again.ranges.scale, tensor.ranges.scale, rtol=1e-3)
    assert (again.codes == tensor.codes).mean() > (0.99 if kind is SoftRounding else 0.9999)
    if kind is not SoftRounding:
        assert np.allclose(made().detach().numpy(), tensor.dequantize(), atol=1e-5)


@pytest.mark.parametrize("spelling", SCHEMES)
def test_what_runs_is_what_is_stored_after_scales_and_offsets_have_moved(spelling: str) -> None:
    weight, tensor = stored(spelling)
    made = StraightThrough(tensor, weight)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        made.clip()
    assert np.allclose(made().detach().numpy(), made.tensor().dequantize(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("spelling", ["int4-g8-f32", "int3-g8-asym-f32", "nf4-t3x5-f32", "int4-tensor-f32"])
def test_gradients_of_scales_are_those_of_finite_differences(spelling: str) -> None:
    _, tensor = stored(spelling)
    made = FixedCodes(tensor).double()
    made._kept = lambda scale, offset: tensor.scheme.ranges(  # in double precision, storing would round to float32
        scale.detach().float().numpy(), offset.detach().float().numpy() if tensor.scheme.asymmetric else None
    )
    direction = torch.randn(tensor.shape, dtype=torch.float64)
    (made() * direction).sum().backward()
    step, at = 1e-2, (0, 0)
    values = []
    for sign in (1, -1):
        made.growth.data[at] = sign * step
        values.append(float((made() * direction).sum()))
        made.growth.data[at] = 0
    assert float(made.growth.grad[at]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=2e-3, abs=1e-4)


def test_a_weight_starts_on_its_own_side_of_the_cell() -> None:
    weight, tensor = stored("int4-g8-f32")
    made = StraightThrough(tensor, weight)
    exact = weight / tensor.scheme.blocks.spread(tensor.ranges.scale, weight.shape)
    inside = np.abs(exact - made.level().detach().numpy()) < 0.4
    assert np.allclose(made.position.detach().numpy()[inside], exact[inside], atol=1e-5)


def test_soft_rounding_stays_between_two_neighbours() -> None:
    weight, tensor = stored("int3-g8-f32")
    made = SoftRounding(tensor, weight)
    exact = weight / tensor.scheme.blocks.spread(tensor.ranges.scale, weight.shape)
    for logits in (-20.0, 20.0):
        made.position.data.fill_(logits)
        level = made.level().detach().numpy()
        within = (exact > -4) & (exact < 3)
        assert np.array_equal(level[within], (np.floor if logits < 0 else np.ceil)(exact)[within])


@pytest.mark.parametrize("kind", [StraightThrough, SoftRounding])
def test_only_the_share_of_weights_nearest_to_another_level_moves(kind) -> None:
    weight, tensor = stored("int3-g8-f32")
    exact = weight / tensor.scheme.blocks.spread(tensor.ranges.scale, weight.shape)
    off = np.abs(exact - tensor.scheme.grid.levels[np.abs(exact[..., None] - tensor.scheme.grid.levels).argmin(-1)])
    made = kind(tensor, weight)
    made.hold(0.25)
    (made() * torch.randn(weight.shape)).sum().backward()
    moved = made.position.grad.numpy() != 0
    assert abs(int(moved.sum()) - round(0.25 * weight.size)) <= 3  # a gate at its end has no slope
    inside = (exact > -4) & (exact < 3)
    assert off[moved & inside].min() >= np.quantile(off[inside], 0.7)
    if kind is SoftRounding:
        assert set(made.gate().detach().numpy()[~moved & inside].round(6)) <= {0.0, 1.0}


def test_the_original_is_left_alone_and_the_student_gives_what_is_stored() -> None:
    model, batches = bert()
    before = copy.deepcopy(model.state_dict())
    weights = rounded(model)
    student = Student(model, describe(model), weights)
    by_hand = copy.deepcopy(model)
    for name, tensor in weights.items():
        by_hand.get_submodule(name).weight.data = torch.from_numpy(tensor.dequantize())
    assert torch.allclose(run(student.module, batches[0]), run(by_hand, batches[0]), atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_shared_weight_is_one_weight_in_the_student_too() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    student = Student(model, describe(model), rounded(model, "int4-channel"))
    assert student.module.lm_head.weight is student.module.model.embed_tokens.weight


def test_reconstruction_brings_every_block_closer_to_its_outputs() -> None:
    model, batches = bert()
    family = describe(model)
    student = Student(model, family, rounded(model))
    settings = Reconstruction(passes=8, rates=FAST)
    made = list(reconstruct(student, model, family, batches, forward=run, keep=keep, settings=settings))
    assert [one.block.name for one in made] == ["encoder.layer.0", "encoder.layer.1"]
    assert all(one.after < 0.8 * one.before for one in made)


def test_padding_has_no_part_in_reconstruction() -> None:
    model, batches = bert()
    family = describe(model)
    changed = copy.deepcopy(batches)
    for batch in changed:
        batch["input_ids"][0, 6:] = 7
    settings = Reconstruction(passes=1, rates=FAST)
    found = []
    for data in (batches, changed):
        student = Student(model, family, rounded(model))
        list(reconstruct(student, model, family, data, forward=run, keep=keep, settings=settings))
        found.append(student.tensors()["encoder.layer.0.output.dense"].dequantize())
    assert np.allclose(found[0], found[1], atol=1e-4)


def test_distillation_lowers_the_loss_on_batches_that_it_was_not_trained_on() -> None:
    model, batches = bert()
    family = describe(model)
    student = Student(model, family, rounded(model))
    settings = Distillation(passes=10, rates=FAST)
    made = distil(student, model, family, batches, outputs=run, losses=square, keep=keep, settings=settings)
    assert made.after < 0.8 * made.before


def test_a_student_that_got_worse_is_handed_back_as_it_came() -> None:
    model, batches = bert()
    family = describe(model)
    student = Student(model, family, rounded(model))
    before = student.to_arrays()
    wild = Distillation(passes=1, rates=Rates(0.9, 0.9, 0.9, 0.9))
    made = distil(student, model, family, batches, outputs=run, losses=square, keep=keep, settings=wild)
    assert made.after == made.before
    assert all(np.array_equal(value, student.to_arrays()[name]) for name, value in before.items())


def test_a_varied_batch_is_put_to_the_original_too() -> None:
    model, batches = bert()
    family = describe(model)
    vary = Substitution.of([b["input_ids"] for b in batches], special=(), share=0.5)
    asked: list[torch.Tensor] = []

    def outputs(which: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        asked.append(batch["input_ids"])
        return run(which, batch)

    def new(batch: dict[str, torch.Tensor], generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {**batch, "input_ids": vary(batch["input_ids"], generator)}

    student = Student(model, family, rounded(model))
    settings = Distillation(passes=10, rates=FAST)
    made = distil(
        student, model, family, batches, outputs=outputs, losses=square, keep=keep, settings=settings, vary=new
    )
    assert made.after < 0.8 * made.before
    steps = asked[2:-2]  # one held-out batch is scored by both before, and after
    assert all(torch.equal(a, b) for a, b in zip(steps[::2], steps[1::2]))
    assert len({tuple(ids.flatten().tolist()) for ids in steps[::2]}) == 150


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_of_replaced_tokens_is_checked(share: float) -> None:
    with pytest.raises(ValueError, match="share must be between 0 and 1"):
        Substitution.of([torch.arange(5)], special=(), share=share)
    with pytest.raises(ValueError, match="nothing to draw from"):
        Substitution.of([torch.zeros(5, dtype=torch.long)], special=(0,))


def repaired(folder: Path | None = None, progress=None):
    model, batches = bert()
    settings = Repair(Reconstruction(passes=2, rates=FAST), Distillation(passes=4, rates=FAST))
    return repair(
        model, describe(model), rounded(model), batches, forward=run, outputs=run, losses=square, keep=keep,
        settings=settings, folder=folder, progress=progress,
    )  # fmt: skip


def same(a, b) -> bool:
    alike = all(np.array_equal(tensor.words, b.weights[name].words) for name, tensor in a.weights.items())
    return alike and all(np.array_equal(value, b.vectors[name]) for name, value in a.vectors.items())


def test_repair_lowers_the_loss_and_keeps_schemes_and_size() -> None:
    made = repaired()
    before = rounded(bert()[0])
    assert made.after < 0.7 * made.before
    assert {name: (t.scheme, t.nbytes) for name, t in made.weights.items()} == {
        name: (t.scheme, t.nbytes) for name, t in before.items()
    }


@pytest.mark.parametrize("stage, step", [("repairing blocks", 1), ("repairing the whole", 45)])
def test_a_repair_that_was_stopped_ends_with_the_same_bits(tmp_path: Path, stage: str, step: int) -> None:
    def stop(name: str, done: int, total: int | None) -> None:
        if (name, done) == (stage, step):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repaired(tmp_path / "a", stop)
    seen: list[tuple[str, int]] = []
    resumed = repaired(tmp_path / "a", lambda name, done, total: seen.append((name, done)))
    assert (stage, 1 if stage == "repairing blocks" else 41) in seen and ("repairing the whole", 1) not in seen[:1]
    assert same(resumed, repaired())
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["repaired.safetensors"]
    assert same(repaired(tmp_path / "a"), resumed)


def test_the_same_seed_gives_the_same_bits() -> None:
    assert same(repaired(), repaired())


def test_a_model_without_a_sequence_of_blocks_is_distilled_as_a_whole() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    batches = [torch.randn(8, 1, 8, 8) for _ in range(16)]
    made = repair(
        model, describe(model), rounded(model, "int2-channel"), batches,
        forward=lambda m, b: m(b), outputs=lambda m, b: m(b), losses=lambda a, b, _: (a - b).square().mean(1),
        settings=Repair(whole=Distillation(passes=10, rates=FAST)),
    )  # fmt: skip
    assert made.after < 0.8 * made.before


def test_bad_input_is_refused_by_name() -> None:
    model, batches = bert()
    family, weights = describe(model), rounded(model)
    with pytest.raises(ValueError, match="'nowhere'"):
        Student(model, family, {"nowhere": weights["pooler.dense"]})
    with pytest.raises(ValueError, match="stored as"):
        Student(model, family, {"pooler.dense": weights["encoder.layer.0.output.dense"]})
    with pytest.raises(ValueError, match="no vector of the model"):
        Student(model, family, weights, {"pooler.dense.bias": np.zeros(3)})
    with pytest.raises(ValueError, match="rate of codes"):
        Rates(codes=-1)
    with pytest.raises(ValueError, match="mixed must be between 0 and 1"):
        Reconstruction(mixed=2)
    with pytest.raises(ValueError, match="moving must be above 0"):
        Reconstruction(moving=0)
    with pytest.raises(ValueError, match="passes must be at least 0"):
        Distillation(passes=-1)
    student = Student(model, family, weights)
    with pytest.raises(ValueError, match="do not follow one another"):
        next(reconstruct(student, model, replace(family, sequential=False), batches, forward=run))
    for empty in (
        lambda: next(reconstruct(student, model, family, [], forward=run)),
        lambda: distil(student, model, family, [], outputs=run, losses=square),
    ):
        with pytest.raises(ValueError, match="batches is empty"):
            empty()
    with pytest.raises(ValueError, match="loss became nan"):
        distil(student, model, family, batches, outputs=run, losses=lambda a, b, c: square(a, b, c) * float("nan"))
