"""The table of planned flights, and the two experiments that are measured on it."""

from __future__ import annotations

import numpy as np
import pytest

from tercile.papers import histogram_tools, weighted_quantile_sketch
from tercile.papers.planned_flights import planned_flights


def test_flights_from_one_airport_at_one_hour_share_their_weather() -> None:
    names, table, delay = planned_flights()
    assert table.shape == (delay.size, len(names))
    column = {name: table[:, i] for i, name in enumerate(names)}
    place = (column["airport"] * 365 + column["day"]) * 24 + column["hour"]
    order = np.argsort(place, kind="stable")
    same = place[order][1:] == place[order][:-1]
    for name in ("temp", "wind_gust", "pressure"):
        one, other = column[name][order][1:][same], column[name][order][:-1][same]
        assert ((one == other) | (np.isnan(one) & np.isnan(other))).all()
    assert 0.7 < np.isnan(column["wind_gust"]).mean() < 0.8
    assert np.nanmin(column["built"]) >= 1956
    # The first flight of the year: 5:15 from Newark to Houston, 11 minutes late, on a Boeing of 1999 with 149 seats.
    assert [column[name][0] for name in ("day", "weekday", "hour", "miles", "built", "seats")] == [
        0,
        1,
        5,
        1400,
        1999,
        149,
    ]
    assert delay[0] == 11


@pytest.mark.parametrize("module", [histogram_tools, weighted_quantile_sketch])
def test_a_quick_run_passes_its_own_rule(module: object) -> None:
    pytest.importorskip("xgboost")
    pytest.importorskip("google.protobuf")
    measured = module.experiment("quick", 0)  # type: ignore[attr-defined]
    for check in module.RULE:  # type: ignore[attr-defined]
        if check.quick:
            assert check.passes(measured, check.quick_slack), str(check)


def test_the_area_under_a_line_that_crosses_zero_is_that_of_its_triangles() -> None:
    assert histogram_tools._area(np.array([0.0, 1.0, 3.0]), np.array([1.0, -1.0, 1.0])) == pytest.approx(1.5)


def test_a_value_that_many_share_has_all_their_ranks() -> None:
    ordered = np.array([1.0, 2.0, 2.0, 2.0, 5.0])
    assert histogram_tools._rank_error(ordered, np.array([2.0, 2.0]), np.array([0.5, 0.9])) == pytest.approx(0.05)
