"""What deploy/monitoring says: its rules, its dashboard, and the queries in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import promql_parser
import yaml

FOLDER = Path(__file__).parents[2] / "deploy" / "monitoring"
DASHBOARD = FOLDER / "grafana" / "dashboards" / "tritium.json"
COMPARISONS = ("==", "!=", ">", "<", ">=", "<=")
SETS = ("and", "or", "unless")


@dataclass(frozen=True)
class Rule:
    """One rule."""

    name: str
    """Of the alert, or of what is recorded."""
    expression: str
    is_alert: bool
    labels: dict[str, str]
    annotations: dict[str, str]
    for_: str


@cache
def rules() -> list[Rule]:
    """Every rule of deploy/monitoring/rules."""
    return [
        Rule(
            rule.get("alert") or rule["record"],
            rule["expr"],
            "alert" in rule,
            rule.get("labels", {}),
            rule.get("annotations", {}),
            rule.get("for", ""),
        )
        for path in sorted((FOLDER / "rules").glob("*.yml"))
        for group in yaml.safe_load(path.read_text("utf-8"))["groups"]
        for rule in group["rules"]
    ]


def dashboard() -> Any:
    """Grafana's dashboard."""
    return json.loads(DASHBOARD.read_text("utf-8"))


def panels() -> list[tuple[str, str]]:
    """Title and query of every panel, with every choice left open."""
    return [
        (panel["title"], fill_in(target["expr"]))
        for panel in dashboard()["panels"]
        for target in panel.get("targets", [])
    ]


def fill_in(query: str) -> str:
    """A dashboard's query as Grafana asks it with everything chosen."""
    query = query.replace("$__rate_interval", "1m")
    return re.sub(r"\$(instance|app|release)\b", ".*", query)


def metric_names(expression: str) -> set[str]:
    """The metrics that an expression reads."""
    names = set()

    def visit(node: Any) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            assert node.name, f"{node} names no metric"
            names.add(node.name)
        return True

    promql_parser.walk(promql_parser.parse(expression), visit)
    return names


def inner(expression: str) -> list[str]:
    """What an expression compares: in a healthy state each of these has data, though it has not."""
    # Nobody has looked for so long yet.
    return [str(leaf) for leaf in _leaves(promql_parser.parse(_without_offsets(expression)))]


def _without_offsets(expression: str) -> str:
    return re.sub(r" offset \d+[smhd]", "", expression)


def _leaves(node: Any) -> Iterator[Any]:
    if isinstance(node, promql_parser.ParenExpr):
        yield from _leaves(node.expr)
    elif isinstance(node, promql_parser.Call) and node.func.name == "absent":
        yield from _leaves(node.args[0])
    elif isinstance(node, promql_parser.BinaryExpr) and str(node.op) in (*COMPARISONS, *SETS):
        yield from _leaves(node.lhs)
        yield from _leaves(node.rhs)
    elif metric_names(str(node)):
        yield node


def names_in_the_chart() -> set[str]:
    """Triton's metrics that the Helm chart names, for instance to scale by."""
    chart = FOLDER.parent / "helm"
    files = (path for path in sorted(chart.rglob("*")) if path.is_file())
    return {name for path in files for name in re.findall(r"\bnv_[a-z_]+", path.read_text("utf-8"))}


PAGE = FOLDER.parents[1] / "docs" / "monitoring.md"
RUNBOOK = PAGE.with_name("runbook.md")


def listed_metrics() -> set[str]:
    """The metrics of `tritium serve` in the page's table."""
    return set(re.findall(r"^\| `(tritium_\w+)` \|", PAGE.read_text("utf-8"), re.MULTILINE))


def listed_alerts() -> dict[str, str]:
    """Alert -> severity, in the page's table."""
    return dict(re.findall(r"^\| (Tritium\w+) \| (\w+) \|", PAGE.read_text("utf-8"), re.MULTILINE))


@dataclass(frozen=True)
class AlertCase:
    """What promtool expects of one alert at one time."""

    alert: str
    fired: list[dict[str, str]]
    """The labels of what fires; empty for the case in which it does not."""


@cache
def alert_cases() -> list[AlertCase]:
    """Every case of deploy/monitoring/tests, one for each alert that it is about."""
    names = [rule.name for rule in rules() if rule.is_alert]
    return [
        AlertCase(name, [_labels(sample["labels"]) for sample in check["exp_samples"]])
        for path in sorted((FOLDER / "tests").glob("*.yml"))
        for test in yaml.safe_load(path.read_text("utf-8"))["tests"]
        for check in test["promql_expr_test"]
        for name in names
        if (asked := re.match(r'ALERTS\{alertname=~?"([^"]+)"', check["expr"]))
        and re.fullmatch(asked[1], name)
    ]


def _labels(series: str) -> dict[str, str]:
    return dict(re.findall(r'(\w+)="([^"]*)"', series))
