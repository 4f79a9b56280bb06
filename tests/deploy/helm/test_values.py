"""Wrong values are refused, with what is wrong and, where it is not plain, the way out."""

from __future__ import annotations

import json
from typing import Any

import helm_python as helm
import pytest
import yaml
from tests.deploy.helm.charts import CHART, render, values_of

from tritium_client import contract
from tritium_deploy.rollout.settings import RolloutSettings

WRONG = [
    ("replica: 3", "additional properties 'replica' not allowed"),
    ("serve: {dreinTimeout: 5}", "'/serve': additional properties 'dreinTimeout' not allowed"),
    ("target: tpu", "'/target': value must be one of 'cpu', 'gpu'"),
    ("replicas: 0", "'/replicas': minimum: got 0, want 1"),
    ("replicas: two", "'/replicas': got string, want integer"),
    ("image: {tag: latest}", "'/image/tag'"),
    ("image: {repository: 'tritium:latest'}", "'/image/repository'"),
    ("image: {digest: 'sha256:12'}", "'/image/digest'"),
    ("image: {pullPolicy: Sometimes}", "'/image/pullPolicy': value must be one of"),
    ("apps: [Open-Moji]", "'/apps/0': 'Open-Moji' does not match pattern"),
    ("apps: [a, a]", "'/apps': items at 0 and 1 are equal"),
    ("sharedMemory: lots", "'/sharedMemory': 'lots' does not match pattern"),
    ("drain: {preStopSeconds: 0}", "'/drain/preStopSeconds': minimum: got 0, want 1"),
    ("podDisruptionBudget: {maxUnavailable: 0}", "'/podDisruptionBudget/maxUnavailable'"),
    ("gpu: {resource: nvidia.com/mig-8g.10gb}", "'/gpu/resource'"),
    ("autoscaling: {kind: vpa}", "'/autoscaling/kind': value must be one of"),
    ("autoscaling: {queuedRequests: 2}", "'/autoscaling/queuedRequests': got number, want string"),
    ("adminKey: {secret: mine}", "'/adminKey': additional properties 'secret' not allowed"),
    ("networkPolicy: {callers: [{}]}", "'/networkPolicy/callers/0': minProperties"),
    ("rollout: {command: retire}", "'/rollout/command': value must be one of"),
    ("rollout: {settings: {gates: {accuracy: 1}}}", "additional properties 'accuracy' not allowed"),
    ("rollout: {percent: 101}", "'/rollout/percent': maximum: got 101, want 100"),
    ("repository: {source: nfs}", "'/repository/source': value must be one of"),
    ("repository: {objectStore: {uri: /models}}", "'/repository/objectStore/uri'"),
    ("env: [{value: x}]", "'/env/0': missing property 'name'"),
    # Each is right, and they do not go together.
    ("repository: {source: objectStore}", "needs repository.objectStore.uri"),
    (
        "{repository: {source: objectStore, objectStore: {uri: 's:b'}}, adminKey: {secretName: k}, "
        "rollout: {enabled: true, app: a, release: 2}}",
        "rollout needs one repository that all pods share",
    ),
    (
        "repository: {pvc: {accessModes: [ReadWriteOnce]}}",
        "2 pods cannot share a volume that is ReadWriteOnce",
    ),
    (
        "{repository: {pvc: {accessModes: [ReadWriteOnce]}}, replicas: 1, "
        "autoscaling: {kind: hpa}}",
        "8 pods cannot share a volume",
    ),
    ("serve: {traceEndpoint: 'http://c:4318'}", "let servers reach it with networkPolicy.egress"),
    ("serve: {traceEndpoint: 'c:4318'}", "'/serve/traceEndpoint': 'c:4318' does not match pattern"),
    ("autoscaling: {minReplicas: 9}", "minReplicas is more than autoscaling.maxReplicas"),
    ("update: {maxSurge: 0}", "no pod could ever be replaced"),
    ("envoy: {enabled: true}", "envoy needs envoy.tls.secretName"),
    ("rollout: {enabled: true}", "rollout needs rollout.app and rollout.release"),
    ("rollout: {enabled: true, app: a, release: 2}", "rollout needs adminKey.secretName"),
]


@pytest.mark.parametrize(("text", "told"), WRONG, ids=lambda given: given[:40])
def test_a_wrong_value_is_refused_by_name(text: str, told: str) -> None:
    values = {**values_of("minimal"), **yaml.safe_load(text)}
    with pytest.raises(helm.HelmError) as refusal:
        render(values)
    assert told in " ".join(str(refusal.value).split())


def test_the_schema_knows_every_value_and_no_other() -> None:
    """A value without a schema would be taken whatever it is."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    optional = {"/global", "/resources/claims", "/envoy/resources/claims"}
    optional |= {"/repository/objectStore/image/pullPolicy", "/envoy/image/pullPolicy"}
    assert set(_paths_of_schema(schema, schema)) - optional == set(_paths_of_values(values, schema))


def _paths_of_schema(node: Any, schema: Any, path: str = "") -> list[str]:
    node = _resolve(node, schema)
    found = []
    for name, child in node.get("properties", {}).items():
        found += [f"{path}/{name}", *_paths_of_schema(child, schema, f"{path}/{name}")]
    return [one for one in found if not one.startswith("/rollout/settings/")]


def _paths_of_values(value: Any, node: Any, path: str = "", schema: Any = None) -> list[str]:
    schema = schema or node
    node = _resolve(node, schema)
    if not isinstance(value, dict) or "properties" not in node:
        return []
    found = []
    for name, child in value.items():
        known = node["properties"].get(name, {})
        found += [f"{path}/{name}", *_paths_of_values(child, known, f"{path}/{name}", schema)]
    return found


def _resolve(node: Any, schema: Any) -> Any:
    name = node.get("$ref", "").rpartition("/")[2]
    return schema["$defs"][name] if name else node


def test_apps_and_settings_are_named_as_tritium_names_them() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    assert schema["$defs"]["app"]["pattern"] == f"^{contract.APP_PATTERN.pattern}$"
    settings = schema["properties"]["rollout"]["properties"]["settings"]["properties"]
    assert set(settings) == set(RolloutSettings.model_fields)
    for table in ("gates", "watch"):
        fields = type(getattr(RolloutSettings(), table)).model_fields
        assert set(settings[table]["properties"]) == set(fields)
