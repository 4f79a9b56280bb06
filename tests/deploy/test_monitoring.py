"""deploy/monitoring: rules that promtool has tried, and a dashboard that its source has written."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support import monitoring
from tests.support.monitoring import FOLDER, Rule
from tests.support.prometheus import program

from tritium_builders.configs import MAX_QUEUE

ROOT = Path(__file__).parents[2]
ALERTS = [rule for rule in monitoring.rules() if rule.is_alert]
SEVERITIES = {"critical", "warning", "info"}


def promtool(*arguments: str) -> None:
    done = subprocess.run(
        [program("promtool"), *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_configuration_and_the_rules() -> None:
    promtool("check", "config", "--lint-fatal", str(FOLDER / "prometheus.yml"))


def test_alerts_fire_when_they_should_and_else_do_not() -> None:
    promtool("test", "rules", *map(str, sorted((FOLDER / "tests").glob("*.yml"))))


@pytest.mark.parametrize("alert", ALERTS, ids=lambda rule: rule.name)
def test_every_alert_has_a_case_that_fires_and_one_that_does_not(alert: Rule) -> None:
    fired = [case.fired for case in monitoring.alert_cases() if case.alert == alert.name]
    alone = [series for case in fired for series in case if series["alertname"] == alert.name]
    assert [] in fired
    assert alone
    # A label that what fires does not have would leave a hole in the message.
    used = set(re.findall(r"\$labels\.(\w+)", " ".join(alert.annotations.values())))
    assert all(used <= series.keys() for series in alone)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda rule: rule.name)
def test_every_alert_says_what_is_wrong_and_where_to_read_on(alert: Rule) -> None:
    assert alert.annotations.keys() == {"summary", "description", "runbook_url"}
    assert alert.labels["severity"] in SEVERITIES
    page, _, anchor = alert.annotations["runbook_url"].partition("#")
    assert page == "docs/runbook.md"
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", anchor)
    if monitoring.RUNBOOK.exists():
        titles = re.findall(r"^#+ (.*)$", monitoring.RUNBOOK.read_text("utf-8"), re.MULTILINE)
        assert anchor in {re.sub(r"\W+", "-", title.lower()).strip("-") for title in titles}


def test_the_page_lists_every_alert() -> None:
    assert monitoring.listed_alerts() == {rule.name: rule.labels["severity"] for rule in ALERTS}


def test_queries_name_what_is_recorded() -> None:
    recorded = {rule.name for rule in monitoring.rules() if not rule.is_alert}
    asked = [rule.expression for rule in monitoring.rules()]
    asked += [query for _, query in monitoring.panels()]
    named = {name for query in asked for name in monitoring.metric_names(query) if ":" in name}
    assert named == recorded  # none is missing, and none is in vain


def test_the_dashboard_is_what_its_source_writes() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "write_dashboard.py"), "--check"],
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, "run `make dashboard`"


def test_a_panel_is_chosen_by_server_app_and_release() -> None:
    names = {variable["name"] for variable in monitoring.dashboard()["templating"]["list"]}
    assert names == {"datasource", "instance", "app", "release"}
    for panel in monitoring.dashboard()["panels"]:
        for target in panel.get("targets", []):
            assert re.search(r"\$(instance|app)\b", target["expr"]), panel["title"]


def test_a_queue_is_nearly_full_before_it_refuses() -> None:
    (alert,) = (rule for rule in ALERTS if rule.name == "TritiumSaturated")
    bound = re.search(r"queued_requests\) > (\d+)", alert.expression)
    assert bound is not None
    assert 0.5 * MAX_QUEUE < int(bound[1]) < 0.9 * MAX_QUEUE
