"""What callers may do through Envoy: encrypted, so large, so long, these RPCs and no others."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.client.test_security import Authority
from tests.deploy.envoy.conftest import loopback
from tests.support.envoy import Envoy, envoy, fetch
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tritium_client import Client, DeadlineExceeded, Tls
from tritium_client._wire import infer_request
from tritium_client.contract import MAX_IMAGE_BYTES
from tritium_deploy import Server
from tritium_deploy.envoy import MEBIBYTE, SERVICE, Endpoint

pytestmark = pytest.mark.e2e

REFUSAL = "not open to callers of this proxy"
FOR_CALLERS = {
    "ModelInfer", "ModelConfig", "ModelMetadata", "ModelReady",
    "ServerLive", "ServerMetadata", "ServerReady",
}  # fmt: skip


@pytest.fixture(scope="module")
def stub(secure: Envoy, ours: Authority) -> Iterator[Any]:
    """Hand-written requests through it."""
    credentials = Tls(ca=ours.file("ca.pem")).credentials()
    options = [("grpc.max_send_message_length", -1)]
    with grpc.secure_channel(secure.url, credentials, options=options) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def test_the_largest_picture_passes_and_more_is_refused(stub: Any, secure: Envoy) -> None:
    image = b"x" * MAX_IMAGE_BYTES
    request = infer_request("tiny_classify_image", {"image": image}, request_id="largest")
    assert stub.ModelInfer(request, timeout=20).id == "largest"
    limit = secure.settings.max_request_bytes
    request = infer_request("tiny_classify_image", {"image": b"x" * limit}, request_id="more")
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(request, timeout=20)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than this proxy accepts" in refused.value.details()


def test_a_route_has_a_deadline_whatever_the_caller_says(shared: Server, tmp_path: Path) -> None:
    deadline_s = 0.5
    endpoints = [Endpoint("127.0.0.1", shared.ports.grpc, shared.ports.ready)]
    settings = loopback(endpoints, tmp_path, deadline_s=deadline_s)
    with envoy(tmp_path, settings) as running, Client(running.url, app="tiny") as client:
        assert client.classify(text="warm").release == 1
        for allowed, within in ((20.0, deadline_s), (0.3, 0.3)):
            began = time.monotonic()
            with pytest.raises(DeadlineExceeded) as ended:
                client.classify(text="sleep 1.5", timeout_s=allowed)
            assert ended.value.attempts == 1
            assert within * 0.9 < time.monotonic() - began < within + 0.9
    with Client(shared.grpc_url, app="tiny") as beside:
        beside.classify(text="awake again", timeout_s=20)


def rpcs() -> list[Any]:
    return list(service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods)


def test_only_the_rpcs_of_callers_reach_a_server(stub: Any) -> None:
    allowed: set[str] = set()
    refused: set[str] = set()
    for method in rpcs():
        request = getattr(service_pb2, method.input_type.name)()
        send = getattr(stub, method.name)
        try:
            if method.client_streaming:
                next(iter(send(iter([request]), timeout=5)))
            else:
                send(request, timeout=5)
        except grpc.RpcError as error:
            (refused if REFUSAL in error.details() else allowed).add(method.name)
        else:
            allowed.add(method.name)
    assert allowed == FOR_CALLERS | {"ModelStatistics"}  # the one that was asked for
    assert {"RepositoryModelUnload", "SystemSharedMemoryRegister", "LogSettings"} <= refused


@pytest.mark.parametrize(
    "path",
    [
        SERVICE.replace("/inference", "//inference") + "RepositoryIndex",
        SERVICE + "ModelInfer/../RepositoryIndex",
        SERVICE + "%52epositoryIndex",
        SERVICE.lower() + "repositoryindex",
        "/grpc.health.v1.Health/Check",
    ],
)
def test_no_spelling_of_a_path_leads_round_it(path: str, secure: Envoy, ours: Authority) -> None:
    credentials = Tls(ca=ours.file("ca.pem")).credentials()
    with (
        grpc.secure_channel(secure.url, credentials) as channel,
        pytest.raises(grpc.RpcError) as refused,
    ):
        channel.unary_unary(path)(b"", timeout=5)
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_the_sdk_does_without_what_is_refused(secure: Envoy, ours: Authority) -> None:
    tls = Tls(ca=ours.file("ca.pem"))
    with Client(secure.url, app="tiny", tls=tls, transport="shared_memory") as client:
        # Shared memory is for a server on the same host, not for one behind a proxy.
        assert client.classify(image=b"x" * 2 * MEBIBYTE).release == 1


def test_what_is_open_to_probes_is_not_the_admin_interface(secure: Envoy) -> None:
    assert fetch(f"{secure.status_url}/ready") == (200, b"LIVE\n")
    status, metrics = fetch(f"{secure.status_url}/stats/prometheus")
    assert status == 200
    assert b"envoy_cluster_upstream_rq_retry" in metrics
    for path in ("/", "/config_dump", "/certs", "/quitquitquit", "/ready/", "/stats"):
        for method in ("GET", "POST"):
            assert fetch(f"{secure.status_url}{path}", method)[0] == 404, (path, method)
    assert fetch(f"{secure.status_url}/ready", "POST")[0] == 404
    assert secure.process.poll() is None
