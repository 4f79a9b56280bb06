"""The benchmarks of the SDK: that they measure what they say; how much, the machine says."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tritium_benchmarks.sdk import faults, overhead
from tritium_benchmarks.sdk.faults import Ended, Scenario
from tritium_benchmarks.sdk.quick_server import APP, QuickServer, quick_server
from tritium_client import Client


@pytest.fixture(scope="module")
def quick() -> Iterator[QuickServer]:
    with quick_server() as running:
        yield running


@pytest.mark.e2e
def test_the_quick_server_answers_texts_and_pairs(quick: QuickServer) -> None:
    with Client(quick.url, app=APP) as client:
        for image in (None, overhead.picture()):
            answer = client.classify(text="red apple", image=image)
            assert answer.label == "label 0"
            assert answer.probability == pytest.approx(0.91)


@pytest.mark.e2e
def test_both_ways_of_asking_are_measured(
    quick: QuickServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(overhead, "ASYNC_BLOCK_CALLS", 70)
    arguments = ["--url", quick.url, "--app", APP, "--calls", "4", "--blocks", "2", "--json"]
    overhead.main(arguments)
    printed = json.loads(capsys.readouterr().out)
    for name in ("text", "text and picture"):
        one, many = printed["one_in_flight"][name], printed["many_in_flight"][name]
        assert one["calls"] == 4
        assert one["over_bare_us"] == sorted(one["over_bare_us"])
        assert one["difference_us"] == sorted(one["difference_us"])
        assert one["sdk_cpu_us"] > 0
        assert many["sdk_per_s"] > 0
        assert many["ratio"] == sorted(many["ratio"])
    rows = overhead.render(printed).splitlines()
    assert [row.split("|")[1].strip() for row in rows[2:5]] == [
        "text",
        "text and picture",
        "target",
    ]


def test_who_is_first_takes_turns() -> None:
    order: list[str] = []
    seconds = overhead.take_turns([lambda: order.append("a"), lambda: order.append("b")], 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert [len(one) for one in seconds] == [3, 3]


def test_half_a_server_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        overhead.main(["--url", "localhost:8001"])
    assert "--url and --app go together" in capsys.readouterr().err


@pytest.mark.e2e
def test_faults_are_injected_and_their_calls_counted(quick: QuickServer) -> None:
    injected = faults.network_faults(quick, quick, 2)
    rows = {(row.fault, row.servers): row for row in injected}
    for fault, outcome in (
        ("connection refused", "ServerUnavailable"),
        ("reset during the request", "ServerUnavailable"),
        ("black hole", "DeadlineExceeded"),
        ("black hole, asyncio", "DeadlineExceeded"),
        ("answers 0.3 s late, deadline after that", "answer"),
        ("answers 0.3 s late, deadline before that", "DeadlineExceeded"),
    ):
        assert rows[fault, 1].outcomes == {outcome: 2}, fault
    assert rows["black hole", 1].late_ms > 0
    assert rows["connection refused", 2].outcomes == {"answer": 2}
    drained = list(faults.draining(quick, quick, 2))
    assert [row.outcomes for row in drained] == [{"AppNotFound": 2}] * 2, "it is both of the two"


def test_a_row_sums_up_its_calls() -> None:
    ended = [Ended("answer", 1, 0.01), Ended("DeadlineExceeded", 3, 0.54), Ended("answer", 1, 0.02)]
    row = Scenario("a fault", 2, 0.5, 3).row(ended)
    assert row.outcomes == {"answer": 2, "DeadlineExceeded": 1}
    assert row.attempts == (1, 3)
    assert (row.median_s, row.longest_s) == (0.02, 0.54)
    assert row.late_ms == pytest.approx(40)
