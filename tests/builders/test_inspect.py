"""`tritium inspect` and `tritium build`, as people and scripts see them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import tritium
from tests.support.command_line import tritium_inside
from tritium_builders import Bundle, build


@pytest.fixture(scope="module")
def repository(custom: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    build(custom, target="openvino", repository=folder)
    return folder


def test_a_bundle_is_described(custom: Bundle) -> None:
    shown = tritium("inspect", str(custom.folder))
    assert shown.returncode == 0, shown.stderr
    for word in ("custom", "ant, bee", "text + image; text; image", "attention", custom.hash[:12]):
        assert word in shown.stdout
    document = json.loads(tritium_inside("inspect", str(custom.folder), "--json").stdout)
    assert (document["kind"], document["hash"]) == ("bundle", custom.hash)
    assert document["samples"] == {"golden": 8, "calibration": 4, "validation": 4}


def test_a_release_is_described(repository: Path, custom: Bundle) -> None:
    folder = repository / "custom_classify" / "1"
    shown = tritium_inside("inspect", str(folder)).stdout
    assert "openvino, fp32" in shown
    assert "custom_text_encoder_" in shown
    assert "tolerances: features cosine 0.9999" in shown
    document = json.loads(tritium_inside("inspect", str(folder), "--json").stdout)
    assert (document["kind"], document["bundle_hash"]) == ("release", custom.hash)


def test_a_repository_is_described(repository: Path) -> None:
    document = json.loads(tritium_inside("inspect", str(repository), "--json").stdout)
    assert document["apps"] == {"custom": {"live": 1, "releases": [1]}}
    assert "custom" in tritium_inside("inspect", str(repository)).stdout


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda folder: None, "holds neither bundle.toml (a bundle), release.json (a release)"),
        (
            lambda folder: (folder / "release.json").write_text("{}"),
            "release.json: app: Field required; build the release again",
        ),
        (lambda folder: (folder / "bundle.toml").write_text("x ="), "bundle.toml: is not valid"),
    ],
)
def test_what_is_neither_is_one_clear_line(tmp_path: Path, make: object, line: str) -> None:
    make(tmp_path)  # type: ignore[operator]
    shown = tritium_inside("inspect", str(tmp_path))
    assert shown.returncode == 1
    assert line in shown.stderr
    assert len(shown.stderr.splitlines()) == 1


def test_build_prints_parity_and_says_when_it_is_already_built(
    custom: Bundle, tmp_path: Path
) -> None:
    arguments = ("build", str(custom.folder), "--repository", str(tmp_path))
    first = tritium(*arguments)
    assert first.returncode == 0, first.stderr
    words = " ".join(first.stdout.split())
    assert "text_encoder" in words
    assert "published custom release 1" in words
    assert all(f"{step} " in words for step in ("export", "compile", "verify", "publish"))
    again = tritium_inside(*arguments)
    assert "custom release 1 is already built" in " ".join(again.stdout.split())
    document = json.loads(tritium_inside(*arguments, "--json").stdout)
    chosen = document["choice"]["target"]
    assert (document["number"], document["target"]) == (1, chosen)
    assert f"target {chosen}, measured here" in words


def test_a_failed_build_is_one_line_and_exit_code_1(custom_copy: Path, tmp_path: Path) -> None:
    from tests.builders.test_bundle import edit

    edit(custom_copy, 'resample = "bicubic"', 'resample = "lanczos"')
    failed = tritium_inside("build", str(custom_copy), "--repository", str(tmp_path / "repository"))
    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1
    assert "parity: stage image_decoder, output pixels, sample sample-" in failed.stderr
    assert not (tmp_path / "repository" / "custom_classify").exists()


def test_an_unknown_target_is_wrong_usage(custom: Bundle) -> None:
    refused = tritium_inside("build", str(custom.folder), "--target", "cuda")
    assert refused.returncode == 2
    assert "openvino" in refused.stderr
