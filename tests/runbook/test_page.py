"""docs/runbook.md has a chapter for every alert, and names what the chart makes."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.deploy.helm.charts import Manifest, container, render, server, values_of
from tests.runbook.pages import PAGE, chapters
from tests.support import monitoring

CHAPTERS = {chapter.anchor: chapter for chapter in chapters().values()}
ALERTS = [rule for rule in monitoring.rules() if rule.is_alert]
ANCHORS = sorted({rule.annotations["runbook_url"].partition("#")[2] for rule in ALERTS})
SEEN = re.compile(r"^\*\*Seen:\*\* (.+?)(?=^$)", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda rule: rule.name)
def test_the_chapter_that_an_alert_names_begins_with_it(alert: monitoring.Rule) -> None:
    page, _, anchor = alert.annotations["runbook_url"].partition("#")
    assert page == "docs/runbook.md"
    seen = SEEN.search(CHAPTERS[anchor].text)
    assert seen is not None
    assert re.search(rf"\b{alert.name}\b", seen[1])


def test_no_chapter_names_an_alert_that_is_not() -> None:
    named = set(re.findall(r"\bTritium[A-Z]\w+", PAGE.read_text("utf-8")))
    assert named == {rule.name for rule in ALERTS}


@pytest.mark.parametrize("anchor", ANCHORS)
def test_a_chapter_says_when_it_is_over_and_what_to_write_down(anchor: str) -> None:
    text = CHAPTERS[anchor].text
    assert [word for word in ("Seen:", "Over when", "Write down:") if f"**{word}" not in text] == []


def test_links_within_the_page_lead_to_a_chapter() -> None:
    links = set(re.findall(r"\]\(#([\w-]+)\)", PAGE.read_text("utf-8")))
    assert links
    assert links <= set(CHAPTERS)


def commands_of_kubernetes() -> list[list[str]]:
    """Every command line for Kubernetes, as words."""
    blocks = [block for chapter in CHAPTERS.values() for block in chapter.others]
    lines = "\n".join(blocks).replace("\\\n", " ").replace(" | ", "\n").splitlines()
    return [shlex.split(line) for line in lines if line]


@pytest.fixture(scope="module")
def made() -> tuple[Manifest, ...]:
    """What the release `tritium` is made of in the namespace `models`."""
    return render(values_of("tls"), name="tritium")


def test_what_kubectl_names_is_in_the_chart(made: tuple[Manifest, ...]) -> None:
    there = {(one.kind.lower(), one.name) for one in made}
    there |= {("secret", name) for name in re.findall(r"'secretName': '([\w-]+)'", str(made))}
    named = set()
    for words in commands_of_kubernetes():
        named |= {tuple(word.split("/")) for word in words if word.startswith("deployment/")}
        if "secret" in words:  # create secret generic|tls NAME
            named.add(("secret", words[words.index("secret") + 2]))
        if "poddisruptionbudget" in words:
            named.add(("poddisruptionbudget", words[words.index("poddisruptionbudget") + 1]))
    assert {kind for kind, _ in named} == {"deployment", "secret", "poddisruptionbudget"}
    assert named <= there


def test_what_kubectl_asks_of_a_pod_is_in_it(made: tuple[Manifest, ...]) -> None:
    pod = server(made)["spec"]["template"]
    serve = container(pod, "serve")
    ports = {str(port["containerPort"]) for port in serve["ports"]}
    looked = set()
    for words in commands_of_kubernetes():
        if "-l" in words:
            chosen = dict(one.split("=") for one in words[words.index("-l") + 1].split(","))
            assert chosen.items() <= pod["metadata"]["labels"].items()
        if "port-forward" in words:
            assert set(words[words.index("POD") + 1 :]) == ports
        if "-c" in words:
            assert words[words.index("-c") + 1] == "serve"
        looked |= {"-l", "port-forward", "-c"} & set(words)
    assert looked == {"-l", "port-forward", "-c"}


def test_what_helm_sets_is_a_value() -> None:
    settings = [
        words[words.index("--set") + 1].partition("=")
        for words in commands_of_kubernetes()
        if words[0] == "helm"
    ]
    assert settings == [("replicas", "=", "3")]
    assert server(render(values_of("tls") | {"replicas": 3}))["spec"]["replicas"] == 3
