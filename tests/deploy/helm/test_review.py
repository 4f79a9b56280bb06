"""What a reviewer looks for in manifests: that they fit each other, and the server."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from tests.deploy.helm.charts import (
    ROOT,
    SETS,
    Manifest,
    all_containers,
    container,
    of_kind,
    pods,
    render,
    rendered,
    server,
    values_of,
)

every_set = pytest.mark.parametrize("name", SETS)
SERVE_ENDS_S = 10
"""What tritonserver takes to end when nothing is in flight."""


def chosen(selector: dict[str, str], manifests: tuple[Manifest, ...]) -> list[dict[str, Any]]:
    """The pods that a selector matches."""
    return [
        pod for _, pod in pods(manifests) if selector.items() <= pod["metadata"]["labels"].items()
    ]


def selectors(manifests: tuple[Manifest, ...]) -> list[tuple[str, dict[str, str]]]:
    found = []
    for one in manifests:
        spec = one.document.get("spec", {})
        if one.kind == "Service":
            found.append((one.name, spec["selector"]))
        elif one.kind == "NetworkPolicy":
            found.append((one.name, spec["podSelector"]["matchLabels"]))
        elif one.kind in {"Deployment", "PodDisruptionBudget"}:
            found.append((one.name, spec["selector"]["matchLabels"]))
    for name, pod in pods(manifests):
        found += [
            (name, spread["labelSelector"]["matchLabels"])
            for spread in pod["spec"].get("topologySpreadConstraints", [])
        ]
    return found


@every_set
def test_every_selector_matches_the_pods_of_one_component(name: str) -> None:
    manifests = rendered(name)
    for who, selector in selectors(manifests):
        found = chosen(selector, manifests)
        assert len(found) == 1, f"{who} selects {len(found)} kinds of pods"
        assert selector["app.kubernetes.io/component"]


@every_set
def test_ports_that_are_named_are_there(name: str) -> None:
    manifests = rendered(name)
    for service in of_kind(manifests, "Service"):
        (pod,) = chosen(service["spec"]["selector"], manifests)
        ports = _ports(pod)
        for port in service["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]
    for policy in of_kind(manifests, "NetworkPolicy"):
        (pod,) = chosen(policy["spec"]["podSelector"]["matchLabels"], manifests)
        asked = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
        assert asked <= set(_ports(pod))
        assert asked == set(_ports(pod)), "a port that nobody may reach"
    for monitor in of_kind(manifests, "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"]
        (service,) = [
            one
            for one in of_kind(manifests, "Service")
            if wanted.items() <= one["metadata"]["labels"].items()
        ]
        assert {one["port"] for one in monitor["spec"]["endpoints"]} <= {
            port["name"] for port in service["spec"]["ports"]
        }


def _ports(pod: dict[str, Any]) -> dict[str, int]:
    return {
        port["name"]: port["containerPort"]
        for one in pod["spec"]["containers"]
        for port in one.get("ports", [])
    }


@every_set
def test_probes_ask_tritium_serve_and_not_triton(name: str) -> None:
    pod = server(rendered(name))["spec"]["template"]
    serve = container(pod, "serve")
    assert _ports(pod) == {"grpc": 8001, "metrics": 8002, "ready": 8003}
    asked = {
        probe: serve[probe]["httpGet"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    assert asked == {
        "startupProbe": {"path": "/ready", "port": "ready"},
        "readinessProbe": {"path": "/ready", "port": "ready"},
        "livenessProbe": {"path": "/live", "port": "ready"},
    }
    startup = serve["startupProbe"]
    wanted = values_of(name).get("startSeconds", 300)
    assert startup["periodSeconds"] * startup["failureThreshold"] >= wanted


@every_set
@pytest.mark.parametrize("drain", [{}, {"preStopSeconds": 40, "timeoutSeconds": 600}])
def test_a_pod_is_not_killed_while_it_drains(name: str, drain: dict[str, int]) -> None:
    pod = server(render({**values_of(name), "drain": drain}))["spec"]["template"]
    serve = container(pod, "serve")
    wait = serve["lifecycle"]["preStop"]["sleep"]["seconds"]
    (timeout,) = [
        float(one.partition("=")[2]) for one in serve["args"] if one.startswith("--drain-timeout=")
    ]
    assert wait >= 5  # endpoints take seconds to be withdrawn everywhere
    assert drain in ({}, {"preStopSeconds": wait, "timeoutSeconds": timeout})
    assert pod["spec"]["terminationGracePeriodSeconds"] >= wait + timeout + SERVE_ENDS_S


def test_envoy_finishes_what_it_has_taken() -> None:
    (pod,) = [pod for name, pod in pods(rendered("tls")) if name.endswith("-envoy")]
    envoy = container(pod, "envoy")
    script = envoy["lifecycle"]["preStop"]["exec"]["command"][-1]
    assert r"'POST /drain_listeners?graceful HTTP/1.0\r\n\r\n'" in script
    (seconds,) = re.findall(r"sleep (\d+)", script)
    (config,) = [
        one["data"]["envoy.yaml"]
        for one in of_kind(rendered("tls"), "ConfigMap")
        if "envoy.yaml" in one["data"]
    ]
    longest = max(float(one) for one in re.findall(r"max_stream_duration: ([\d.]+)s", config))
    assert longest < int(seconds) < pod["spec"]["terminationGracePeriodSeconds"]


@every_set
def test_budgets_and_autoscalers_are_the_deployments(name: str) -> None:
    manifests = rendered(name)
    deployment = server(manifests)
    ours = {
        "apiVersion": deployment["apiVersion"],
        "kind": "Deployment",
        "name": deployment["metadata"]["name"],
    }
    scalers = of_kind(manifests, "HorizontalPodAutoscaler") + of_kind(manifests, "ScaledObject")
    for scaler in scalers:
        assert scaler["spec"]["scaleTargetRef"] == ours
    # Two who set the number of pods would undo each other's work.
    assert len(scalers) + ("replicas" in deployment["spec"]) == 1
    budgets = [one["spec"]["selector"] for one in of_kind(manifests, "PodDisruptionBudget")]
    assert deployment["spec"]["selector"] in budgets


@every_set
def test_images_are_pinned(name: str) -> None:
    for who, pod in pods(rendered(name)):
        for one in all_containers(pod["spec"]):
            image = one["image"]
            assert re.search(r":[\w.-]*\d[\w.-]*$|@sha256:[0-9a-f]{64}$", image), f"{who}: {image}"
            assert "latest" not in image


@every_set
def test_pods_have_no_rights_that_they_do_not_need(name: str) -> None:
    for who, pod in pods(rendered(name)):
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False, who
        assert spec["securityContext"]["runAsNonRoot"] is True, who
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, who
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), who
        for one in all_containers(spec):
            assert one["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, f"{who}: {one['name']}"
            assert one["resources"]["limits"]["memory"], f"{who}: {one['name']}"
            assert one["resources"]["requests"], f"{who}: {one['name']}"


@every_set
def test_volumes_are_there_and_used(name: str) -> None:
    for who, pod in pods(rendered(name)):
        given = {one["name"] for one in pod["spec"]["volumes"]}
        used = {
            mount["name"]
            for one in all_containers(pod["spec"])
            for mount in one.get("volumeMounts", [])
        }
        assert used == given, who


@every_set
def test_servers_cannot_write_their_repository(name: str) -> None:
    pod = server(rendered(name))["spec"]["template"]
    writers = {
        one["name"]
        for one in all_containers(pod["spec"])
        for mount in one["volumeMounts"]
        if mount["name"] == "repository" and not mount.get("readOnly")
    }
    assert writers <= {"copy"}
    shm = next(one for one in pod["spec"]["volumes"] if one["name"] == "shm")
    assert shm["emptyDir"]["medium"] == "Memory"


@pytest.mark.parametrize(
    ("name", "resource"), [("gpu", "nvidia.com/gpu"), ("mig", "nvidia.com/mig-1g.10gb")]
)
def test_a_gpu_is_asked_for_as_a_limit(name: str, resource: str) -> None:
    serve = container(server(rendered(name))["spec"]["template"], "serve")
    assert serve["resources"]["limits"][resource] == 1
    assert serve["resources"]["limits"]["memory"]
    for other in ("minimal", "cpu"):
        limits = container(server(rendered(other))["spec"]["template"], "serve")["resources"]
        assert not [key for key in limits["limits"] if key.startswith("nvidia.com/")]


def test_with_envoy_callers_reach_nothing_else() -> None:
    manifests = rendered("tls")
    policies = {one["metadata"]["name"]: one["spec"] for one in of_kind(manifests, "NetworkPolicy")}
    servers = policies["shop-tritium"]["ingress"][0]
    assert servers["ports"] == [{"port": "grpc", "protocol": "TCP"}]
    may = [
        one["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for one in servers["from"]
    ]
    assert may == ["envoy", "rollout"]
    callers = values_of("tls")["networkPolicy"]["callers"]
    assert policies["shop-tritium-envoy"]["ingress"][0]["from"] == callers


def test_verification_comes_before_the_server_and_after_the_copy() -> None:
    inits = server(rendered("gpu"))["spec"]["template"]["spec"]["initContainers"]
    assert [one["name"] for one in inits] == ["copy", "verify", "admin-key"]
    assert inits[0]["envFrom"] == [{"secretRef": {"name": "tritium-store"}}]


def test_the_queries_of_both_autoscalers_are_one() -> None:
    """And the name that the HPA asks for is what prometheus-adapter is told to give."""
    path = ROOT / "deploy" / "helm" / "prometheus-adapter" / "values.yaml"
    (rule,) = yaml.safe_load(path.read_text(encoding="utf-8"))["rules"]["custom"]
    (hpa,) = of_kind(rendered("cpu"), "HorizontalPodAutoscaler")
    pods_metric = hpa["spec"]["metrics"][0]["pods"]
    assert pods_metric["metric"]["name"] == rule["name"]["as"]
    assert rule["seriesQuery"].startswith("nv_inference_queue_duration_us{")
    (scaled,) = of_kind(rendered("gpu"), "ScaledObject")
    (trigger,) = scaled["spec"]["triggers"]  # by queues alone: a GPU's load is not a CPU's
    headless = 'namespace="models",service="shop-tritium-headless"'
    expected = rule["metricsQuery"].replace("<<.LabelMatchers>>", headless)
    expected = expected.replace("<<.Series>>", "nv_inference_queue_duration_us")
    assert trigger["metadata"]["query"] == expected.replace(" by (<<.GroupBy>>)", "")
    assert trigger["metadata"]["threshold"] == pods_metric["target"]["averageValue"]
