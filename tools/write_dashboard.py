"""Write Grafana's dashboard: `make dashboard`.

deploy/monitoring/grafana/dashboards/tritium.json comes from the charts below; a test runs this and
compares. Queries name what rules/recording.yml records, and what servers export.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableRefresh
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DASHBOARD = Path(__file__).parents[1] / "deploy/monitoring/grafana/dashboards/tritium.json"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
COLUMNS = 24
"""Of Grafana's grid."""
HERE = 'instance=~"$instance", app=~"$app"'
RELEASE = f'{HERE}, release=~"$release"'
OF_RELEASE = 'and on (model) tritium_model_info{app=~"$app", release=~"$release"}'
"""Keeps components that belong to the chosen releases; one may belong to several."""

Panel = timeseries.Panel | stat.Panel | table.Panel


@dataclass(frozen=True)
class Chart:
    """One panel."""

    title: str
    unit: str
    """Grafana's id of it, for instance `s` or `percentunit`."""
    queries: dict[str, str]
    """Legend -> PromQL."""
    text: str = ""
    """What a reader has to know."""
    kind: Literal["lines", "number", "table"] = "lines"
    width: int = 8

    def panel(self) -> Panel:
        """What Grafana shows."""
        panel: Panel
        if self.kind == "lines":
            legend = common.VizLegendOptions().show_legend(True)
            legend.display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
            panel = timeseries.Panel().legend(legend).min(0).fill_opacity(5)
        else:
            panel = stat.Panel() if self.kind == "number" else table.Panel()
        panel.title(self.title).description(self.text).unit(self.unit).datasource(SOURCE)
        panel.span(self.width).height(4 if self.kind == "number" else 8)
        for number, (legend_text, expression) in enumerate(self.queries.items()):
            query = prometheus.Dataquery().expr(expression).legend_format(legend_text)
            query.ref_id(chr(ord("A") + number))
            if self.kind == "lines":
                query.range()
            else:
                query.instant()
            if self.kind == "table":
                query.format(PromQueryFormat.TABLE)
            panel.with_target(query)
        return panel


def quantiles(metric: str, labels: str, legend: str, keep: str = "") -> dict[str, str]:
    """p50, p95 and p99 of a recorded summary."""
    return {
        f"p{percent} {legend}": f'{metric}{{{labels}, quantile="{percent / 100:g}"}}{keep}'
        for percent in (50, 95, 99)
    }


ROWS: dict[str, list[Chart]] = {
    "Now": [
        Chart(
            "Servers",
            "none",
            {"answer": 'count(up{job="tritium", instance=~"$instance"} == 1)'},
            kind="number",
            width=4,
        ),
        Chart(
            "Ready",
            "percentunit",
            {"{{app}}": f"avg by (app) (tritium_ready{{{HERE}}})"},
            "Share of the servers that answer an app's golden samples.",
            kind="number",
            width=4,
        ),
        Chart(
            "Goodput",
            "reqps",
            {"{{app}}": f"sum by (app) (tritium:goodput:rate5m{{{HERE}}})"},
            "Answers in a second, cached ones included. Golden samples and shadows are among them.",
            kind="number",
            width=4,
        ),
        Chart(
            "Errors",
            "percentunit",
            {"{{app}}": 'tritium:error_ratio:rate5m{app=~"$app"}'},
            "Share of the requests that fail; inputs that were refused as broken do not count.",
            kind="number",
            width=4,
        ),
        Chart(
            "Golden p95",
            "s",
            {"{{app}}": 'tritium:golden_probe_seconds:p95_15m{app=~"$app"}'},
            "Of golden samples, which every server is asked every ten seconds.",
            kind="number",
            width=4,
        ),
        Chart(
            "Stub restarts, 15 min",
            "none",
            {"restarts": 'sum(tritium:stub_restarts:increase15m{app=~"$app"})'},
            kind="number",
            width=4,
        ),
    ],
    "Apps and releases": [
        Chart(
            "Releases",
            "none",
            {"": f"count by (app, release, stage) (tritium_release_info{{{HERE}}})"},
            "How many servers have a release, and as what.",
            kind="table",
        ),
        Chart(
            "Share of a candidate",
            "percent",
            {
                "{{app}} r{{release}} {{share}}": (
                    f"max by (app, release, share) (tritium_rollout_percent{{{RELEASE}}})"
                )
            },
            "Canary: of keys whose requests it answers. Shadow: of requests that it is asked too.",
        ),
        Chart(
            "Answers",
            "reqps",
            {
                "{{entry_point}} r{{release}}": (
                    f"sum by (entry_point, release) (tritium:requests:rate5m{{{RELEASE}}})"
                ),
                "{{app}} cached": f"sum by (app) (tritium:cache_hits:rate5m{{{HERE}}})",
            },
        ),
        Chart(
            "Latency of entry points",
            "s",
            quantiles(
                "tritium:latency_seconds", RELEASE, "{{entry_point}} r{{release}} {{instance}}"
            ),
            "Inside the server, of the last minute. Each server for itself: this Triton has "
            "quantiles, which cannot be combined, and no histograms. Cached answers not included.",
            width=12,
        ),
        Chart(
            "Mean latency",
            "s",
            {
                "{{app}} r{{release}}": (
                    'tritium:release_latency_seconds:mean5m{app=~"$app", release=~"$release"}'
                ),
                "{{entry_point}} r{{release}}": (
                    'tritium:latency_seconds:mean5m{app=~"$app", release=~"$release"}'
                ),
            },
            "Over all servers; canary beside live.",
            width=6,
        ),
        Chart(
            "Failing requests of releases",
            "percentunit",
            {
                "{{app}} r{{release}}": (
                    'tritium:release_error_ratio:rate5m{app=~"$app", release=~"$release"}'
                )
            },
            "Over all servers; refused inputs included.",
            width=6,
        ),
        Chart(
            "Failures by reason",
            "reqps",
            {
                "{{step}} {{reason}}": (
                    f"sum by (step, reason) (tritium:step_failures:rate5m{{{HERE}}} {OF_RELEASE})"
                ),
                "{{app}} refused inputs": f"sum by (app) (tritium:refused:rate5m{{{HERE}}})",
            },
            "BACKEND: the step broke, or its process died. REJECTED: the time in its queue was "
            "over. CANCELED: the caller gave up. A full queue is seen by release alone.",
        ),
        Chart(
            "Cache hits",
            "percentunit",
            {"{{app}}": 'tritium:cache_hit_ratio:rate5m{app=~"$app"}'},
            "Share of requests that are answered from the response cache, where there is one.",
        ),
        Chart(
            "Golden samples",
            "s",
            {
                "p95 {{app}}": 'tritium:golden_probe_seconds:p95_15m{app=~"$app"}',
                "failures {{app}} {{instance}}": (
                    f"increase(tritium_golden_probe_failures_total{{{HERE}}}[$__rate_interval])"
                ),
            },
        ),
    ],
    "Steps": [
        Chart(
            "Requests and executions",
            "ops",
            {
                "{{step}} requests": (
                    f"sum by (step) (tritium:step_requests:rate5m{{{HERE}}} {OF_RELEASE})"
                ),
                "{{step}} executions": (
                    f"sum by (step) (tritium:step_executions:rate5m{{{HERE}}} {OF_RELEASE})"
                ),
            },
        ),
        Chart(
            "Batch size",
            "none",
            {"{{step}} {{instance}}": f"tritium:batch_size:mean5m{{{HERE}}} {OF_RELEASE}"},
            "Requests in one execution.",
        ),
        Chart(
            "Waiting",
            "s",
            {"{{step}} {{instance}}": f"tritium:queue_seconds:mean5m{{{HERE}}} {OF_RELEASE}"},
            "Mean time in the queue of a step.",
        ),
        Chart(
            "Queue",
            "none",
            {"{{step}} {{instance}}": f"tritium:queued_requests{{{HERE}}} {OF_RELEASE}"},
            "Requests that wait; 256 at most.",
        ),
        Chart(
            "Latency of steps",
            "s",
            quantiles(
                "tritium:step_latency_seconds", HERE, "{{step}} {{instance}}", f" {OF_RELEASE}"
            ),
            "Waiting and computing, of the last minute. Steps inside `encoders` have means alone.",
        ),
        Chart(
            "Computing inside encoders",
            "s",
            {
                "{{step}} {{instance}}": (
                    f"tritium:step_compute_seconds:mean5m{{{HERE}}} {OF_RELEASE}"
                )
            },
            "For each request.",
        ),
    ],
    "Servers": [
        Chart(
            "States",
            "none",
            {"{{app}} {{instance}} {{state}}": f"tritium_app_state{{{HERE}}} == 1"},
            kind="table",
        ),
        Chart(
            "Stub restarts",
            "none",
            {
                "{{step}} {{instance}}": (
                    f"tritium:stub_restarts:increase15m{{{HERE}}} {OF_RELEASE}"
                )
            },
            "In the 15 minutes before. Triton never starts a dead stub again; tritium serve does.",
        ),
        Chart(
            "Stubs",
            "none",
            {"{{model}} {{instance}}": 'tritium_stubs{instance=~"$instance"}'},
        ),
        Chart(
            "Memory",
            "bytes",
            {
                "{{process}} {{model}} {{instance}}": (
                    'tritium_resident_memory_bytes{instance=~"$instance"}'
                ),
                "all {{instance}}": 'tritium:resident_memory_bytes{instance=~"$instance"}',
                "limit {{instance}}": 'tritium_memory_limit_bytes{instance=~"$instance"}',
            },
            "Resident. Pages that processes share count for each of them.",
        ),
        Chart(
            "Free space",
            "percentunit",
            {
                "{{filesystem}} {{instance}}": (
                    'tritium_filesystem_free_bytes{instance=~"$instance"} '
                    "/ tritium_filesystem_size_bytes"
                )
            },
        ),
        Chart(
            "Processor",
            "percentunit",
            {"{{instance}}": 'nv_cpu_utilization{instance=~"$instance"}'},
            "Of the whole machine.",
        ),
        Chart(
            "Versions",
            "none",
            {"": 'tritium_build_info{instance=~"$instance"}'},
            kind="table",
            width=COLUMNS,
        ),
    ],
}


def choice(name: str, metric: str) -> dashboard.QueryVariable:
    """A variable with the values that a label has."""
    return (
        dashboard.QueryVariable(name)
        .label(name.capitalize())
        .datasource(SOURCE)
        .query(f"label_values({metric}, {name})")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def build() -> str:
    """The dashboard, as JSON text."""
    board = (
        dashboard.Dashboard("Tritium")
        .uid("tritium")
        .description("Written by tools/write_dashboard.py: change it there.")
        .tags(["tritium"])
        .readonly()
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("30s")
        .with_variable(dashboard.DatasourceVariable("datasource").type("prometheus"))
        .with_variable(choice("instance", "tritium_ready"))
        .with_variable(choice("app", 'tritium_ready{instance=~"$instance"}'))
        .with_variable(choice("release", 'tritium_release_info{app=~"$app"}'))
    )
    for title, charts in ROWS.items():
        board.with_row(dashboard.Row(title))
        for chart in charts:
            board.with_panel(chart.panel())
    return json.dumps(board.build(), cls=JSONEncoder, sort_keys=True, indent=2) + "\n"


def main() -> None:
    """Write it, or with `--check` fail where what is there differs."""
    written = build()
    if "--check" in sys.argv[1:]:
        sys.exit(DASHBOARD.read_text("utf-8") != written)
    DASHBOARD.write_text(written, "utf-8")


if __name__ == "__main__":
    main()
