"""MET's contingency lines read back as MET's tools read them: columns by name from its own table, blanks between."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta

import numpy as np
import pytest

from nowcast.verification.compat import met_ctc_lines
from nowcast.verification.scores import csi, far, pod, pool
from tests.report.small_skill import small_evaluation

# The entry of MET's data/table_files/met_header_columns_V12.0.txt for STAT, CTC.
# fmt: off
V12_CTC = [
    "VERSION", "MODEL", "DESC", "FCST_LEAD", "FCST_VALID_BEG", "FCST_VALID_END", "OBS_LEAD", "OBS_VALID_BEG",
    "OBS_VALID_END", "FCST_VAR", "FCST_UNITS", "FCST_LEV", "OBS_VAR", "OBS_UNITS", "OBS_LEV", "OBTYPE", "VX_MASK",
    "INTERP_MTHD", "INTERP_PNTS", "FCST_THRESH", "OBS_THRESH", "COV_THRESH", "ALPHA", "LINE_TYPE", "TOTAL", "FY_OY",
    "FY_ON", "FN_OY", "FN_ON", "EC_VALUE",
]
# fmt: on
COUNTS = small_evaluation(cases=4, leads=3, hours_apart=7.25).counts


def parsed() -> list[dict[str, str]]:
    header, *lines = met_ctc_lines(COUNTS)
    assert header.split() == V12_CTC
    return [dict(zip(V12_CTC, line.split(), strict=True)) for line in lines]


def test_every_line_has_the_columns_of_its_version_and_adds_up() -> None:
    rows = parsed()
    assert len(rows) == np.prod(COUNTS.shape)
    for row in rows:
        assert row["VERSION"].startswith("V12.0") and row["LINE_TYPE"] == "CTC"
        assert int(row["TOTAL"]) == sum(int(row[name]) for name in ("FY_OY", "FY_ON", "FN_OY", "FN_ON"))
        assert row["FCST_THRESH"] == row["OBS_THRESH"] and row["FCST_UNITS"] == row["OBS_UNITS"]
        # The expected correct rate of two categories.
        assert float(row["EC_VALUE"]) == 0.5


def test_valid_times_are_issue_time_and_lead() -> None:
    issued = set()
    for row in parsed():
        hours, minutes, seconds = (int(row["FCST_LEAD"][at : at + 2]) for at in (0, 2, 4))
        lead = timedelta(hours=hours, minutes=minutes, seconds=seconds)
        valid = datetime.strptime(row["FCST_VALID_BEG"], "%Y%m%d_%H%M%S")
        assert row["FCST_VALID_END"] == row["OBS_VALID_BEG"] == row["OBS_VALID_END"] == row["FCST_VALID_BEG"]
        assert lead / timedelta(minutes=1) in COUNTS.lead_minutes and row["OBS_LEAD"] == "000000"
        issued.add(valid - lead)
    assert sorted(issued) == [time.item() for time in COUNTS.issue_times]


def test_aggregating_the_lines_gives_the_pooled_scores() -> None:
    """As Stat-Analysis aggregates CTC to CTS: CSI, PODY and FAR of the summed cells."""
    sums: dict[tuple[str, str], np.ndarray] = defaultdict(lambda: np.zeros(3, dtype=np.int64))
    for row in parsed():
        sums[row["MODEL"], row["FCST_THRESH"]] += [int(row[name]) for name in ("FY_OY", "FY_ON", "FN_OY")]
    together = pool(COUNTS, ("case", "lead_time"))
    for (model, threshold), (hits, false_alarms, misses) in sums.items():
        at = COUNTS.models.index(model), COUNTS.thresholds.tolist().index(float(threshold.removeprefix(">=")))
        assert hits / (hits + false_alarms + misses) == pytest.approx(csi(together)[at])
        assert hits / (hits + misses) == pytest.approx(pod(together)[at])
        assert false_alarms / (hits + false_alarms) == pytest.approx(far(together)[at])
    assert len(sums) == len(COUNTS.models) * COUNTS.thresholds.size
