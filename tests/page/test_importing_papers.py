"""Files of papers: read with every broken entry told, previewed, and stored once."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies

from tercile.page.database import Database
from tercile.page.imports import Draft, Importer, Read, draft, read_atom, read_papers
from tercile.page.imports.importer import Preview
from tercile.papers import catalogue

BIBTEX = r"""
@string{ml = "Journal of Machines"}
@comment{nothing}
@article{a, title={Quantile {R}egression for B\'ezier curves in $O(n^2)$},
  author={Fran\c{c}ois, Jos\'e and van der Berg, Jan and others}, year=2020, journal=ml # " 3",
  eprint={2001.00001v2}, archivePrefix={arXiv}}
@article{b, title={No end, author={X}, year=2020
@inproceedings{c, title = "Two " # "parts", author={A B and C D}, month=jan, url={http://x.org/a_b%20c}}
@article{d, title={Said once}, title={Said twice}}
@article{e title={No comma}}
@misc{f, title={Reads \input{/etc/passwd} nothing}}
@misc{g, year=2020}
"""
ATOM = """<?xml version="1.0" encoding="UTF-8"?>
<feed xmlns="http://www.w3.org/2005/Atom" xmlns:arxiv="http://arxiv.org/schemas/atom"
      xmlns:opensearch="http://a9.com/-/spec/opensearch/1.1/" xmlns:dc="http://purl.org/dc/elements/1.1/">
<title>arXiv Query: all:x</title><link href="https://arxiv.org/api/query?x" rel="self"/>
<opensearch:totalResults>40</opensearch:totalResults><opensearch:startIndex>0</opensearch:startIndex>
<entry><id>http://arxiv.org/abs/cond-mat/0102536v1</id><title>Cusps of electrons
  in two lines</title><summary>  An
 abstract.</summary><published>2001-02-28T20:12:09Z</published><author><name>D. P.</name></author>
 <author><name>M. N.</name></author><arxiv:doi>10.1063/1.1383585</arxiv:doi>
 <link href="http://arxiv.org/abs/cond-mat/0102536v1" rel="alternate"/></entry>
<entry><id>oai:arXiv.org:2401.00001v1</id><title>From the daily feed</title>
 <summary>arXiv:2401.00001v1 Announce Type: new
Abstract: What it says.</summary><dc:creator>E. F., G. H.</dc:creator></entry>
<entry><id>http://arxiv.org/abs/2401.00002v1</id><title> </title></entry>
</feed>"""
SCHOLAR = {
    "total": 3,
    "data": [
        {"paperId": "1", "title": "A paper known by number", "year": 2019, "authors": [{"name": "A. B."}],
         "externalIds": {"ArXiv": "1901.00001", "DOI": "10.1000/ABC"}, "publicationDate": "2019-01-02"},
        {"paperId": "2", "title": None},
        None,
        {"paperId": "3", "title": 7},
    ],
}  # fmt: skip


def reasons(found: Read) -> list[str]:
    return [one.reason for one in found.rejected]


def test_bibtex_is_read_entry_by_entry_each_broken_one_with_line_and_reason() -> None:
    found = read_papers(BIBTEX, "mine.bib")
    first, second, third = found.drafts
    assert first.title == "Quantile Regression for Bézier curves in $O(n^2)$"
    assert first.authors == "José François, Jan van der Berg" and first.venue == "Journal of Machines 3"
    assert (first.year, first.arxiv, first.origin) == (2020, "2001.00001", "mine.bib:4")
    assert (second.title, second.url) == ("Two parts", "http://x.org/a_b%20c")
    assert third.title == "Reads nothing"
    assert reasons(found) == ["malformed", "malformed", "malformed", "empty"]
    assert [one.origin for one in found.rejected] == [f"mine.bib:{n}" for n in (7, 9, 10, 12)]
    assert [one.detail.split(":")[0] for one in found.rejected] == [
        "the entry has no end", "the entry says the same field twice", "a comma is missing after the entry's key",
        "no title",
    ]  # fmt: skip


def test_arxiv_atom_of_the_api_and_of_the_daily_feed() -> None:
    found = read_papers(ATOM.encode())
    first, second = found.drafts
    assert (first.title, first.authors, first.abstract) == (
        "Cusps of electrons in two lines",
        "D. P., M. N.",
        "An abstract.",
    )
    assert (first.arxiv, first.doi, first.year) == ("cond-mat/0102536", "10.1063/1.1383585", 2001)
    assert (second.arxiv, second.abstract, second.authors) == ("2401.00001", "What it says.", "E. F., G. H.")
    assert reasons(found) == ["empty"]
    feed = read_atom(ATOM.encode())
    assert (feed.total, feed.start, feed.following) == (40, 0, "")


def test_semantic_scholar_json_in_its_shapes() -> None:
    found = read_papers(json.dumps(SCHOLAR))
    assert found.drafts[0].arxiv == "1901.00001" and found.drafts[0].doi == "10.1000/abc"
    assert reasons(found) == ["empty", "empty", "malformed"]
    paper = SCHOLAR["data"][0]
    for shape in (paper, [paper, None], {"data": [{"citedPaper": paper}]}, {"recommendedPapers": [paper]}):
        assert read_papers(json.dumps(shape)).drafts == (found.drafts[0],)
    lines = read_papers(f"{json.dumps(paper)}\n{json.dumps(paper)}\n")
    assert len(lines.drafts) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "nothing in it"),
        (" \n ", "nothing in it"),
        ("hello", "none of the known formats"),
        ("{", "no valid JSON"),
        ('{"error": "Rate limited"}', "Rate limited"),
        ("[" * 100_000, "nested too deeply"),
        ("<html/>", "no Atom feed but html"),
        ("<rss><channel/></rss>", "no Atom feed but RSS"),
        ("<feed>", "no well-formed XML"),
        ('<?xml version="1.0"?><!DOCTYPE f [<!ENTITY a "b">]><f>&a;</f>', "document type or entities"),
        ('<!DOCTYPE f SYSTEM "http://127.0.0.1:9/x.dtd"><f/>', "document type or entities"),
        ('<?xml version="1.0" encoding="utf-99"?><f/>', "no well-formed XML"),
        (b"@misc{a, title={\xff}}", "not UTF-8"),
        ("@", "no papers in it"),
        ('<feed xmlns="http://www.w3.org/2005/Atom"/>', "no papers in it"),
    ],
)
def test_a_file_that_is_damaged_as_a_whole_is_told_why(text: str | bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_papers(text)


def test_arxivs_error_feed_is_an_error_and_no_paper() -> None:
    text = (
        '<feed xmlns="http://www.w3.org/2005/Atom"><entry><id>http://arxiv.org/api/errors#x</id>'
        "<title>Error</title><summary>incorrect id format</summary></entry></feed>"
    )
    with pytest.raises(ValueError, match="incorrect id format"):
        read_papers(text)


@pytest.mark.parametrize(
    "hostile",
    [
        "@a{k, t={" + "{" * 500_000,
        "@a{\n" * 100_000,
        '@a{k, title="' + '"' * 500_000,
        ('@a{k, title="a"' + ' # "a"' * 6000 + "}\n") * 40,
        ("@a{k, title={" + "\\'" * 15_000 + "}}\n") * 5,
        "<feed xmlns='http://www.w3.org/2005/Atom'><entry><title>" + "<b>" * 100_000,
        '{"title": ' + "9" * 100_000 + "}",
    ],
)
def test_a_hostile_file_takes_seconds_at_most(hostile: str) -> None:
    begun = time.process_time()
    with contextlib.suppress(ValueError):
        assert read_papers(hostile).drafts == ()
    assert time.process_time() - begun < 12


def test_an_entity_bomb_is_refused_before_it_grows() -> None:
    bomb = "<!DOCTYPE b [" + "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "ha"}">' for n in range(12)) + "]>"
    with pytest.raises(ValueError, match="entities"):
        read_papers(f'<?xml version="1.0"?>{bomb}<feed>&e11;</feed>')


def test_size_and_number_are_bounded() -> None:
    with pytest.raises(ValueError, match="at most 100 are read"):
        read_papers("@" * 101, largest=100)
    found = read_papers("".join(f"@misc{{k{n}, title={{Paper {n}}}}}\n" for n in range(12)), most=10)
    assert len(found.drafts) == 10 and "at most 10 entries" in found.rejected[0].detail


@given(
    strategies.one_of(strategies.binary(max_size=300), strategies.text(max_size=300)),
    strategies.sampled_from(["", "@misc{a, title=", "<feed>", '[{"title":']),
)
@settings(max_examples=300, deadline=None)
def test_no_input_raises_anything_but_a_value_error(data: bytes | str, start: str) -> None:
    try:
        read_papers(start.encode() + data if isinstance(data, bytes) else start + data)
    except ValueError as error:
        assert str(error)


def test_titles_lose_what_could_deceive_and_links_that_are_none() -> None:
    made = draft(
        "Safe \u202egnihtyna\x1b[31m, as long as it is read to its end",
        url="javascript:alert(1)",
        authors=["<b>", "\x00"],
        year="199",
    )
    assert isinstance(made, Draft)
    assert (made.title, made.url, made.authors, made.year) == (
        "Safe gnihtyna[31m, as long as it is read to its end",
        "",
        "<b>",
        None,
    )


def stored(database: Database) -> list[sqlite3.Row]:
    return database.connection().execute("SELECT * FROM papers ORDER BY id").fetchall()


def test_the_same_file_twice_stores_everything_once_and_says_so(database: Database) -> None:
    found = read_papers(BIBTEX)
    importer = Importer(database)
    assert len(importer.store(importer.judge(found.drafts), "bibtex").keys) == 3
    before = [tuple(row) for row in stored(database)]
    for again in (importer, Importer(database)):
        made = again.store(again.judge(found.drafts), "bibtex")
        assert made.keys == () and {one.reason for one in made.rejected} == {"exact-duplicate"}
    assert [tuple(row) for row in stored(database)] == before


def test_papers_of_the_catalogue_are_known_by_nearly_the_same_title(database: Database) -> None:
    importer = Importer(database)
    changed = [paper.title.replace(":", " -").upper() for paper in catalogue()]
    assert all(one.same for one in importer.judge([draft(title) for title in changed]))
    nearly = [f"{paper.title}s" for paper in catalogue() if len(paper.title) > 40]
    judged = importer.judge([draft(title) for title in nearly])
    assert all(one.known and not one.wanted for one in judged)
    assert importer.judge([draft("Bread, its crust and its crumb")])[0].wanted


def test_a_paper_is_known_by_its_identifier_under_another_title_and_within_a_file(database: Database) -> None:
    importer = Importer(database)
    first = draft("Its first title", identifiers=["arXiv:2001.00001v1"])
    renamed = draft("Called something else by now", identifiers=["https://arxiv.org/abs/2001.00001v3"])
    by_doi = [
        draft("One name", identifiers=["10.1000/ABC"]),
        draft("Wholly different", identifiers=["doi:10.1000/abc"]),
    ]
    judged = importer.judge([first, renamed, *by_doi])
    assert [one.wanted for one in judged] == [True, False, True, False]
    assert judged[1].known and judged[1].known.because == "the same arXiv identifier"
    importer.store(judged, "form")
    assert not Importer(database).judge([renamed])[0].wanted


def test_a_reader_may_insist_on_a_near_duplicate_but_not_on_the_same_paper(database: Database) -> None:
    importer = Importer(database)
    parts = [draft("A long study of small things, part one"), draft("A long study of small things, part two")]
    importer.store(importer.judge(parts[:1]), "form")
    judged = importer.judge(parts)
    assert [one.same for one in judged] == [True, False] and not judged[1].wanted
    made = importer.store(judged, "form", insist={0, 1})
    assert len(made.keys) == 1 and [one.reason for one in made.rejected] == ["exact-duplicate"]


def test_a_preview_is_the_readers_own_and_agreeing_twice_stores_once(database: Database) -> None:
    with database.transaction() as rows:
        rows.executemany("INSERT INTO sessions VALUES (?, ?, '', '')", [(1, b"1"), (2, b"2")])
    importer = Importer(database)
    preview = Preview("form", importer.judge([draft("One to store"), draft("And one that is not ticked")]), ())
    token = importer.keep(1, preview)
    assert importer.kept(1, token) == preview
    assert importer.kept(2, token) is None and importer.agree(2, token, [0]) is None
    first, second = importer.agree(1, token, [0, 99, -1]), importer.agree(1, token, [0])
    assert first and len(first.keys) == 1 and second and second.keys == ()
    assert [row["title"] for row in stored(database)] == ["One to store"]
    for _ in range(9):
        importer.keep(1, preview)
    assert database.connection().execute("SELECT count(*) FROM previews").fetchone()[0] == 5


def test_two_processes_importing_the_same_at_once_store_it_once(tmp_path: Path) -> None:
    path = tmp_path / "page.sqlite3"
    Database(path).close()
    drafts = [
        draft(f"Paper number {n} of some {n * 7919} that are alike in nothing else {n * 104729}") for n in range(20)
    ]
    made: list[int] = []

    def run() -> None:
        own = Database(path)
        importer = Importer(own)
        judged = importer.judge(drafts)
        ready.wait()
        made.append(len(importer.store(judged, "form").keys))
        own.close()

    ready = threading.Barrier(4)
    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Database(path).transaction() as rows:
        titles = [row[0] for row in rows.execute("SELECT title FROM papers")]
    assert len(titles) == len(set(titles)) == sum(made)


def test_an_import_that_fails_in_the_middle_stores_nothing_and_the_next_one_works(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    importer = Importer(database)
    judged = importer.judge([draft("The first of two"), draft("Second, and the last")])
    monkeypatch.setattr(
        "tercile.page.imports.importer.guess_room", lambda title, abstract: None if "last" in title else ""
    )
    with pytest.raises(sqlite3.IntegrityError):
        importer.store(judged, "form")
    monkeypatch.undo()
    assert stored(database) == []
    assert len(importer.store(judged, "form").keys) == 2
