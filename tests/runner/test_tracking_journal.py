from __future__ import annotations

import json
import math
from pathlib import Path

from ftrun.runner.tracking.journal import Journal, read_entries, read_journal


def test_floats_come_back_bit_for_bit(tmp_path: Path) -> None:
    values = {
        "third": 1 / 3,
        "tiny": 5e-324,
        "huge": 1.7976931348623157e308,
        "minus_zero": -0.0,
        "sum": 0.1 + 0.2,
    }
    journal = Journal(tmp_path)
    journal.append(7, values, at=1_767_225_600_123)
    journal.close()
    [entry] = read_journal(journal.path)
    assert (entry.step, entry.time) == (7, 1_767_225_600_123)
    assert {key: value.hex() for key, value in entry.metrics.items()} == {
        key: value.hex() for key, value in values.items()
    }


def test_values_that_json_lacks_survive_in_strict_json(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(1, {"nan": math.nan, "up": math.inf, "down": -math.inf})
    journal.close()

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is not JSON")

    json.loads(journal.path.read_text(), parse_constant=refuse)
    [entry] = read_journal(journal.path)
    assert math.isnan(entry.metrics["nan"])
    assert (entry.metrics["up"], entry.metrics["down"]) == (math.inf, -math.inf)


def test_an_entry_is_in_the_file_before_close(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(1, {"loss": 2.0})
    assert [entry.step for entry in read_journal(journal.path)] == [1]
    journal.close()


def test_a_line_cut_short_costs_only_itself(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(1, {"loss": 2.0})
    journal.close()
    with journal.path.open("ab") as stream:
        stream.write(b'{"step": 2, "time": 17')
    resumed = Journal(tmp_path)
    resumed.append(3, {"loss": 1.0})
    resumed.close()
    assert [entry.step for entry in read_journal(journal.path)] == [1, 3]


def test_reading_goes_on_where_it_stopped_and_leaves_a_half_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for step in range(5):
        journal.append(step, {"a": 1.0, "b": 2.0})
    journal.close()
    with journal.path.open("ab") as stream:
        stream.write(b'{"step": 5')
    first, offset = read_entries(journal.path, 0, limit=4)
    rest, end = read_entries(journal.path, offset, limit=1000)
    assert [entry.step for entry in first + rest] == [0, 1, 2, 3, 4]
    assert read_entries(journal.path, end, limit=1000) == ([], end)
