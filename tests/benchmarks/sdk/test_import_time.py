"""The benchmark of the SDK's import: that it measures and prints; how long, the machine says."""

from __future__ import annotations

import json

import pytest

from tritium_benchmarks.sdk import import_time


def test_every_kind_is_measured_in_every_run(capsys: pytest.CaptureFixture[str]) -> None:
    import_time.main(["--runs", "2", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert list(printed["seconds"]) == list(import_time.IMPORTS)
    for name, seconds in printed["seconds"].items():
        assert len(seconds) == 2
        assert 0 < min(seconds) <= printed["median_s"][name] <= max(seconds)
    assert set(printed["packages"]) == set(import_time.PACKAGES)


def test_the_table_is_in_milliseconds() -> None:
    table = import_time.render({"grpc + numpy": [0.2, 0.1, 0.4]})
    assert table.splitlines()[-1] == "| `grpc + numpy` | 200 | 100 | 400 |"
    assert "3 fresh processes" in table


def test_no_runs_are_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        import_time.main(["--runs", "0"])
    assert "--runs must be at least 1" in capsys.readouterr().err
