"""Every kind of source gives the units a person would count, and says what it could not read."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from tercile.filters.data import Example, read

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
Image = pytest.importorskip("PIL.Image")


def contents(source, **options):
    return [example.content for example in read(source, **options)]


def with_rejections(source, **options):
    turned_away = []
    units = [e.content for e in read(source, rejected=turned_away.append, **options)]
    return units, [(r.reason, r.origin.rsplit("/", 1)[-1]) for r in turned_away]


def stdin_of(monkeypatch, data: bytes):
    """Standard input as a pipe gives it: no seeking, a few bytes at a time."""

    class Pipe(io.RawIOBase):
        left = data

        def readable(self):
            return True

        def readinto(self, buffer):
            chunk, self.left = self.left[:7], self.left[7:]
            buffer[: len(chunk)] = chunk
            return len(chunk)

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BufferedReader(Pipe())))


# --- text ---


def test_a_text_without_blank_lines_is_read_line_by_line(tmp_path):
    (tmp_path / "a.txt").write_text("one\r\ntwo\n  three  \nfour")
    assert contents(tmp_path / "a.txt") == ["one", "two", "  three  ", "four"]


def test_wrapped_prose_is_read_paragraph_by_paragraph_with_the_line_where_it_starts(tmp_path):
    (tmp_path / "a.txt").write_text("\nfirst\nstill first\n\n \nsecond\n\nthird\n\n")
    units = list(read(tmp_path / "a.txt"))
    assert [e.content for e in units] == ["first\nstill first", "second", "third"]
    assert [e.origin.rsplit(":", 1)[1] for e in units] == ["2", "6", "8"]


def test_one_stray_blank_line_in_a_list_of_sentences_does_not_join_them(tmp_path):
    sentences = [f"sentence {i}" for i in range(100)]
    (tmp_path / "a.txt").write_text("\n".join([*sentences[:50], "", *sentences[50:]]))
    assert contents(tmp_path / "a.txt") == sentences


def test_the_unit_can_be_said_instead_of_guessed(tmp_path):
    (tmp_path / "a.txt").write_text("a\nb\n\nc\n")
    assert contents(tmp_path / "a.txt", unit="line") == ["a", "b", "c"]
    assert contents(tmp_path / "a.txt", unit="paragraph") == ["a\nb", "c"]
    assert contents(tmp_path / "a.txt", unit="file") == ["a\nb\n\nc\n"]
    with pytest.raises(ValueError, match="unit must be one of line, paragraph, file or None, got 'page'"):
        read(tmp_path / "a.txt", unit="page")


def test_a_line_that_is_not_utf8_is_turned_away_and_the_rest_is_read(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"good\n" + "caf\xe9\n".encode("latin-1") + "fin é\n".encode())
    assert with_rejections(tmp_path / "a.txt") == (["good", "fin é"], [("undecodable", "a.txt:2")])


def test_without_a_callback_the_first_bad_record_is_an_error_that_names_it(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"good\ncaf\xe9\n")
    with pytest.raises(ValueError, match=r"a\.txt:2: undecodable: not UTF-8: byte 0xe9 at 3"):
        contents(tmp_path / "a.txt")


def test_a_file_all_in_another_encoding_is_one_clear_error(tmp_path):
    (tmp_path / "a.txt").write_bytes("é\nè\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"no usable unit: 2 turned away, the first as .*not UTF-8"):
        with_rejections(tmp_path / "a.txt")
    (tmp_path / "b.txt").write_text("one\ntwo", encoding="utf-16")
    with pytest.raises(ValueError, match=r"b\.txt is UTF-16 text; convert it: iconv -f utf-16 -t utf-8"):
        contents(tmp_path / "b.txt")


def test_a_byte_order_mark_is_not_part_of_the_text(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo", encoding="utf-8-sig")
    assert contents(tmp_path / "a.txt") == ["one", "two"]


def test_a_binary_file_with_a_text_name_is_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes(bytes(range(256)) * 4)
    with pytest.raises(ValueError, match=r"a\.txt is not text \(it has NUL bytes\)"):
        contents(tmp_path / "a.txt")


def test_a_line_beyond_the_limit_is_skipped_and_the_next_one_read(tmp_path, monkeypatch):
    monkeypatch.setattr("tercile.filters.data.streams.LONGEST_LINE", 10)
    (tmp_path / "a.txt").write_text("short\n" + "x" * 35 + "\n123456789\nend")
    units, turned_away = with_rejections(tmp_path / "a.txt", unit="line")
    assert units == ["short", "123456789", "end"]
    assert turned_away == [("over-long", "a.txt:2")]


def test_gzip_is_undone_whatever_the_name(tmp_path):
    for name in ("a.txt.gz", "a.txt"):
        (tmp_path / name).write_bytes(gzip.compress(b"one\ntwo"))
        assert contents(tmp_path / name) == ["one", "two"]


@pytest.mark.parametrize("cut", [5, 15, 400, -1])
def test_a_truncated_gzip_is_an_error_that_names_the_file(tmp_path, cut):
    lines = "\n".join(str(i * 7919) for i in range(400))
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(lines.encode())[:cut])
    with pytest.raises(ValueError, match=r"a\.txt\.gz: the gzip data is truncated or corrupt"):
        contents(tmp_path / "a.txt.gz")


def test_gzip_whose_checksum_is_wrong_is_an_error(tmp_path):
    data = bytearray(gzip.compress(b"one\ntwo\n" * 100))
    data[-6] ^= 1
    (tmp_path / "a.txt.gz").write_bytes(data)
    with pytest.raises(ValueError, match="truncated or corrupt"):
        contents(tmp_path / "a.txt.gz")


# --- records ---


def test_jsonl_gives_text_label_and_short_fields(tmp_path):
    record = {"text": "a", "label": 1, "year": 1999, "tags": ["x"], "note": "n", "long": "z" * 500}
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n\n" + '"bare"\n')
    first, second = read(tmp_path / "a.jsonl")
    assert (first.content, first.label, first.metadata) == ("a", 1, {"year": 1999, "note": "n"})
    assert (second.content, second.label, second.origin) == ("bare", None, f"{tmp_path}/a.jsonl:3")


def test_broken_json_lines_are_turned_away_each_with_its_reason(tmp_path):
    rows = [
        b'{"text": "ok"}',
        b'{"text": ',
        b'{"body": "x"}',
        b'{"text": 3}',
        b"[1, 2]",
        b'{"text": "\xff"}',
        b"[" * 100_000,
        b'{"text": "fin"}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(rows))
    units, turned_away = with_rejections(tmp_path / "a.jsonl")
    assert units == ["ok", "fin"]
    reasons = ["malformed"] * 4 + ["undecodable", "malformed"]
    assert turned_away == [(reason, f"a.jsonl:{i}") for i, reason in enumerate(reasons, start=2)]


def test_a_wrong_column_is_one_error_that_lists_the_fields(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "x", "id": 1}\n{"body": "y", "id": 2}\n')
    with pytest.raises(ValueError, match="no field 'text'; the record has 'body', 'id'; pass column="):
        with_rejections(tmp_path / "a.jsonl")
    assert contents(tmp_path / "a.jsonl", column="body") == ["x", "y"]
    assert [e.label for e in read(tmp_path / "a.jsonl", column="body", label_column="id")] == [1, 2]


def test_a_json_array_is_refused_with_the_way_to_convert_it(tmp_path):
    (tmp_path / "a.json").write_text('[\n  {"text": "a"}\n]')
    with pytest.raises(ValueError, match=r"is one JSON array; write one object a line: jq -c"):
        contents(tmp_path / "a.json")


def test_csv_keeps_quoted_line_ends_and_turns_bad_rows_away(tmp_path):
    (tmp_path / "a.csv").write_bytes(
        b'id,text,label\n1,"two\nlines, and a comma",7\n2,short\n3,caf\xe9,1\n4,"said ""so""",cat\n'
    )
    turned_away = []
    units = list(read(tmp_path / "a.csv", rejected=turned_away.append))
    assert [(e.content, e.label) for e in units] == [("two\nlines, and a comma", 7), ('said "so"', "cat")]
    assert [(r.reason, r.origin[-1]) for r in turned_away] == [("malformed", "4"), ("undecodable", "5")]


def test_csv_written_by_pythons_writer_comes_back_unchanged(tmp_path):
    texts = ["plain", 'quo"te', "a,b", "line\nend", " spaced ", "x" * 200_000, "é漢😀"]
    with (tmp_path / "a.tsv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerows([["text"], *[[text] for text in texts]])
    limit = csv.field_size_limit()
    assert contents(tmp_path / "a.tsv") == texts
    assert csv.field_size_limit() == limit


def test_csv_without_the_column_is_an_error_that_lists_the_header(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="no column 'text'; say which to read with column=, one of 'a', 'b'"):
        contents(tmp_path / "a.csv")
    with pytest.raises(ValueError, match="no column 'c'; there are 'a', 'b'"):
        contents(tmp_path / "a.csv", column="c")


def test_parquet_gives_texts_labels_and_rejects_nulls(tmp_path):
    table = pa.table({"text": ["a", None, "c"], "label": [0, 1, 2], "vector": [[1.0], [2.0], [3.0]]})
    pq.write_table(table, tmp_path / "a.parquet")
    turned_away = []
    units = list(read(tmp_path / "a.parquet", rejected=turned_away.append))
    assert [(e.content, e.label, e.metadata) for e in units] == [("a", 0, {}), ("c", 2, {})]
    assert [(r.reason, r.detail) for r in turned_away] == [("malformed", "the field is null")]


def test_parquet_text_can_be_dictionary_coded_large_or_binary(tmp_path):
    texts = ["a", "b", "a"]
    for i, column in enumerate(
        [
            pa.array(texts).dictionary_encode(),
            pa.array(texts, pa.large_string()),
            pa.array(texts, pa.binary()),
        ]
    ):
        pq.write_table(pa.table({"quote": column}), tmp_path / f"{i}.parquet")
        assert contents(tmp_path / f"{i}.parquet") == texts


def test_parquet_strings_that_are_not_utf8_are_turned_away_one_by_one(tmp_path):
    bad = pa.array([b"good", b"\xff\xfe", b"fine"]).view(pa.string())
    pq.write_table(pa.table({"text": bad}), tmp_path / "a.parquet")
    assert with_rejections(tmp_path / "a.parquet") == (["good", "fine"], [("undecodable", "a.parquet:1")])


def test_parquet_pictures_are_decoded(tmp_path):
    file = io.BytesIO()
    picture = np.arange(48, dtype=np.uint8).reshape(6, 8)
    Image.fromarray(picture).save(file, "PNG")
    rows = [{"bytes": file.getvalue(), "path": "a.png"}, {"bytes": file.getvalue()[:40], "path": "b.png"}]
    pq.write_table(pa.table({"image": rows, "label": [4, 5]}), tmp_path / "a.parquet")
    turned_away = []
    (unit,) = read(tmp_path / "a.parquet", rejected=turned_away.append)
    assert unit.label == 4 and np.array_equal(unit.content, picture)
    assert [r.reason for r in turned_away] == ["undecodable"]


@pytest.mark.parametrize("keep", [0, 3, 100, -1])
def test_a_truncated_parquet_file_is_an_error_that_names_it(tmp_path, keep):
    pq.write_table(pa.table({"text": ["a"] * 100}), tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(data[:keep])
    with pytest.raises(ValueError, match=r"a\.parquet: not Parquet, or truncated or corrupt"):
        contents(tmp_path / "a.parquet")


# --- pictures and arrays ---


def test_a_folder_of_pictures_takes_labels_from_its_subfolders(tmp_path):
    rng = np.random.default_rng(0)
    grey, colour = rng.integers(0, 255, (5, 4), np.uint8), rng.integers(0, 255, (5, 4, 3), np.uint8)
    for name, picture in (("cat/1.png", grey), ("dog/deep/2.png", colour), ("3.png", grey)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(tmp_path / name)
    (tmp_path / "cat" / "broken.png").write_bytes((tmp_path / "cat" / "1.png").read_bytes()[:50])
    (tmp_path / "README.txt").write_text("about")
    turned_away = []
    found = {e.origin.rsplit("/", 1)[1]: e for e in read(tmp_path, rejected=turned_away.append)}
    assert {name: e.label for name, e in found.items()} == {"1.png": "cat", "2.png": "dog", "3.png": None}
    assert np.array_equal(found["1.png"].content, grey) and np.array_equal(found["2.png"].content, colour)
    assert [(r.reason, r.origin.rsplit("/", 1)[1]) for r in turned_away] == [("undecodable", "broken.png")]


def test_palette_and_alpha_pictures_become_plain_colours(tmp_path):
    picture = Image.fromarray(np.full((3, 3, 3), (200, 10, 20), np.uint8))
    picture.quantize(4).save(tmp_path / "a.png")
    picture.convert("RGBA").save(tmp_path / "b.png")
    assert [c.shape for c in contents(tmp_path)] == [(3, 3, 3), (3, 3, 3)]


def test_npz_gives_arrays_with_labels(tmp_path):
    images = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    np.savez(tmp_path / "a.npz", images=images, labels=np.array([3, 1]))
    units = list(read(tmp_path / "a.npz"))
    assert [e.label for e in units] == [3, 1]
    assert np.array_equal(np.stack([e.content for e in units]), images)


def test_npz_that_does_not_fit_together_or_holds_pickles_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((3, 2)), labels=np.zeros(2))
    with pytest.raises(ValueError, match=r"3 units in 'images', labels of shape \(2,\)"):
        contents(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", images=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match=r"b\.npz: cannot be read"):
        contents(tmp_path / "b.npz")
    (tmp_path / "c.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"c\.npz: not an \.npz, or truncated"):
        contents(tmp_path / "c.npz")


# --- folders, standard input, iterables ---


def test_a_folder_of_texts_is_a_document_a_file(tmp_path):
    (tmp_path / "b.txt").write_text("second\n\ndocument")
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / ".hidden.txt").write_text("no")
    assert contents(tmp_path) == ["first", "second\n\ndocument"]


def test_a_folder_of_shards_is_read_in_order_of_names(tmp_path):
    for i in (1, 0):
        (tmp_path / f"part-{i}.jsonl.gz").write_bytes(gzip.compress(json.dumps({"text": str(i)}).encode()))
    assert contents(tmp_path) == ["0", "1"]


def test_a_folder_without_data_or_with_two_kinds_is_an_error(tmp_path):
    (tmp_path / "code.py").write_text("x")
    with pytest.raises(ValueError, match="holds no file that can be read as data"):
        contents(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "a.jsonl").write_text('{"text": "x"}')
    with pytest.raises(ValueError, match=r"several kinds \(1 jsonl, 1 text\)"):
        contents(tmp_path)


def test_missing_and_empty_sources_are_errors(tmp_path):
    with pytest.raises(ValueError, match="nowhere does not exist"):
        read(tmp_path / "nowhere")  # before anything is read
    for name in ("a.txt", "a.jsonl", "a.csv", "blank.txt"):
        (tmp_path / name).write_text("\n \n" if name == "blank.txt" else "")
        with pytest.raises(ValueError, match="is empty: there is no unit in it"):
            contents(tmp_path / name)
    with pytest.raises(ValueError, match="the iterable is empty"):
        contents([])


def test_a_single_picture_is_refused_with_the_mend(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="is one picture; give the folder that holds them all"):
        contents(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"text": "a"}\n{"text": "b"}\n', ["a", "b"]),
        (b"a line\n{not json}\n", ["a line", "{not json}"]),
        (b"{braces} first\nsecond\n", ["{braces} first", "second"]),
        (gzip.compress(b"a\nb\n"), ["a", "b"]),
        (b"wrapped\nprose\n\nmore\nof it\n", ["wrapped\nprose", "more\nof it"]),
    ],
)
def test_standard_input_tells_text_from_jsonl(monkeypatch, data, expected):
    stdin_of(monkeypatch, data)
    units = list(read("-"))
    assert [e.content for e in units] == expected
    assert units[0].origin == "stdin:1"


def test_parquet_on_standard_input_and_no_input_are_clear_errors(monkeypatch):
    stdin_of(monkeypatch, b"PAR1....")
    with pytest.raises(ValueError, match="stdin holds parquet, which cannot be streamed"):
        contents("-")
    stdin_of(monkeypatch, b"")
    with pytest.raises(ValueError, match="stdin is empty"):
        contents("-")


def test_a_file_without_ending_is_told_by_its_content(tmp_path):
    (tmp_path / "lines").write_text("a\nb")
    (tmp_path / "records").write_text('{"text": "a"}\n')
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "table")
    assert [contents(tmp_path / n) for n in ("lines", "records", "table")] == [["a", "b"], ["a"], ["a"]]


def test_an_iterable_gives_texts_arrays_pairs_records_and_examples_as_they_are():
    array = np.ones((2, 2))
    ready = Example("ready", "x", "mine:1")
    items = ["a", array, (array, 3), ("b", "cat"), {"text": "c", "label": 1, "n": 2}, ready]
    units = list(read(iter(items)))
    assert [e.label for e in units] == [None, None, 3, "cat", 1, "x"]
    assert [e.origin for e in units] == ["item 0", "item 1", "item 2", "item 3", "item 4", "mine:1"]
    assert units[1].content is array and units[4].metadata == {"n": 2} and units[5] is ready


def test_wrong_types_are_type_errors_that_name_the_item():
    for source in (3, b"bytes", {"text": "a"}):
        with pytest.raises(TypeError, match="source must be a path, '-' or an iterable"):
            read(source)
    for item in (3, None, ["nested"], b"bytes", np.float64(1)):
        with pytest.raises(TypeError, match="item 1 is"):
            contents(["a", item])


def test_reading_is_lazy():
    units = read(f"text {i}" for i in itertools.count())
    assert [next(units).content for _ in range(3)] == ["text 0", "text 1", "text 2"]


@pytest.mark.parametrize(("module", "name"), [("pyarrow", "a.parquet"), ("PIL", "folder")])
def test_a_missing_dependency_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch, module, name):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    (tmp_path / "folder").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "folder" / "a.png")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"needs .*: pip install"):
        contents(tmp_path / name)
