"""What was done is kept, whatever happened amid writing it."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tritium_builders.history import (
    HistoryEntry,
    append_history,
    history_path,
    now,
    numbers_in_history,
    read_history,
    whoami,
)


def entry(number: int) -> HistoryEntry:
    return HistoryEntry(when=now(), who=whoami(), action="publish", release=number)


def test_no_history_is_an_empty_one(tmp_path: Path) -> None:
    assert read_history(tmp_path, "demo") == []
    assert numbers_in_history(tmp_path, "demo") == set()


@given(cut=st.integers(1, 200), garbage=st.binary(max_size=20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_torn_line_costs_nothing_but_itself(tmp_path: Path, cut: int, garbage: bytes) -> None:
    path = history_path(tmp_path, "demo")
    path.unlink(missing_ok=True)
    for number in (1, 2):
        append_history(tmp_path, "demo", entry(number))
    content = path.read_bytes()
    second = content.index(b"\n") + 1
    torn = content[: max(second, len(content) - cut)] + garbage.replace(b"\n", b"")
    path.write_bytes(torn)
    append_history(tmp_path, "demo", entry(3))
    numbers = [one.release for one in read_history(tmp_path, "demo")]
    assert numbers[0] == 1
    assert numbers[-1] == 3
    assert {1, 3} <= numbers_in_history(tmp_path, "demo")
