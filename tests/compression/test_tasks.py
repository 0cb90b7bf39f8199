"""Losses against plain numpy, document by document; batches must not change what a unit loses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from tercile.compression.batches import cut
from tercile.compression.scoring import Scorer
from tercile.compression.source import Source, stack_arrays
from tercile.compression.tasks import LOSSES, guess_task, make_task, run
from tercile.filters.data.example import Example


def letters(texts) -> dict[str, torch.Tensor]:
    """A tokenizer of one token a letter, padded on the right."""
    longest = max(map(len, texts))
    ids = torch.zeros(len(texts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor([1 + ord(letter) % 30 for letter in text])
        mask[row, : len(text)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def language_model(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64)  # fmt: skip
    return LlamaForCausalLM(config).eval()


def embedder(seed: int) -> BertModel:
    torch.manual_seed(seed)
    config = BertConfig(vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                        num_attention_heads=4, max_position_embeddings=64)  # fmt: skip
    return BertModel(config).eval()


TEXTS = ["a short one", "another text that is rather longer than that", "b", "three words here", "zz top " * 6]
EXAMPLES = tuple(Example(text, origin=f"t:{i}") for i, text in enumerate(TEXTS))


def single_logits(model, text: str) -> np.ndarray:
    """Logits of one text, alone and unpadded, in float64."""
    with torch.inference_mode():
        return model(input_ids=letters([text])["input_ids"]).logits[0].double().numpy()


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.fixture(scope="module")
def models():
    return language_model(0), language_model(1)


def scored(task: str, loss: str, original, small, examples=EXAMPLES, prepare=letters) -> np.ndarray:
    source = Source("toy", "builder", original, prepare)
    return Scorer(source, make_task(source, task, loss), examples).losses(small)


def test_total_variation_is_that_of_each_document_alone(models) -> None:
    expected = [
        0.5 * np.abs(softmax(single_logits(models[0], t)) - softmax(single_logits(models[1], t))).sum(-1).mean()
        for t in TEXTS
    ]
    assert np.allclose(scored("language-model", "total-variation", *models), expected, atol=1e-5)


def test_rise_of_the_negative_log_likelihood_is_that_of_each_document_alone(models) -> None:
    def nll(model, text: str) -> float:
        ids = letters([text])["input_ids"][0].numpy()
        if len(ids) < 2:
            return 0.0
        chosen = np.log(softmax(single_logits(model, text)))[np.arange(len(ids) - 1), ids[1:]]
        return -chosen.mean()

    expected = [np.clip((nll(models[1], t) - nll(models[0], t)) / np.log(32), 0, 1) for t in TEXTS]
    assert np.allclose(scored("language-model", "nll-rise", *models), expected, atol=1e-5)
    assert max(expected) > 0


def test_cosine_is_that_of_each_mean_pooled_text_alone() -> None:
    first, second = embedder(0), embedder(1)

    def pooled(model, text: str) -> np.ndarray:
        with torch.inference_mode():
            return model(input_ids=letters([text])["input_ids"]).last_hidden_state[0].mean(0).double().numpy()

    pairs = [(pooled(first, t), pooled(second, t)) for t in TEXTS]
    expected = [np.clip(1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b), 0, 1) for a, b in pairs]
    assert np.allclose(scored("embedding", "cosine", first, second), expected, atol=1e-5)


@pytest.mark.parametrize("loss", ["total-variation", "nll-rise"])
def test_a_model_loses_nothing_against_itself(models, loss) -> None:
    assert scored("language-model", loss, models[0], models[0]).max() < 1e-6


class Fixed(torch.nn.Module):
    """A classifier that says what it was told, row by row of its input."""

    def __init__(self, answers: list[int]) -> None:
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.answers = torch.tensor(answers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(self.answers[x[:, 0].long()], 3).float()


def test_classifier_losses_count_what_they_say() -> None:
    original, small = Fixed([0, 1, 2, 0, 1]), Fixed([0, 2, 2, 1, 0])
    labels = [0, 1, 2, 1, 2]
    examples = tuple(Example(np.full(2, float(i)), label=label) for i, label in enumerate(labels))
    disagree = scored("classifier", "disagreement", original, small, examples, stack_arrays)
    lost = scored("classifier", "accuracy-lost", original, small, examples, stack_arrays)
    assert disagree.dtype == lost.dtype == np.bool_
    assert disagree.tolist() == [False, True, False, True, True]
    assert lost.tolist() == [False, True, False, False, False]


def test_accuracy_lost_needs_labels() -> None:
    examples = tuple(Example(np.full(2, float(i))) for i in range(3))
    with pytest.raises(ValueError, match="label"):
        scored("classifier", "accuracy-lost", Fixed([0, 1, 2]), Fixed([0, 1, 2]), examples, stack_arrays)


@pytest.mark.parametrize(("model", "task"), [(language_model(0), "language-model"), (torch.nn.Linear(2, 2), "custom")])
def test_the_task_is_guessed_from_the_architecture(model, task) -> None:
    assert guess_task(Source("toy", "builder", model, letters)) == task


def test_every_named_loss_belongs_to_a_task_and_lies_in_0_1(models) -> None:
    for name, (task, function, description) in LOSSES.items():
        assert make_task(Source("toy", "builder", models[0], letters), task, name).losses is function
        assert description


def test_batches_hold_every_example_once_and_are_sorted_by_length(models) -> None:
    source = Source("toy", "builder", models[0], letters)
    examples = tuple(Example("x" * (1 + 37 * i % 400)) for i in range(150))
    batches = cut(examples, source)
    assert sorted(np.concatenate([b.at for b in batches]).tolist()) == list(range(150))
    assert [len(e.content) for b in batches for e in b.examples] == sorted(len(e.content) for e in examples)
    assert all(b.examples[0] is examples[b.at[0]] for b in batches)


def test_output_of_a_plain_module_is_taken_as_it_is() -> None:
    module = torch.nn.Linear(3, 2)
    batch = cut((Example(np.ones(3, dtype=np.float32)),), Source("toy", "builder", module, stack_arrays))[0]
    assert torch.equal(run(module, batch), module(torch.ones(1, 3)))
