"""AsyncClient against a real tritonserver; what both clients share is tested with the sync one."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from tests.support.demo_repository import expected_label
from tests.support.triton import TritonServer, free_port

from tritium_client import (
    AppNotFound,
    AsyncClient,
    ClientClosed,
    DeadlineExceeded,
    EntryPoint,
    InvalidInput,
    RetryPolicy,
    ServerUnavailable,
)

pytestmark = pytest.mark.e2e


def test_answers_of_many_calls_at_once_are_not_mixed_up(server: TritonServer) -> None:
    async def ask() -> None:
        async with AsyncClient(server.url, app="demo") as client:
            texts = ["x" * length for length in range(1, 65)]
            answers = await asyncio.gather(*(client.classify(text=text) for text in texts))
            for text, answer in zip(texts, answers, strict=True):
                assert answer.label == expected_label(1, text=text.encode())
            assert len({answer.request_id for answer in answers}) == 64
            assert (await client.server_status()).live
            assert await client.labels() == ("cat", "dog", "bird")
            assert (await client.status("words")).entry_points == (
                EntryPoint("classify", ("text",)),
            )

    asyncio.run(ask())


def test_errors_are_the_sync_clients(server: TritonServer, tmp_path: Path) -> None:
    async def ask() -> None:
        async with AsyncClient(server.url, app="demo") as client:
            with pytest.raises(InvalidInput) as caught:
                await client.classify(text="bad")
            assert caught.value.stage == "text_tokenizer"
            assert caught.value.attempts == 1
            with pytest.raises(InvalidInput, match="cannot read the image"):
                await client.classify(image=tmp_path / "nothing.png")
            with pytest.raises(AppNotFound):
                await client.classify(text="x", app="nothing")
            with pytest.raises(DeadlineExceeded) as late:
                await client.classify(text="sleep2", timeout_s=0.2)
            assert late.value.elapsed_s is not None
            assert 0.15 < late.value.elapsed_s < 0.5

    asyncio.run(ask())


def test_an_unreachable_server_is_tried_again_within_the_deadline() -> None:
    url = f"127.0.0.1:{free_port()}"

    async def ask() -> ServerUnavailable:
        async with AsyncClient(url, app="demo", retries=RetryPolicy(attempts=3)) as client:
            with pytest.raises(ServerUnavailable) as caught:
                await client.classify(text="x", timeout_s=5)
            return caught.value

    error = asyncio.run(ask())
    assert error.attempts == 3
    assert error.elapsed_s is not None
    assert error.elapsed_s < 5


def test_closing_ends_what_is_in_flight(server: TritonServer) -> None:
    async def ask() -> None:
        client = AsyncClient(server.url, app="demo")
        call = asyncio.create_task(client.classify(text="sleep1.5", timeout_s=10))
        await asyncio.sleep(0.3)
        began = time.monotonic()
        await client.close()
        with pytest.raises(ClientClosed):
            await call
        assert time.monotonic() - began < 1
        with pytest.raises(ClientClosed):
            await client.classify(text="x")
        await client.close()

    asyncio.run(ask())


def test_a_cancelled_call_is_the_callers_own_doing(server: TritonServer) -> None:
    async def ask() -> None:
        async with AsyncClient(server.url, app="demo") as client:
            call = asyncio.create_task(client.classify(text="sleep1", timeout_s=10))
            await asyncio.sleep(0.2)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            # The server is still busy with what nobody waits for.
            assert (await client.classify(text="abc", timeout_s=30)).release == 1

    asyncio.run(ask())
