"""Search: words, meaning, both; filters against brute force; queries of many readers together."""

from __future__ import annotations

import asyncio
import itertools
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from tercile.page.database import NAME, Database
from tercile.page.methods import Shelf
from tercile.page.search import Batcher, Collection, Document, Filter, Search, Words, blend
from tercile.page.search.documents import method_documents
from tercile.page.search.elsewhere import Elsewhere
from tercile.page.search.encoder import default_model
from tercile.page.search.vectors import catalogue_vectors, model_digest

DOCUMENTS = method_documents(Shelf(Path("evidence")).now())
ROOMS = sorted({document.room for document in DOCUMENTS})


class Axes:
    """Stands in for the encoder: a text is the vector of the catalogue's text of that number, or a random one."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.gate.wait(10)
        self.batches.append(list(texts))
        if "bad" in texts:
            raise ValueError("bad text")
        rows = [np.random.default_rng(abs(hash(text)) % 2**32).normal(size=384) for text in texts]
        return np.array([row / np.linalg.norm(row) for row in rows], dtype=np.float32)


@pytest.fixture
def search(tmp_path: Path) -> Search:
    return Search(Shelf(Path("evidence")), Database(tmp_path / NAME), encoder=Axes())


def test_the_packaged_vectors_are_those_of_the_catalogue_as_it_is_now() -> None:
    known = catalogue_vectors(model_digest(default_model()))
    assert [document.key for document in DOCUMENTS if document.digest not in known] == []


@pytest.mark.parametrize("room", ["", "quantization", "filters.data", "nowhere"])
@pytest.mark.parametrize("verdicts", [(), ("holds",), ("partly", "not yet")])
@pytest.mark.parametrize("since,until", [(None, None), (2020, None), (2018, 2022)])
def test_the_index_finds_what_brute_force_over_the_same_filter_finds(room, verdicts, since, until) -> None:
    wanted = Filter(room, verdicts, since, until)
    known = catalogue_vectors(model_digest(default_model()))
    collection = Collection.of(DOCUMENTS, known)
    query = np.random.default_rng(3).normal(size=384).astype(np.float32)
    query /= np.linalg.norm(query)
    scored = [(float(known[d.digest] @ query), at) for at, d in enumerate(DOCUMENTS) if wanted.passes(d)]
    expected = [at for _, at in sorted(scored, key=lambda pair: -pair[0])][:20]
    assert [at for at, _ in collection.nearest(query, wanted, 20)] == expected


def test_a_document_without_a_year_passes_no_filter_by_year() -> None:
    document = Document("a", "t", "", "", "r", "holds", None)
    assert Filter().passes(document) and not Filter(since=1900).passes(document)


@effort(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_a_filter_is_made_of_the_index_lets_through_what_it_passes(data: st.DataObject) -> None:
    odd = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    words = st.one_of(odd, st.sampled_from(["it's", "a.b", "a", "' or true --", "a) or (true", "\\"]))
    years = st.one_of(st.none(), st.integers(1800, 2200))
    drawn = data.draw(st.lists(st.tuples(words, words, years), min_size=1, max_size=8))
    documents = [Document(str(at), str(at), "", "", *of) for at, of in enumerate(drawn)]
    vectors = {document.digest: np.eye(8, dtype=np.float32)[at] for at, document in enumerate(documents)}
    wanted = Filter(
        data.draw(st.one_of(words, st.sampled_from([d.room for d in documents]))),
        tuple(data.draw(st.lists(st.one_of(words, st.sampled_from([d.verdict for d in documents])), max_size=3))),
        data.draw(years), data.draw(years),
    )  # fmt: skip
    found = Collection.of(documents, vectors).nearest(np.ones(8, np.float32), wanted, 8)
    assert {at for at, _ in found} == {at for at, document in enumerate(documents) if wanted.passes(document)}


def test_quotes_in_a_room_stay_inside_the_filter() -> None:
    assert Filter("it's").where(["it's"]) == "room in ('it''s')"


@pytest.mark.parametrize(
    "query", ['"', "a AND", "NEAR(", "title:x", "*", "(((", "-", "ünï", "'; DROP TABLE words", "\0"]
)
def test_no_query_is_read_as_an_expression_of_the_full_text_index(query: str) -> None:
    assert isinstance(Words(DOCUMENTS).search(query), list)


def test_words_find_stems_and_beginnings_and_prefer_documents_with_all_of_them() -> None:
    found = Words(DOCUMENTS).search("conformal predic")
    best = DOCUMENTS[found[0]]
    assert "conformal" in best.text.lower() and "predict" in best.text.lower()


def test_a_method_is_found_first_by_its_own_title(search: Search) -> None:
    for document in DOCUMENTS[::12]:
        found = asyncio.run(search.find(document.title, mode="words"))
        assert found.hits[0].document.key == document.key


def test_without_a_query_everything_that_passes_is_there_in_order(search: Search) -> None:
    wanted = Filter("quantiles")
    found = asyncio.run(search.find("  ", wanted))
    assert [hit.document.key for hit in found.hits] == [d.key for d in DOCUMENTS if wanted.passes(d)]


def test_without_an_encoder_meaning_is_answered_by_words_and_says_so(tmp_path: Path) -> None:
    search = Search(Shelf(Path("evidence")), Database(tmp_path / NAME), model=tmp_path / "none")
    found = asyncio.run(search.find("quantile regression", mode="meaning"))
    assert found.mode == "words" and found.hits and "meaning" in found.notice


def test_a_paper_that_a_reader_brought_is_found_and_forgotten_when_it_goes(search: Search) -> None:
    async def story() -> list[int]:
        counts = []
        for statement in (
            "INSERT INTO papers (key, title, added, changed) VALUES ('z', 'Zygomorphic zucchini', 'now', 'now')",
            "DELETE FROM papers WHERE key = 'z'",
        ):
            with search._database.transaction() as rows:
                rows.execute(statement)
            await search.renew()
            counts.append(len((await search.find("zygomorphic", mode="words")).hits))
            stored = search._database.connection().execute("SELECT count(*) FROM vectors").fetchone()[0]
            assert stored == counts[-1]  # embedded with it, gone with it
        return counts

    assert asyncio.run(story()) == [1, 0]


def test_similar_methods_are_the_nearest_without_the_method_itself(search: Search) -> None:
    known = catalogue_vectors(model_digest(default_model()))
    rows = np.array([known[document.digest] for document in DOCUMENTS])
    for at in (0, 55, 165):
        order = [int(other) for other in np.argsort(-(rows @ rows[at]), kind="stable") if other != at][:5]
        assert [hit.document.key for hit in search.similar(DOCUMENTS[at].key)] == [DOCUMENTS[i].key for i in order]


def test_blending_agrees_with_the_sum_of_reciprocal_ranks() -> None:
    for first, second in itertools.product(itertools.permutations(range(4)), repeat=2):
        scores = {at: 1 / (21 + first.index(at)) + 1 / (21 + second.index(at)) for at in range(4)}
        ranked = [scores[at] for at in blend([list(first), list(second)])]
        assert ranked == sorted(ranked, reverse=True)


def test_queries_that_come_while_others_are_embedded_make_up_one_batch() -> None:
    encoder = Axes()

    async def story() -> None:
        batcher = Batcher(encoder)
        encoder.gate.clear()
        first = asyncio.create_task(batcher.encode("first"))
        await asyncio.sleep(0.05)
        others = [asyncio.create_task(batcher.encode(text)) for text in ["a", "b", "a", "first"]]
        await asyncio.sleep(0.05)
        encoder.gate.set()
        await asyncio.gather(first, *others)
        await batcher.encode("a")

    asyncio.run(story())
    assert encoder.batches == [["first"], ["a", "b"]]


def test_a_failing_batch_fails_its_own_readers_alone() -> None:
    async def story() -> None:
        batcher = Batcher(Axes())
        with pytest.raises(ValueError, match="bad text"):
            await batcher.encode("bad")
        assert len(await batcher.encode("good")) == 384

    asyncio.run(story())


def test_a_reader_who_leaves_takes_nothing_from_one_who_waits_for_the_same_query() -> None:
    encoder = Axes()

    async def story() -> None:
        batcher = Batcher(encoder)
        encoder.gate.clear()
        one, two = (asyncio.create_task(batcher.encode("same")) for _ in range(2))
        await asyncio.sleep(0.05)
        one.cancel()
        encoder.gate.set()
        assert len(await two) == 384

    asyncio.run(story())


def test_the_encoder_agrees_with_the_library_and_hardly_moves_in_bfloat16() -> None:
    pytest.importorskip("torch")
    from tercile import api
    from tercile.page.search import SmallBert

    texts = ["few bits", "prediction intervals that stay valid when the data drift " * 3, "x", ""]
    expected = api.load(default_model()).encode(texts)
    assert np.abs(SmallBert(default_model(), half=False).encode(texts) - expected).max() < 1e-5
    assert (1 - (SmallBert(default_model(), half=True).encode(texts) * expected).sum(1)).max() < 1e-3


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Elsewhere]:
    pytest.importorskip("torch")
    made = Elsewhere(default_model())
    yield made
    made.close()


def test_another_process_embeds_as_this_one_would(elsewhere: Elsewhere) -> None:
    from tercile.page.search import SmallBert

    texts = ["few bits", "line\nbreak, \"quotes\" and ünïcödé", ""]
    assert np.abs(elsewhere.encode(texts) - SmallBert(default_model()).encode(texts)).max() < 1e-6


CHILD = """
import json, sys
sys.stdout.buffer.write(b'{"width": 2}\\n'); sys.stdout.flush()
for line in sys.stdin:
    texts = json.loads(line)
    if "die" in texts: sys.exit(1)
    sys.stdout.buffer.write(bytes(8 * len(texts))); sys.stdout.flush()
"""


def test_a_process_that_died_costs_one_answer_and_is_started_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tercile.page.search.elsewhere.PAUSE", 0.3)
    made = Elsewhere(Path("any"), command=(sys.executable, "-c", CHILD))
    assert made.encode(["a", "b"]).shape == (2, 2)
    with pytest.raises(OSError, match="died"):
        made.encode(["die"])
    time.sleep(0.4)
    assert made.encode(["a"]).shape == (1, 2)
    process = made._process
    made.close()
    assert process is not None and process.returncode == 0


def test_a_reader_is_answered_by_words_while_the_process_is_away(tmp_path: Path) -> None:
    class Away:
        def encode(self, texts: Sequence[str]) -> np.ndarray:
            raise OSError("died")

    search = Search(Shelf(Path("evidence")), Database(tmp_path / NAME), encoder=Away())
    found = asyncio.run(search.find("quantile regression", mode="both"))
    assert found.mode == "words" and found.hits and "started anew" in found.notice


def test_a_model_that_can_not_be_loaded_is_said(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))):
        Elsewhere(tmp_path).start()


def test_a_process_that_still_loads_is_not_waited_for(tmp_path: Path) -> None:
    made = Elsewhere(tmp_path, command=(sys.executable, "-c", "import time; time.sleep(60)"))

    def start() -> None:
        with pytest.raises(ValueError, match="ended while it loaded"):
            made.start()

    starting = threading.Thread(target=start)
    starting.start()
    while made._process is None:
        time.sleep(0.01)
    began = time.monotonic()
    made.close()
    starting.join(10)
    assert not starting.is_alive() and time.monotonic() - began < 2


def test_the_process_ends_with_the_page_even_if_that_is_killed() -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom tercile.page.search.elsewhere import Elsewhere\n"
        f"made = Elsewhere(Path('any'), command=(sys.executable, '-c', {CHILD!r}))\n"
        "made.start(); print(made._process.pid, flush=True); time.sleep(60)\n"
    )
    page = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert page.stdout is not None
    child = int(page.stdout.readline())
    page.kill()
    page.wait()
    for _ in range(500):
        if not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]:
            return
        time.sleep(0.02)
    raise AssertionError("the process goes on")
