"""`serve(response_cache_mib=...)`: what is asked again is not computed again, and never stale."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.deploy.calls import executions, executions_at_rest, infer, wait_until
from tests.deploy.conftest import Start
from tests.deploy.tiny_repository import TinyApp, golden, publish
from tritonclient.grpc import InferenceServerClient

from tritium_deploy import Server
from tritium_deploy.control import ModelControl
from tritium_deploy.live import read_config
from tritium_deploy.server import ServeOptions
from tritium_deploy.watch import WatchOptions

pytestmark = pytest.mark.e2e

Connect = Callable[[Server], InferenceServerClient]
HELLO = {"text": b"hello"}


def test_an_equal_request_is_answered_without_the_model(
    repository: Path, start: Start, connect: Connect
) -> None:
    encoder = publish(repository).components["text_encoder"].model
    quiet = ServeOptions(watch=WatchOptions(probe_every_s=600))  # its samples are runs, too
    client = connect(start(response_cache_mib=8, options=quiet))
    first = infer(client, "tiny_classify_text", HELLO)
    before = executions_at_rest(client, encoder)
    for _ in range(10):
        assert infer(client, "tiny_classify_text", HELLO).tolist() == first.tolist()
    assert executions_at_rest(client, encoder) == before
    assert infer(client, "tiny_classify_text", {"text": b"hello!"}).tolist() != first.tolist()
    assert executions_at_rest(client, encoder) == before + 1


def test_another_release_gives_its_own_answers(
    repository: Path, start: Start, connect: Connect
) -> None:
    publish(repository, TinyApp(bias=0.5))
    server = start(response_cache_mib=8)
    client = connect(server)
    before = infer(client, "tiny_classify_text", HELLO)
    publish(repository, TinyApp(number=2, bias=3.0))
    config = read_config(repository, "tiny_classify_text")
    config.response_cache.enable = True
    control = ModelControl(server.grpc_url)
    control.load("tiny_classify_text", 60, config)
    control.close()
    sample = golden(TinyApp(bias=3.0))[0]
    expected = sample.expected["text"]
    assert infer(client, "tiny_classify_text", {"text": sample.text.encode()}) == pytest.approx(
        expected, abs=1e-5
    )
    assert infer(client, "tiny_classify_text", HELLO).tolist() != before.tolist()


def test_the_server_still_watches_its_models_and_not_its_cache(
    repository: Path, start: Start, connect: Connect
) -> None:
    encoder = publish(repository).components["text_encoder"].model
    options = ServeOptions(watch=WatchOptions(probe_every_s=0.2))
    server = start(response_cache_mib=8, options=options)
    client = connect(server)
    before = executions(client, encoder)
    assert wait_until(lambda: executions(client, encoder) >= before + 4)
    assert server.ready


def test_a_negative_size_is_refused_before_anything_starts(repository: Path, start: Start) -> None:
    with pytest.raises(ValueError, match="response_cache_mib must be 0 or more: -1"):
        start(response_cache_mib=-1)
