"""Quantiles of columns of tables: files of every kind, groups, states, threads, other libraries, Ray."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import math
import os
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from tercile import _native
from tercile.quantiles import tables
from tercile.quantiles.tables import GroupedQuantiles, draw, quantiles_of_files

pa = pytest.importorskip("pyarrow")
csv = pytest.importorskip("pyarrow.csv")
pq = pytest.importorskip("pyarrow.parquet")

ROWS = 60_000
Q = [0.05, 0.5, 0.95]


def made() -> pa.Table:
    rng = np.random.default_rng(0)
    latency = np.round(rng.lognormal(3, 1, ROWS), 6)
    region = rng.choice(["eu", "us", "asia"], ROWS, p=[0.6, 0.3, 0.1])
    latency[region == "us"] *= 4
    return pa.table(
        {
            "region": pa.array(region, mask=np.arange(ROWS) % 1000 == 7),
            "latency": pa.array(latency, mask=np.arange(ROWS) % 500 == 3),
            "zone": rng.integers(0, 3, ROWS),
            "note": rng.choice(["a", "b"], ROWS),
        }
    )


TABLE = made()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    pq.write_table(TABLE, folder / "t.parquet", row_group_size=7000)
    csv.write_csv(TABLE, folder / "t.csv")
    text = (folder / "t.csv").read_bytes()
    (folder / "t.csv.gz").write_bytes(gzip.compress(text))
    (folder / "t.csv.bz2").write_bytes(bz2.compress(text))
    (folder / "named-wrongly.txt").write_bytes(pa.compress(text, "zstd", asbytes=True))
    (folder / "t.tsv").write_bytes(text.replace(b",", b"\t"))
    with pa.OSFile(str(folder / "t.arrow"), "wb") as file, pa.ipc.new_file(file, TABLE.schema) as writer:
        writer.write_table(TABLE)
    with pa.OSFile(str(folder / "t.arrows"), "wb") as file, pa.ipc.new_stream(file, TABLE.schema) as writer:
        writer.write_table(TABLE)
    return folder


FILES = ["t.parquet", "t.csv", "t.csv.gz", "t.csv.bz2", "named-wrongly.txt", "t.tsv", "t.arrow", "t.arrows"]


def truth() -> dict[tuple, np.ndarray]:
    region, latency = TABLE["region"].to_pylist(), TABLE["latency"].to_numpy()
    found: dict[tuple, list[float]] = {}
    for name, value in zip(region, latency):
        found.setdefault((name,), []).append(value)
    return {key: np.sort([v for v in values if v == v]) for key, values in found.items()}


def check(table: GroupedQuantiles) -> None:
    expected = truth()
    assert table.rows == ROWS
    assert set(table.groups) == set(expected)
    for answer in table.answers(Q):
        ordered = expected[answer.group]
        assert answer.count == ordered.size
        assert answer.low <= answer.value <= answer.high
        rank = np.searchsorted(ordered, answer.value, side="right") / ordered.size
        assert abs(rank - answer.q) <= 0.004 + 1 / ordered.size
        assert answer.low <= ordered[math.ceil(answer.q * ordered.size) - 1] <= answer.high
    assert sum(answer.missing for answer in table.answers(0.5)) == TABLE["latency"].null_count


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_the_quantiles_of_each_group(folder: Path, name: str) -> None:
    check(quantiles_of_files([folder / name], ["latency"], ["region"], random_state=1, threads=2))


def test_standard_input_takes_csv_and_arrow_streams(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("t.csv", "t.csv.gz", "t.arrows"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((folder / name).read_bytes())))
        check(quantiles_of_files(["-"], ["latency"], ["region"], random_state=1))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((folder / "t.parquet").read_bytes())))
    with pytest.raises(ValueError, match="standard input: a Parquet file is read from its end"):
        quantiles_of_files(["-"], ["latency"])


def test_the_same_seed_and_threads_give_the_same_bytes(folder: Path) -> None:
    options = {"columns": ["latency"], "by": ["region"], "random_state": 5}
    for threads in (1, 3):
        one, two = (quantiles_of_files([folder / "t.parquet"], threads=threads, **options) for _ in range(2))
        assert one.to_bytes() == two.to_bytes()
    assert quantiles_of_files([folder / "t.parquet"], **{**options, "random_state": 6}).to_bytes() != one.to_bytes()


def test_states_of_several_machines_merge_to_the_whole(folder: Path, tmp_path: Path) -> None:
    states = []
    for i in range(4):
        pq.write_table(TABLE.slice(i * ROWS // 4, ROWS // 4), tmp_path / f"{i}.parquet")
        part = quantiles_of_files([tmp_path / f"{i}.parquet"], ["latency"], ["region"])
        states.append(tmp_path / f"{i}.state")
        states[-1].write_bytes(part.to_bytes())
    check(quantiles_of_files(states))
    check(quantiles_of_files([*states[:3], tmp_path / "3.parquet"]))
    with pytest.raises(ValueError, match="must have the same by"):
        quantiles_of_files(states, ["latency"], ["zone"])


def test_states_keep_their_accuracy_when_they_are_merged(folder: Path, tmp_path: Path) -> None:
    for options in ({"k": 500}, {"accuracy": 0.02}):
        state = tmp_path / "s.state"
        state.write_bytes(quantiles_of_files([folder / "t.csv"], ["latency"], **options).to_bytes())
        both = quantiles_of_files([state, folder / "t.parquet"])
        assert both.options == options
        assert both.rows == 2 * ROWS
    with pytest.raises(ValueError, match="must have the same options"):
        quantiles_of_files([state], k=500)


def test_several_columns_and_groups_of_two_columns() -> None:
    table = GroupedQuantiles(["latency", "zone"], by=["region", "note"], random_state=0)
    table.update(TABLE)
    assert len(table.groups) == 8
    key = ("us", "b")
    rows = (np.array(TABLE["region"].to_pylist()) == "us") & (np.array(TABLE["note"].to_pylist()) == "b")
    zones = np.sort(TABLE["zone"].to_numpy()[rows])
    assert table.sketch(key, "zone").quantile(0.5) == zones[math.ceil(0.5 * zones.size) - 1]
    assert table.sketch(key, "zone").count == zones.size


def test_a_reader_of_many_batches_is_read_batch_by_batch() -> None:
    alive: list[int] = []

    def batches():  # type: ignore[no-untyped-def]
        for i in range(200):
            alive.append(i)
            yield pa.record_batch({"x": np.arange(1000.0) + 1000 * i})

    table = GroupedQuantiles(["x"], k=1000, random_state=0)
    table.update(pa.RecordBatchReader.from_batches(pa.schema([("x", pa.float64())]), batches()))
    assert table.rows == 200_000
    assert table.nbytes < 30_000
    assert abs(table.sketch().quantile(0.5) - 100_000) < 1000


def test_polars_and_duckdb_go_in_as_they_are(folder: Path) -> None:
    pl = pytest.importorskip("polars")
    frame = GroupedQuantiles(["latency"], by=["region"], random_state=1)
    frame.update(pl.read_parquet(folder / "t.parquet"))
    check(frame)
    with pytest.raises(TypeError, match=r"call collect\(\) first"):
        frame.update(pl.scan_parquet(folder / "t.parquet"))
    assert pl.DataFrame(frame.answers(Q)).height == 12
    duckdb = pytest.importorskip("duckdb")
    relation = GroupedQuantiles(["latency"], by=["region"], random_state=1)
    relation.update(duckdb.sql(f"select region, latency from '{folder / 't.parquet'}'"))
    check(relation)


def test_relative_accuracy_reaches_into_the_tail() -> None:
    values = np.random.default_rng(3).pareto(1.0, 200_000)
    table = GroupedQuantiles(["x"], accuracy=0.005)
    table.update({"x": values})
    (answer,) = table.answers(0.9999)
    exact = np.quantile(values, 0.9999, method="inverted_cdf")
    assert abs(answer.value - exact) <= 0.005 * exact
    assert answer.low <= exact <= answer.high
    assert GroupedQuantiles.from_bytes(table.to_bytes()).to_bytes() == table.to_bytes()


def test_nulls_nan_infinities_and_odd_types_of_columns() -> None:
    import datetime
    import decimal

    table = GroupedQuantiles(["x"], by=["g"], random_state=0)
    table.update({"x": [1.0, None, math.nan, math.inf], "g": [None, None, None, None]})
    table.update({"x": pa.array([decimal.Decimal("2.5")]), "g": pa.array([datetime.date(2026, 1, 2)])})
    table.update({"x": pa.array([7], pa.uint8()), "g": pa.array([math.nan])})
    table.update({"x": pa.array([None], pa.null()), "g": pa.array(["e"])})
    table.update({"x": pa.array([2.0], pa.float32()), "g": pa.array(["e"]).dictionary_encode()})
    found = {answer.group: answer for answer in table.answers(1.0)}
    assert set(found) == {(None,), ("2026-01-02",), ("e",)}
    assert (found[None,].value, found[None,].count, found[None,].missing) == (math.inf, 3, 2)
    assert (found["e",].value, found["e",].missing) == (2.0, 1)
    empty = GroupedQuantiles(["x"])
    assert math.isnan(empty.answers(0.5)[0].value)


def test_what_cannot_be_done_is_refused_with_the_mend(folder: Path, tmp_path: Path) -> None:
    def refused(error: type[Exception], message: str, *arguments: object, **options: object) -> None:
        with pytest.raises(error, match=message):
            quantiles_of_files(*arguments, **options)

    for name in ("t.parquet", "t.csv", "t.arrow", "t.csv.gz"):
        refused(
            ValueError, rf"{name}: there is no column 'latncy'; did you mean 'latency'\?", [folder / name], ["latncy"]
        )
    refused(TypeError, r"t\.parquet: column 'region' must hold numbers, got", [folder / "t.parquet"], ["region"])
    refused(ValueError, r"t\.csv: column 'note' must hold numbers, and holds 'a|b'", [folder / "t.csv"], ["note"])
    refused(ValueError, "columns must name one column or more; there are: region, latency", [folder / "t.csv"])
    refused(ValueError, "files must name one file or more", [], ["x"])
    refused(FileNotFoundError, "nothing-here", [tmp_path / "nothing-here"], ["x"])
    refused(ValueError, "is a folder; give its files", [tmp_path], ["x"])
    refused(ValueError, "threads must be 1 or more", [folder / "t.csv"], ["latency"], threads=0)
    refused(ValueError, "k must be 8 to 65535", [folder / "t.csv"], ["latency"], k=3)
    refused(ValueError, "at most 2 groups", [folder / "t.csv"], ["latency"], ["region"], max_groups=2)
    (tmp_path / "empty.csv").write_bytes(b"")
    refused(ValueError, r"empty\.csv is empty", [tmp_path / "empty.csv"], ["x"])
    (tmp_path / "odd.bin").write_bytes(bytes(range(256)))
    refused(ValueError, "neither Parquet, Arrow nor CSV", [tmp_path / "odd.bin"], ["x"])
    (tmp_path / "ragged.csv").write_text("a,b\n1,2\n3\n")
    refused(ValueError, r"ragged\.csv: CSV parse error: .*Expected 2 columns, got 1", [tmp_path / "ragged.csv"], ["a"])
    for columns, by in [("latency", ()), (["a"], "b"), ([], ()), (["a"], ["a"])]:
        with pytest.raises((TypeError, ValueError), match="column"):
            GroupedQuantiles(columns, by)
    with pytest.raises(TypeError, match="data must be a pyarrow or polars table"):
        GroupedQuantiles(["x"]).update([1, 2, 3])


def test_half_written_files_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    for name in ("t.parquet", "t.csv.gz", "t.arrow", "named-wrongly.txt"):
        data = (folder / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) * 2 // 3])
        with pytest.raises(ValueError, match=rf"{name}: .*ends too early"):
            quantiles_of_files([tmp_path / name], ["latency"], ["region"])
    state = quantiles_of_files([folder / "t.parquet"], ["latency"]).to_bytes()
    (tmp_path / "half.state").write_bytes(state[:-10])
    with pytest.raises(ValueError, match=r"half\.state: data is truncated or damaged"):
        quantiles_of_files([tmp_path / "half.state"])


def test_hostile_states_are_refused_or_in_order() -> None:
    table = GroupedQuantiles(["latency"], by=["region"], k=20, random_state=0)
    table.update(TABLE.slice(0, 3000))
    data = table.to_bytes()
    rng = np.random.default_rng(0)
    for _ in range(1500):
        body = bytearray(data[9:])
        for position in rng.integers(0, len(body) if rng.random() < 0.3 else 330, 3):
            body[position] = int(rng.choice([0, 34, 44, 48, 57, 91, 255, int(rng.integers(256))]))
        try:
            opened = GroupedQuantiles.from_bytes(data[:5] + zlib.crc32(bytes(body)).to_bytes(4, "little") + bytes(body))
        except ValueError:
            continue
        opened.answers(Q)
        assert GroupedQuantiles.from_bytes(opened.to_bytes()).rows == opened.rows


def test_partition_is_a_stable_sort_by_group_without_nan() -> None:
    rng = np.random.default_rng(4)
    for dtype in (np.float64, np.float32):
        values, codes = rng.standard_normal(5000).astype(dtype), rng.integers(0, 7, 5000).astype(np.int32)
        values[::13] = np.nan
        ordered, starts = _native.partition(values, codes, 9)
        for group in range(9):
            mine = values[codes == group]
            assert ordered[starts[group] : starts[group + 1]].tolist() == mine[~np.isnan(mine)].tolist()
    for codes in ([0, 9], [0, -1]):
        with pytest.raises(ValueError, match="codes must lie in"):
            _native.partition(np.zeros(2), np.array(codes, dtype=np.int32), 9)


def test_progress_grows_to_the_size_of_the_files(folder: Path) -> None:
    for name in ("t.parquet", "t.csv"):
        done: list[int] = []
        totals: set[int | None] = set()
        size = os.path.getsize(folder / name)

        def tell(stage: str, step: int, total: int | None, done=done, totals=totals) -> None:  # type: ignore[no-untyped-def]
            done.append(step)
            totals.add(total)

        quantiles_of_files([folder / name], ["latency"], progress=tell, threads=1)
        assert done == sorted(done)
        assert 0.9 * size < done[-1] <= size
        assert totals == {size}


def test_a_picture_has_a_curve_for_each_group(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    table = GroupedQuantiles(["latency", "zone"], by=["region"], random_state=0)
    table.update(TABLE)
    text = draw(table, tmp_path / "p.svg", [0.5, 0.99]).read_text()
    # Each curve is a line through all levels; each panel has four groups.
    assert text.count('id="line2d_') >= 8
    assert text.count('id="FillBetweenPolyCollection_') == 8
    with pytest.raises(ValueError, match="path must end in"):
        draw(table, tmp_path / "p.txt")
    with pytest.raises(ValueError, match=r"has no values to draw"):
        draw(GroupedQuantiles(["x"]), tmp_path / "q.svg")


def test_ray_gives_what_one_machine_gives(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    import ray

    paths = []
    for i in range(3):
        paths.append(tmp_path / f"{i}.parquet")
        pq.write_table(TABLE.slice(i * ROWS // 3, ROWS // 3), paths[-1])
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        check(tables.quantiles_over_ray(paths, ["latency"], ["region"], random_state=1, tasks=2))
        with pytest.raises(ValueError, match="did you mean 'latency'"):
            tables.quantiles_over_ray(paths, ["latncy"])
    finally:
        ray.shutdown()


def run(*arguments: object) -> tuple[int, str, str]:
    typer_testing = pytest.importorskip("typer.testing")
    from tercile.cli import app

    found = typer_testing.CliRunner().invoke(app, ["quantiles", *map(str, arguments)])
    return found.exit_code, found.stdout, found.stderr


def test_the_command_prints_a_table_or_json_and_saves_and_merges(folder: Path, tmp_path: Path) -> None:
    common = [folder / "t.parquet", "--column", "latency", "--by", "region"]
    code, out, _ = run(*common, "--q", "0.5,0.99")
    assert code == 0
    assert "q=0.99" in out
    assert "(none)" in out
    code, out, _ = run(*common, "--json", "--save", tmp_path / "s.state", "--plot", tmp_path / "p.png", "--seed", 3)
    document = json.loads(out)
    assert code == 0
    assert document["rows"] == ROWS
    assert [len(found["quantiles"]) for found in document["answers"]] == [3] * 4
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
    code, out, _ = run("--merge", tmp_path / "s.state", "--merge", tmp_path / "s.state", "--json")
    assert json.loads(out)["rows"] == 2 * ROWS
    code, out, _ = run(tmp_path / "s.state", "--json", "--q", "0.25")
    assert json.loads(out)["answers"][0]["quantiles"][0]["q"] == 0.25


def test_the_command_says_in_one_line_what_is_wrong(folder: Path) -> None:
    for arguments, message in [
        ([folder / "t.csv", "--column", "Latency"], "did you mean 'latency'?"),
        ([folder / "t.csv", "--column", "latency", "--q", "99"], "write 0.99 for 99%"),
        ([folder / "t.csv", "--column", "latency", "--q", "half"], "--q must be numbers by commas"),
        ([folder / "t.csv", "--column", "latency", "--confidence", "95"], "confidence must lie between 0 and 1"),
        ([], "files must name one file or more"),
    ]:
        code, _, said = run(*arguments)
        assert code == 2
        assert message in " ".join(said.split())
        assert "Traceback" not in said
