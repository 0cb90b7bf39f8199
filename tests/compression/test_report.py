from __future__ import annotations

import json
import re
from fractions import Fraction
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercile.compression.report import read, render, write
from tercile.compression.report.layers import rows
from tercile.compression.report.losses import quantiles
from tercile.drawing import Scale, log_ticks, ticks
from tercile.wording import bound, loss, times, walk_sentences

VOID = {"meta", "br"}


class Page(HTMLParser):
    """Checks that every tag is closed in order, and collects ids, links and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), f"{tag} has {name}"
            assert name != "src"
            if name == "id":
                self.ids.append(str(value))
            if name == "href":
                self.links.append(str(value))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words += data


def drawings(page: str) -> list[ElementTree.Element]:
    found = re.findall(r'<svg viewBox="[^"]*" role="img".*?</svg>', page, re.S)
    return [ElementTree.fromstring(svg) for svg in found]


def test_the_same_files_give_the_same_bytes_and_the_page_is_well_formed(small_folder, tmp_path) -> None:
    folder = small_folder()
    page = render(folder)
    assert write(folder, tmp_path / "report.html").read_bytes() == page.encode() == render(folder).encode()
    parsed = Page(page)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert {link.removeprefix("#") for link in parsed.links} <= set(parsed.ids)
    assert parsed.tags.count("h1") == 1 and "script" not in parsed.tags


def test_the_page_asks_for_nothing_from_elsewhere(small_folder) -> None:
    page = render(small_folder())
    assert not re.search(r"https?://|//\w|@import|url\(|<link|<img|<iframe", page)
    assert "default-src 'none'" in page


def test_the_page_says_what_the_files_say(small_folder, certificate, details) -> None:
    words = " ".join(Page(render(small_folder())).words.split())
    for told in (
        certificate["statement"],
        "90.9 MB",
        certificate["original"]["weights_sha256"],
        certificate["digest"],
        certificate["small"]["files"]["model.safetensors"],
        "torch 2.13.0+cpu",
        "tercile verify .",
        "All 38 layers",
        "near-duplicate of english.jsonl.gz:17",
        *(layer["name"] for layer in details["layers"]),
        *(unit["excerpt"] for unit in details["worst"]),
        *(rejected for rejected in details["selection"]["rejected"]),
    ):
        assert told in words, told
    assert words.count("not tested") == len(details["ladder"]) - len(certificate["walk"])


def test_markup_in_data_stays_text(small_folder, certificate, details) -> None:
    plain = Page(render(small_folder())).tags
    evil = '"><img src=x onerror=alert(1)><script>alert(1)</script>'
    details["worst"][0] |= {"excerpt": evil, "origin": evil}
    details["model"]["skipped"] = [[evil, evil]]
    details["layers"][0] |= {"name": evil, "scheme": evil, "kind": evil}
    details["selection"]["rejected"] |= {evil: 1}
    details["selection"]["samples"][evil] = [{"origin": evil, "detail": evil, "excerpt": evil}]
    certificate["statement"] = certificate["loss"] = certificate["method"] = evil
    certificate["original"]["source"] = evil
    certificate["versions"][evil] = evil
    certificate["small"]["files"][evil] = evil
    parsed = Page(render(small_folder(certificate, details)))
    assert set(parsed.tags) == set(plain) and parsed.words.count(evil) > 10


def test_drawings_are_whole_stay_inside_their_frame_and_speak_to_a_screen_reader(small_folder) -> None:
    found = drawings(render(small_folder()))
    assert len(found) == 6  # three, each for a desk and for a telephone
    for svg in found:
        assert len(svg.get("aria-label", "")) > 40
        _, _, width, height = map(float, svg.get("viewBox", "").split())
        for node in svg.iter():
            for name in ("x", "x1", "x2", "cx"):
                assert 0 <= float(node.get(name, 0)) <= width
            for name in ("y", "y1", "y2", "cy"):
                assert 0 <= float(node.get(name, 0)) <= height


def test_dots_of_the_ladder_stand_where_size_and_loss_put_them(small_folder, certificate, details) -> None:
    svg = drawings(render(small_folder()))[0]
    dots = [node for node in svg.iter("circle") if node.get("class") == "selection"]
    seen = [rung for rung in details["ladder"] if rung["selection_loss"] is not None]
    assert len(dots) == len(seen)
    for places, values in (
        ([float(dot.get("cx")) for dot in dots], [rung["nbytes"] for rung in seen]),
        ([float(dot.get("cy")) for dot in dots], [np.log(rung["selection_loss"]) for rung in seen]),
    ):
        line = np.polynomial.Polynomial.fit(values, places, 1)
        np.testing.assert_allclose(line(np.array(values)), places, atol=0.2)
    passed = [node for node in svg.iter("circle") if node.get("class") == "passed dot"]
    failed = [node for node in svg.iter("path") if node.get("class") == "failed"]
    assert len(passed) == sum(step["certified"] for step in certificate["walk"])
    assert len(failed) == 2  # the two strokes of one cross


def test_a_bound_below_the_promise_is_drawn_below_its_line(small_folder, certificate) -> None:
    svg = drawings(render(small_folder()))[2]
    promise = next(float(n.get("y1")) for n in svg.iter("line") if n.get("class") == "promise")
    for step, group in zip(certificate["walk"], svg.iter("g")):
        top = min(float(node.get("y2")) for node in group.iter("line"))
        assert (top >= promise) == step["certified"]


def test_bars_of_the_losses_count_every_unit_once(small_folder, details) -> None:
    for svg in drawings(render(small_folder()))[4:]:
        told = [title.text or "" for title in svg.iter("title")]
        counted = sum(int(text.split()[0]) for text in told)
        beyond = [int(t.text.split()[0]) for t in svg.iter("text") if " more, up to " in (t.text or "")]
        assert counted + sum(beyond) == len(details["losses"])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_a_quantile_is_the_least_loss_that_enough_units_stay_at_or_below(values) -> None:
    for level, found in quantiles(np.array(values)):
        enough = [v for v in values if sum(w <= v for w in values) >= level * len(values) - 1e-9]
        assert found == min(enough)


def test_losses_of_zero_and_one_are_counted_instead_of_drawn(small_folder, certificate, details) -> None:
    details["losses"] = [0.0] * 993 + [1.0] * 7
    page = render(small_folder(certificate, details))
    assert len(drawings(page)) == 4
    assert re.search(r"<b>993</b> kept it and <b>7</b> did not", page)


def test_a_model_of_few_layers_is_shown_layer_by_layer(small_folder, certificate, details) -> None:
    details["layers"] = details["layers"][:5]
    words = Page(render(small_folder(certificate, details))).words
    assert words.count("encoder.layer.0.attention.self.query") == 2  # in the bars and in the table


def test_blocks_weigh_their_layers_by_the_number_of_weights(details) -> None:
    for row in rows(details["layers"]):
        members = [layer for layer in details["layers"] if layer["name"].startswith(row.name)]
        stored = sum(layer["nbytes"] for layer in members)
        weights = sum(np.prod(layer["shape"]) for layer in members)
        assert row.nbytes == stored and row.bits == pytest.approx(8 * stored / weights, rel=1e-3)


@pytest.mark.parametrize("case", ["all passed", "one rung", "quantile", "nothing rejected", "no worst", "zero loss"])
def test_unusual_outcomes_have_a_page_too(case, small_folder, certificate, details) -> None:
    if case == "all passed":
        certificate["walk"] = certificate["walk"][:-1]
    if case == "one rung":
        certificate["walk"] = certificate["walk"][:1]
        certificate["rung"] = certificate["walk"][0]["rung"]
        details["ladder"] = details["ladder"][33:34]
    if case == "quantile":
        certificate["quantile"] = 0.95
    if case == "nothing rejected":
        details["selection"] |= {"rejected": {}, "samples": {}}
    if case == "no worst":
        details["worst"] = []
    if case == "zero loss":
        certificate["walk"][0] |= {"risk": 0.0}
        details["losses"] = [0.0] * 999 + [1e-7]
        details["ladder"][0] |= {"predicted_loss": 0.0, "selection_loss": None}
    words = " ".join(Page(render(small_folder(certificate, details))).words.split())
    expected = {
        "all passed": "No rung failed",
        "one rung": "that one passed",
        "quantile": "95% quantile of the loss",
        "nothing rejected": "Nothing had to be turned away",
        "no worst": "No example lost anything",
        "zero loss": "lose 0 or less",
    }
    assert expected[case] in words


def test_the_walk_is_told_as_it_went(certificate) -> None:
    passed, stopped = walk_sentences(certificate)
    assert "6 rungs passed" in passed and "number 33 (7.90 MB)" in passed
    assert "stopped at rung 39" in stopped and "more than the 0.02 allowed" in stopped


@pytest.mark.parametrize("name", ["certificate", "details"])
@pytest.mark.parametrize("damage", ["missing", "not json", "other format", "newer", "part lost", "inner part lost"])
def test_a_damaged_folder_is_refused_by_name_and_nothing_is_written(damage, name, small_folder, tmp_path) -> None:
    folder = small_folder()
    file = folder / f"{name}.json"
    content = json.loads(file.read_text())
    if damage == "missing":
        file.unlink()
    elif damage == "not json":
        file.write_text(file.read_text()[:-20])
    else:
        {
            "other format": lambda: content.update(format="gguf"),
            "newer": lambda: content.update(version=2),
            "part lost": lambda: content.pop({"certificate": "walk", "details": "ladder"}[name]),
            "inner part lost": lambda: content[{"certificate": "small", "details": "selection"}[name]].clear(),
        }[damage]()
        file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="small" if damage == "inner part lost" else f"{name}.json"):
        write(folder, tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_a_report_that_cannot_be_written_leaves_the_old_one(small_folder, tmp_path, monkeypatch) -> None:
    target = tmp_path / "report.html"
    target.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"report\.html"):
        write(small_folder(), target)
    assert target.read_text() == "old" and len(list(tmp_path.iterdir())) == 2


def test_read_gives_back_both_files(small_folder, certificate, details) -> None:
    assert read(small_folder()) == (certificate, details)


@given(st.integers(1, 10**12), st.integers(1, 10**12))
def test_how_many_times_smaller_is_never_flattered(before, after) -> None:
    told, exact = Fraction(times(before, after)), Fraction(before, after)
    assert told <= exact * (1 + Fraction(1, 10**8)) and exact - told < Fraction(11, 100)


@given(st.floats(1e-6, 1))
def test_a_printed_bound_is_not_below_the_bound(value) -> None:
    assert float(bound(value)) >= value * (1 - 1e-9) - 1e-10
    assert abs(float(loss(value)) - value) <= 0.05 * value


@given(st.floats(1e-3, 1e3), st.floats(1.01, 1e4))
def test_ticks_are_few_round_and_inside(low, factor) -> None:
    high = low * factor
    for found in (ticks(low, high, 6), log_ticks(low, high)):
        assert all(low * 0.998 <= tick <= high * 1.002 for tick in found)
        assert found == sorted(set(found))
    assert 1 <= len(ticks(low, high, 6)) <= 6


def test_a_scale_keeps_what_is_outside_on_its_edge() -> None:
    scale = Scale(0.001, 1.0, 300, 0, log=True)
    assert [scale(value) for value in (1e-9, 0.001, 1.0, 5.0)] == [300, 300, 0, 0]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_words_stand_out_from_their_background(scheme, small_folder) -> None:
    """WCAG AA asks for 4.5 to 1."""
    root = re.findall(r":root \{(.*?)\}", render(small_folder()), re.S)[scheme]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})\b", root))

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    for ink in ("ink", "soft", "accent", "good", "bad", "promise"):
        for paper in ("paper", "card"):
            light, dark = sorted((luminance(colours[ink]), luminance(colours[paper])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, paper)
