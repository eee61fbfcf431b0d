"""The neighbourhood sizes of scheduled hill climbing, against the published ones."""

import numpy as np
import pytest
from golden import load

from jaxprl.search.schedule import Constant, Growing, steps


@pytest.mark.parametrize(
    "row", load("schedule")["rows"], ids=lambda row: f"{row['max_program_nums']}-{row['ratio_type']}"
)
def test_every_variant_gives_the_published_k(row):
    k = Growing(
        budget=row["max_program_nums"],
        first=row["start_k"],
        last=row["end_k"],
        ratio=row["ratio_type"],
        sine=row["scheduler_type"] == "sin",
        interpolation=row["interpolation_type"],
    )
    assert [k(n) for n in row["program_num"]] == row["k"]


def test_the_table_has_every_published_breakpoint():
    starts, ks = steps(Growing(1_000_000), 1_000_000)
    assert np.stack([starts, ks], axis=1).tolist() == load("schedule")["default_breakpoints"]


def test_a_constant_schedule_is_one_step():
    starts, ks = steps(Constant(250), 1000)
    assert (starts.tolist(), ks.tolist()) == ([0], [250])
