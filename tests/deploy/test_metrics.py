"""A real Prometheus scrapes a server that has met traffic, errors, a canary and a dead stub."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy.calls import exported, infer, wait_until
from tests.deploy.rollout.conftest import QUICK
from tests.deploy.tiny_repository import TinyApp, publish, publish_candidate
from tests.support import monitoring
from tests.support.prometheus import Prometheus, program, prometheus
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from tritium_builders import servables
from tritium_client import Client, TritiumClientError
from tritium_deploy import Ports, Server, serve
from tritium_deploy.control import FAILURE_COUNTS
from tritium_deploy.installation import find_installation
from tritium_deploy.live import load_live_apps
from tritium_deploy.metrics import ServerMetrics
from tritium_deploy.readiness import StatusBoard
from tritium_deploy.rollout import Rollout
from tritium_deploy.served import ServedApps
from tritium_deploy.server import ServeOptions
from tritium_deploy.triton import Triton, TritonOptions
from tritium_deploy.watch import WatchOptions

COUNTING: Mapping[Any, Mapping[str, str]] = {
    "text_encoder": {"counts": str(Path(servables.__file__).parent)}
}
OFTEN = ServeOptions(watch=WatchOptions(probe_every_s=0.5))
PICTURE = b"\x89PNG\r\n\x1a\n picture"
DATA_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Watched:
    """A server, and the Prometheus that scrapes it."""

    server: Server
    prometheus: Prometheus


@pytest.fixture(scope="module")
def watched(run_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    program("prometheus")  # skips before anything is started
    repository = tmp_path_factory.mktemp("repository")
    live = publish(repository, TinyApp(labelled=20, parameters=COUNTING))
    publish_candidate(repository, TinyApp(number=2, bias=0.6, labelled=20, parameters=COUNTING))
    with (
        serve(
            repository, ports=Ports.free(), response_cache_mib=8, router=True, options=OFTEN
        ) as server,
        prometheus(config_for(server), tmp_path_factory.mktemp("prometheus")) as found,
        traffic(server),
    ):
        with Rollout(repository, [server.grpc_url], settings=QUICK) as rollout:
            rollout.stage("tiny", 2)
            rollout.canary("tiny", 2, percent=50)
        kill_a_stub_of(server, live.components["fusion_head"].model)
        assert wait_until(lambda: server.ready, 10)
        wait_until(lambda: not without_data(found), DATA_TIMEOUT_S)
        yield Watched(server, found)


def without_data(found: Prometheus) -> list[str]:
    """The queries of panels and rules that find nothing."""
    queries = [query for _, query in monitoring.panels()]
    for rule in monitoring.rules():
        # An alert has no data while all is well; what it compares has.
        queries += monitoring.inner(rule.expression) if rule.is_alert else [rule.name]
    return [query for query in queries if not found.query(query)]


def config_for(server: Server) -> dict[str, Any]:
    """The committed configuration, with this server in place of a name, and in a hurry."""
    config: dict[str, Any] = yaml.safe_load((monitoring.FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    config["rule_files"] = [str(monitoring.FOLDER / pattern) for pattern in config["rule_files"]]
    ports = {"tritium": server.ports.ready, "triton": server.ports.metrics}
    for job in config["scrape_configs"]:
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": [f"127.0.0.1:{ports[job['job_name']]}"]}]
    return config


@contextlib.contextmanager
def traffic(server: Server) -> Iterator[None]:
    """Good requests, the same ones again, refused and broken ones, until the block ends."""
    stop = threading.Event()

    def ask() -> None:
        with Client(server.grpc_url, app="tiny") as client:
            number = 0
            while not stop.wait(0.01):
                number += 1
                key = f"{number}"
                client.classify(text=key, image=PICTURE, route_key=key)
                for text in ("the same again", "refuse this", "sleep no number"):
                    # Of a step that fails beside another one this Triton forgets the request:
                    # docs/decisions/steps-come-one-after-the-other.md.
                    with contextlib.suppress(TritiumClientError):
                        client.classify(text=text, route_key=key)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def kill_a_stub_of(server: Server, model: str) -> None:
    name = f'tritium_stub_restarts_total{{model="{model}"}}'
    assert exported(server, name) == 0
    os.kill(
        next(stub.pid for stub in server._triton.stubs() if stub.model == model), signal.SIGKILL
    )
    assert wait_until(lambda: exported(server, name) == 1, 10)


def test_every_rule_and_every_panel_finds_data(watched: Watched) -> None:
    assert without_data(watched.prometheus) == []


def test_prometheus_evaluates_every_rule_without_an_error(watched: Watched) -> None:
    known = watched.prometheus.rules()
    assert {rule["name"] for rule in known} == {rule.name for rule in monitoring.rules()}
    assert [rule for rule in known if rule["health"] != "ok" or rule.get("lastError")] == []


def test_every_metric_that_is_asked_for_is_exported(watched: Watched) -> None:
    found = set(watched.prometheus.get("label/__name__/values"))
    asked = {query for _, query in monitoring.panels()}
    asked |= {rule.expression for rule in monitoring.rules()}
    names = set().union(*map(monitoring.metric_names, asked), monitoring.names_in_the_chart())
    assert names - found == set()


def test_the_page_lists_every_metric_of_tritium_serve(watched: Watched) -> None:
    found = {
        str(name)
        for name in watched.prometheus.get("metadata")
        if name.startswith("tritium_") and not name.endswith("_created")
    }
    with_tls = {"tritium_certificate_expiry_timestamp_seconds"}  # tests/deploy/security/test_tls.py
    assert monitoring.listed_metrics() - with_tls == found


def test_releases_are_known_by_their_stage_and_share(watched: Watched) -> None:
    ask = watched.prometheus.value
    assert ask('tritium_release_info{release="1", stage="live"}') == 1
    assert ask('tritium_release_info{release="2", stage="canary"}') == 1
    assert ask('tritium_rollout_percent{release="2", share="canary"}') == 50
    assert ask('tritium_app_state{state="ready"}') == ask("tritium_ready") == 1


def test_shared_components_are_of_both_releases_and_counted_once(watched: Watched) -> None:
    found = watched.prometheus.query('tritium_model_info{step="text_encoder"}')
    assert {(one["release"], one["model"]) for one in found} == {
        (release, found[0]["model"]) for release in ("1", "2")
    }
    (steps,) = watched.prometheus.query('tritium:step_requests:rate5m{step="text_encoder"}')
    assert steps["app"] == "tiny"


def test_refused_inputs_are_no_errors_and_broken_ones_are(watched: Watched) -> None:
    ask = watched.prometheus.value
    failures = ask("sum(tritium:failures:rate5m)")
    refused = ask("sum(tritium:refused:rate5m)")
    everything = failures + ask("sum(tritium:goodput:rate5m)")
    assert 0.05 < refused / failures < 0.95
    assert ask("tritium:error_ratio:rate5m") == pytest.approx(
        (failures - refused) / everything, rel=0.1
    )


def test_p99_is_what_triton_measured(watched: Watched) -> None:
    seconds = watched.prometheus.value(
        'tritium:latency_seconds{entry_point="tiny_classify", release="1", quantile="0.99"}'
    )
    assert 0.0001 < seconds < 5


def test_a_server_says_from_its_start_what_state_it_is_in(
    run_folders: Path, tmp_path: Path
) -> None:
    publish(tmp_path)
    installation = find_installation()
    live = load_live_apps(tmp_path, None, installation)
    board = StatusBoard({"tiny": 1})
    triton = Triton(installation, TritonOptions(tmp_path, Ports.free()))
    try:
        found = ServerMetrics(triton, ServedApps(tmp_path, live, {}), board)

        def says(state: str) -> bool:
            lines = found.exposition().decode().splitlines()
            ready = f'tritium_ready{{app="tiny"}} {float(state == "ready")}'
            return (
                ready in lines and f'tritium_app_state{{app="tiny",state="{state}"}} 1.0' in lines
            )

        assert says("loading")
        board.set_ready("tiny")
        assert says("ready")
        board.drain("the server is shutting down")
        assert says("draining")
    finally:
        triton.stop(keep_log=False)


def test_triton_counts_what_an_ensemble_fails_twice(
    shared: Server, connect: Callable[[Server], InferenceServerClient]
) -> None:
    client = connect(shared)

    def counted() -> int:
        found = client.get_inference_statistics("tiny_classify_text_r1").model_stats[0]
        return int(found.inference_stats.fail.count)

    before = counted()
    for _ in range(3):
        with pytest.raises(InferenceServerException):
            infer(client, "tiny_classify_text", {"text": b"refuse this"})
    # Where this has changed, `tritium:failures:rate5m` and FAILURE_COUNTS have to as well.
    assert wait_until(lambda: counted() == before + 3 * FAILURE_COUNTS, 5)
