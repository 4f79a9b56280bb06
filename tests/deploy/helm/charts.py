"""The chart, rendered by Helm itself (helm-python-sdk has Helm 4 inside) for each set of values."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import helm_python as helm
import yaml

ROOT = Path(__file__).parents[3]
CHART = ROOT / "deploy" / "helm" / "tritium"
SETS = ("minimal", "cpu", "gpu", "mig", "canary", "tls")
RELEASE, NAMESPACE = "shop", "models"

Document = dict[str, Any]


@dataclass(frozen=True)
class Manifest:
    """One object for Kubernetes."""

    template: str
    document: Document

    @property
    def kind(self) -> str:
        return str(self.document["kind"])

    @property
    def name(self) -> str:
        return str(self.document["metadata"]["name"])


def values_of(name: str) -> Document:
    """A set of values in ci/."""
    text = (CHART / "ci" / f"{name}-values.yaml").read_text(encoding="utf-8")
    found: Document = yaml.safe_load(text)
    return found


def render(values: Mapping[str, Any], name: str = RELEASE) -> tuple[Manifest, ...]:
    """What Helm makes of a set of values.

    Raises:
        helm.HelmError: with what is wrong with them.
    """
    with helm.Chart.load(CHART) as chart:
        chart.validate_schema(dict(values))
        rendered = chart.render(dict(values), name=name, namespace=NAMESPACE)
    return tuple(
        Manifest(template.partition("/templates/")[2], document)
        for template, text in sorted(rendered.items())
        if template.endswith(".yaml")
        for document in yaml.safe_load_all(text)
        if document
    )


@cache
def _rendered(name: str) -> tuple[Manifest, ...]:
    return render(values_of(name))


def rendered(name: str) -> tuple[Manifest, ...]:
    """The manifests of a set; Helm is asked once for each."""
    return copy.deepcopy(_rendered(name))


def of_kind(manifests: tuple[Manifest, ...], kind: str) -> list[Document]:
    return [one.document for one in manifests if one.kind == kind]


def server(manifests: tuple[Manifest, ...]) -> Document:
    """The servers' Deployment."""
    (found,) = [
        one
        for one in of_kind(manifests, "Deployment")
        if one["metadata"]["labels"]["app.kubernetes.io/component"] == "server"
    ]
    return found


def pods(manifests: tuple[Manifest, ...]) -> Iterator[tuple[str, Document]]:
    """The pod templates: the name of what makes them, and labels with the pod's spec."""
    for one in manifests:
        if one.kind in {"Deployment", "Job"}:
            yield one.name, one.document["spec"]["template"]


def container(pod: Document, name: str) -> Document:
    spec = pod["spec"]
    (found,) = [one for one in all_containers(spec) if one["name"] == name]
    return found


def all_containers(spec: Document) -> list[Document]:
    return [*spec.get("initContainers", []), *spec["containers"]]
