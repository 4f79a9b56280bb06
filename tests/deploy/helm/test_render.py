"""Every set of values renders to what Kubernetes takes, and to what was reviewed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import helm_python as helm
import kubernetes_validate
import pytest
import yaml
from kubernetes_validate import utils
from tests.deploy.helm.charts import (
    CHART,
    ROOT,
    SETS,
    Document,
    Manifest,
    of_kind,
    render,
    rendered,
    values_of,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "helm"
OLDEST, NEWEST = "1.30", "1.37"
"""Of Kubernetes: what Chart.yaml asks for, and the newest that kubernetes-validate knows."""
CUSTOM = {"ServiceMonitor", "PrometheusRule", "ScaledObject"}
ELSEWHERE = {"envoy.yaml", "certificate.yaml", "tritium.json"}
"""Files of deploy/envoy and deploy/monitoring, which tests of their own compare."""


@pytest.fixture(scope="module", autouse=True)
def schemas_read_once() -> Iterator[None]:
    """Kubernetes' definitions are a megabyte of JSON, which each validation would read anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "schema_contents", cache(utils.schema_contents))
        yield


@pytest.mark.parametrize("name", SETS)
def test_helm_finds_nothing_to_say(name: str) -> None:
    report = helm.lint(CHART, values_of(name), strict=True)
    told = [one for one in report["messages"] if one["error"] != "icon is recommended"]
    assert (told, report["errors"]) == ([], [])


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("name", SETS)
def test_kubernetes_takes_every_manifest(name: str, version: str) -> None:
    for one in rendered(name):
        if one.kind not in CUSTOM:
            kubernetes_validate.validate(one.document, version, strict=True)


def test_the_oldest_kubernetes_is_what_the_chart_asks_for() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["kubeVersion"] == f">={OLDEST}.0-0"
    assert NEWEST in {one.rpartition(".")[0] for one in utils.all_versions()}


@pytest.mark.parametrize("name", SETS)
def test_operators_take_the_custom_resources(name: str) -> None:
    """Their models are made from the operators' own definitions. These ignore what they do not
    know, as the API server does, so that nothing may be missing when they write it again."""
    from cloudcoil.models.keda.v1alpha1 import ScaledObject
    from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor

    models = {one.__name__: one for one in (ServiceMonitor, PrometheusRule, ScaledObject)}
    assert set(models) == CUSTOM
    for one in rendered(name):
        if one.kind in CUSTOM:
            understood = models[one.kind].model_validate(one.document)
            again = understood.model_dump(mode="json", by_alias=True, exclude_unset=True)
            assert again == one.document


def test_the_sets_show_every_kind_that_the_chart_has() -> None:
    shown = {one.kind for name in SETS for one in rendered(name)}
    assert shown >= CUSTOM | {
        "ConfigMap", "Deployment", "HorizontalPodAutoscaler", "Job", "NetworkPolicy",
        "PersistentVolumeClaim", "PodDisruptionBudget", "Service", "ServiceAccount",
    }  # fmt: skip


@pytest.mark.parametrize("name", SETS)
def test_manifests_equal_their_golden_file(name: str) -> None:
    """Write the files anew with TRITIUM_UPDATE_GOLDEN=1, and read the difference."""
    path = GOLDEN / f"{name}.yaml"
    documents = [_reviewed(one) for one in rendered(name) if one.kind != "PrometheusRule"]
    text = yaml.safe_dump_all(documents, width=100)
    if os.environ.get("TRITIUM_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_there_is_no_golden_file_without_a_set_of_values() -> None:
    assert {path.stem for path in GOLDEN.glob("*.yaml")} == set(SETS)
    assert {path.name for path in (CHART / "ci").iterdir()} == {
        f"{one}-values.yaml" for one in SETS
    }


def _reviewed(one: Manifest) -> Document:
    """A manifest without what is reviewed elsewhere."""
    document = one.document
    for name in ELSEWHERE & set(document.get("data", {})):
        document["data"][name] = "a file of deploy/"
    if one.name.endswith("-envoy") and one.kind == "Deployment":
        document["spec"]["template"]["metadata"]["annotations"]["checksum/config"] = "of that file"
    return document


def test_alerts_and_dashboard_are_those_of_deploy_monitoring() -> None:
    manifests = rendered("cpu")
    folder = ROOT / "deploy" / "monitoring"
    rules = {
        path.stem: yaml.safe_load(path.read_text("utf-8")) for path in folder.glob("rules/*.yml")
    }
    found = {one["metadata"]["name"]: one["spec"] for one in of_kind(manifests, "PrometheusRule")}
    assert found == {f"shop-tritium-{stem}": content for stem, content in rules.items()}
    (dashboard,) = [
        one["data"]["tritium.json"]
        for one in of_kind(manifests, "ConfigMap")
        if "tritium.json" in one["data"]
    ]
    assert dashboard == (folder / "grafana" / "dashboards" / "tritium.json").read_text("utf-8")


def test_a_package_of_the_chart_has_all_that_its_links_point_to(tmp_path: Path) -> None:
    with helm.Chart.load(CHART) as chart:
        package = chart.save(tmp_path)
    with helm.Chart.load(package) as chart:
        names = {one["name"] for one in chart.files}
    assert {"files/envoy/envoy.yaml", "files/dashboards/tritium.json"} <= names
    assert any(name.startswith("files/rules/") for name in names)


def test_envoys_configuration_is_that_of_deploy_envoy_with_these_servers() -> None:
    folder = ROOT / "deploy" / "envoy"
    (found,) = [
        one["data"] for one in of_kind(rendered("tls"), "ConfigMap") if "envoy.yaml" in one["data"]
    ]
    ours = yaml.safe_load((folder / "envoy.yaml").read_text(encoding="utf-8"))
    (cluster,) = [one for one in ours["static_resources"]["clusters"] if one["name"] == "tritium"]
    (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert cluster["type"] == "STRICT_DNS"
    endpoint["endpoint"]["address"]["socket_address"]["address"] = "shop-tritium-headless"
    assert yaml.safe_load(found["envoy.yaml"]) == ours
    assert found["certificate.yaml"] == (folder / "certificate.yaml").read_text(encoding="utf-8")


def test_without_tls_envoy_is_the_same_but_for_its_certificate() -> None:
    plain: dict[str, object] = {"envoy": {"enabled": True, "plainText": True}}

    def listener(values: dict[str, object]) -> dict[str, object]:
        (data,) = [
            one["data"]
            for one in of_kind(render(values), "ConfigMap")
            if "envoy.yaml" in one["data"]
        ]
        config = yaml.safe_load(data["envoy.yaml"])
        chain: dict[str, object] = config["static_resources"]["listeners"][0]["filter_chains"][0]
        return chain

    with_tls = listener({"envoy": {"enabled": True, "tls": {"secretName": "certificate"}}})
    assert with_tls.pop("transport_socket")
    assert listener(plain) == with_tls
