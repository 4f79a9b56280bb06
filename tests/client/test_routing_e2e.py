"""A candidate beside the live release of a real tritonserver: canary, fallback and shadow."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.client.candidates import wait_for
from tests.support.command_line import tritium
from tests.support.demo_repository import TEXT, expected_label, write_alias
from tests.support.triton import TritonServer

from tritium_client import AsyncClient, Client, InvalidInput, RetryPolicy, ServerError
from tritium_client.contract import Rollout, format_rollout

pytestmark = pytest.mark.e2e

CANDIDATE = "demo_classify_text_r2"
ROLLOUT = Rollout(2, canary_percent=50, salt="a")
KEYS = [f"user-{number}" for number in range(40)]
NEW = next(key for key in KEYS if ROLLOUT.takes(key))

Begin = Callable[[Rollout], None]


@pytest.fixture
def begin(server: TritonServer) -> Iterator[Begin]:
    """Begin a rollout of release 2 of `demo`, for texts; afterwards everything is as it was."""

    def begin(rollout: Rollout) -> None:
        alias = write_alias(server.repository, 1, TEXT, rollout=format_rollout(rollout))
        server.load(alias)

    yield begin
    server.load(write_alias(server.repository, 1, TEXT))
    server.load(CANDIDATE)


def test_a_share_of_keys_meets_the_candidate_and_no_call_notices_when_it_goes(
    server: TritonServer, begin: Begin
) -> None:
    begin(ROLLOUT)
    before = server.answered(CANDIDATE)
    with Client(server.url, app="demo", retries=RetryPolicy(attempts=1)) as client:
        for key in KEYS:
            answer = client.classify(text="four!", route_key=key)
            assert answer.release == (2 if ROLLOUT.takes(key) else 1)
            assert answer.label == expected_label(answer.release, text=b"four!")
            assert len(answer.probabilities) == (4 if answer.release == 2 else 3)
            assert answer.timing.attempts == 1
            assert client.classify(image=b"\x01", route_key=key).release == 1, "it has no rollout"
        taken = sum(map(ROLLOUT.takes, KEYS))
        assert 0 < taken < len(KEYS)
        wait_for(lambda: server.answered(CANDIDATE) - before == taken)

        with pytest.raises(InvalidInput) as refused:
            client.classify(text="bad", route_key=NEW)
        assert (refused.value.stage, refused.value.attempts) == ("text_tokenizer", 1)
        with pytest.raises(ServerError) as failed:
            client.classify(text="crash", route_key=NEW)
        assert failed.value.attempts == 2, "the live release fails of it as well"

        server.unload(CANDIDATE)
        for _ in range(2):
            answer = client.classify(text="four!", route_key=NEW)
            assert (answer.release, answer.timing.attempts) == (1, 2)
            assert answer.label == expected_label(1, text=b"four!")
        server.load(CANDIDATE)
        assert client.classify(text="four!", route_key=NEW).release == 2


def test_the_async_client_and_the_command_line_route_alike(
    server: TritonServer, begin: Begin, tmp_path: Path
) -> None:
    begin(ROLLOUT)

    async def ask() -> list[int]:
        async with AsyncClient(server.url, app="demo") as client:
            calls = [client.classify(text="four!", route_key=key) for key in KEYS]
            return [answer.release for answer in await asyncio.gather(*calls)]

    assert asyncio.run(ask()) == [2 if ROLLOUT.takes(key) else 1 for key in KEYS]

    where = ("--app", "demo", "--url", server.url)
    for key in KEYS[:2]:
        ended = tritium("classify", *where, "--text", "a", "--route-key", key, "--json")
        assert json.loads(ended.stdout)["release"] == (2 if ROLLOUT.takes(key) else 1)
    items = tmp_path / "items.jsonl"
    items.write_text('{"text": "a"}\n' * 10)
    ended = tritium("classify", *where, "--input", str(items), "--route-key", NEW)
    assert ended.returncode == 0, ended.stderr
    assert [json.loads(line)["release"] for line in ended.stdout.splitlines()] == [2] * 10
    for more in (("--text", "a"), ("--input", str(items))):
        for verb in ("classify", "embed"):
            ended = tritium(verb, *where, *more, "--route-key", "")
            assert (ended.returncode, ended.stdout) == (2, "")
            assert "route_key" in ended.stderr


def test_a_candidate_in_the_shadow_is_compared(server: TritonServer, begin: Begin) -> None:
    begin(Rollout(2, shadow_percent=100))
    with Client(server.url, app="demo") as client:
        for count in range(1, 13):
            answer = client.classify(text="x" * count)
            assert answer.release == 1
            wait_for(lambda: client.shadow_report().requests == count)  # noqa: B023 - now
        report = client.shadow_report()
    agree = [
        expected_label(1, text=b"x" * count) == expected_label(2, text=b"x" * count)
        for count in range(1, 13)
    ]
    assert (report.candidate, report.live, report.failed, report.dropped) == (2, 1, 0, 0)
    assert report.agreement == pytest.approx(sum(agree) / len(agree))
    assert report.largest_difference is not None
    assert 0 < report.largest_difference < 1
    assert report.candidate_latency_s is not None
    assert 0 < report.candidate_latency_s < 5
