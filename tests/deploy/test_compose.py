"""compose.yaml: what Compose takes, what is there, and what nobody else reaches.

No daemon runs here, so that it is checked against the specification's own JSON schema.
"""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema.validators import validator_for

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "deploy" / "docker" / "compose.yaml"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text("utf-8"))["services"]
each = pytest.mark.parametrize("name", sorted(SERVICES))


def problems(document: Any) -> list[str]:
    """What the specification's schema, which check-jsonschema carries, says of a file."""
    folder = files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema = json.loads((folder / "compose-spec.json").read_text("utf-8"))
    return [one.message for one in validator_for(schema)(schema).iter_errors(document)]


def test_it_is_what_the_specification_allows() -> None:
    assert problems(yaml.safe_load(COMPOSE.read_text("utf-8"))) == []
    (told,) = problems({"services": {"serve": {"image": "a:1", "shm": "1gb"}}})
    assert "'shm' was unexpected" in told


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_each_profile_is_whole(profile: str) -> None:
    chosen = {name for name, one in SERVICES.items() if profile in one["profiles"]}
    assert chosen == {f"serve-{profile}", "prometheus", "grafana"}
    for name in chosen:
        for needed in SERVICES[name].get("depends_on", {}):
            assert needed in chosen
            assert SERVICES[needed]["healthcheck"]


@each
def test_containers_can_do_little(name: str) -> None:
    one = SERVICES[name]
    assert one["read_only"] is True
    assert one["cap_drop"] == ["ALL"]
    assert one["security_opt"] == ["no-new-privileges:true"]
    assert not one["user"].startswith(("0", "root"))
    assert re.search(r":v?\d+\.\d+[\w.]*$", one["image"])
    assert "privileged" not in one
    for port in one["ports"]:
        assert port.startswith("127.0.0.1:"), f"{port} is open to other machines"


@each
def test_what_is_mounted_is_there_and_read_only(name: str) -> None:
    named = yaml.safe_load(COMPOSE.read_text("utf-8"))["volumes"]
    for volume in SERVICES[name]["volumes"]:
        if isinstance(volume, dict):
            assert volume["read_only"] is True
            source = re.sub(r"\$\{\w+:-(.*)\}", r"\1", volume["source"])
            assert (COMPOSE.parent / source).is_dir()
            continue
        source, _, options = volume.partition(":")
        if source not in named:
            assert options.endswith(":ro"), volume
            assert (COMPOSE.parent / source).exists(), volume


@pytest.mark.parametrize("name", ["serve-cpu", "serve-gpu"])
def test_a_server_is_given_what_it_needs(name: str) -> None:
    one = SERVICES[name]
    # --drain-timeout, and what tritonserver takes to end.
    assert int(one["stop_grace_period"].removesuffix("s")) >= 30 + 10
    assert one["shm_size"] == "1gb"
    assert [path.partition(":")[0] for path in one["tmpfs"]] == ["/tmp"]
    assert (COMPOSE.parent / one["build"]["context"] / one["build"]["dockerfile"]).is_file()
    tag = one["image"]
    assert f"-t {tag} ." in (ROOT / one["build"]["dockerfile"]).read_text(encoding="utf-8")


def test_prometheus_finds_the_server_by_its_name() -> None:
    config = yaml.safe_load((ROOT / "deploy/monitoring/prometheus.yml").read_text("utf-8"))
    asked = {
        (name, job["dns_sd_configs"][0]["port"])
        for job in config["scrape_configs"]
        for name in job["dns_sd_configs"][0]["names"]
    }
    assert asked == {("tritium", 8002), ("tritium", 8003)}
    for profile in ("cpu", "gpu"):
        assert "tritium" in SERVICES[f"serve-{profile}"]["networks"]["tritium"]["aliases"]
    mounted = dict(one.split(":")[:2] for one in SERVICES["prometheus"]["volumes"])
    assert config["rule_files"] == ["rules/*.yml"]
    assert mounted["../monitoring/rules"] == "/etc/prometheus/rules"
    assert mounted["../monitoring/prometheus.yml"] == "/etc/prometheus/prometheus.yml"


def test_grafana_finds_its_dashboard_where_it_is_told_to_look() -> None:
    folder = ROOT / "deploy/monitoring/grafana/provisioning/dashboards"
    (file,) = folder.glob("*.yml")
    (provider,) = yaml.safe_load(file.read_text("utf-8"))["providers"]
    mounted = dict(one.split(":")[:2] for one in SERVICES["grafana"]["volumes"])
    assert mounted["../monitoring/grafana/dashboards"] == provider["options"]["path"]
    assert mounted["../monitoring/grafana/provisioning"] == "/etc/grafana/provisioning"


def test_no_password_is_needed_or_written_down() -> None:
    text = COMPOSE.read_text("utf-8")
    assert not re.search(r"(password|secret|token)\w*\s*[:=]\s*\S", text, re.IGNORECASE)
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
