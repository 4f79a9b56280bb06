"""What is in a bundle or a release, for people (Rich tables) and scripts (JSON)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from tritium_builders.bundle import MANIFEST, Bundle
from tritium_builders.errors import TritiumError
from tritium_builders.precision.accuracy import describe as describe_accuracy
from tritium_builders.release import (
    RELEASE_FILE,
    AccuracyReport,
    ComponentCast,
    ParityReport,
    Release,
    RuntimeChoice,
    list_apps,
    list_releases,
    live_release,
    load_release,
    release_folder,
)
from tritium_client.contract import Role

ISLANDS_SHOWN = 6


def describe(path: Path) -> tuple[dict[str, Any], RenderableType]:
    """Describe a bundle, a release folder, or a whole repository.

    Args:
        path: A bundle's folder, a release's (`<app>_classify/<R>`), or a model repository.

    Returns:
        A JSON object and something for Rich to print.

    Raises:
        TritiumError: when the folder is none of these, or is damaged.
    """
    if (path / MANIFEST).exists():
        return _describe_bundle(Bundle.load(path))
    if (path / RELEASE_FILE).exists():
        return _describe_release(load_release(path))
    if path.is_dir() and (apps := list_apps(path)):
        return _describe_repository(path, apps)
    raise TritiumError(
        f"{path}: holds neither {MANIFEST} (a bundle), {RELEASE_FILE} (a release) nor any app's "
        "releases (a repository); give one of these folders"
    )


def _describe_bundle(bundle: Bundle) -> tuple[dict[str, Any], RenderableType]:
    manifest = bundle.manifest
    sizes = {
        name: sum(
            entry.bytes for path, entry in manifest.files.items() if path.startswith(f"{name}/")
        )
        for name in ("text_encoder", "image_encoder", "fusion_head")
    }
    samples = {
        "golden": len(bundle.golden),
        "calibration": len(bundle.calibration),
        "validation": len(bundle.validation),
    }
    document = {
        "kind": "bundle",
        "hash": bundle.hash,
        "samples": samples,
        "component_bytes": sizes,
        **manifest.model_dump(mode="json", exclude={"files"}),
    }
    facts = _facts(f"bundle {bundle.folder}")
    facts.add_row("app", manifest.app)
    facts.add_row("task", f"{manifest.task}, {len(manifest.labels)} labels")
    facts.add_row("labels", ", ".join(manifest.labels))
    facts.add_row("callers give", _entry_points(manifest.entry_points))
    facts.add_row("text", str(manifest.text))
    facts.add_row("image", str(manifest.image))
    facts.add_row("fusion", manifest.fusion_head.strategy)
    facts.add_row("samples", ", ".join(f"{count} {name}" for name, count in samples.items()))
    facts.add_row("weights", f"{manifest.sources.weights} ({manifest.sources.weights_licence})")
    facts.add_row("data", f"{manifest.sources.data} ({manifest.sources.data_licence})")
    facts.add_row("hash", bundle.hash)
    parts = Table("component", "architecture", "features", "size", title="components")
    for name, entry in (
        ("text_encoder", manifest.text_encoder),
        ("image_encoder", manifest.image_encoder),
    ):
        shape = f"{entry.features} {entry.shape}"
        parts.add_row(name, entry.architecture, shape, _megabytes(sizes[name]))
    head = manifest.fusion_head.architecture
    parts.add_row("fusion_head", head, "", _megabytes(sizes["fusion_head"]))
    return document, Group(facts, parts)


def _describe_release(release: Release) -> tuple[dict[str, Any], RenderableType]:
    facts = _facts(f"{release.app} release {release.number}")
    facts.add_row("target", f"{release.target}, {release.precision}")
    facts.add_row("labels", ", ".join(release.labels))
    facts.add_row("callers give", _entry_points(release.entry_points))
    facts.add_row("bundle", release.bundle_hash)
    facts.add_row("built", f"{release.created} by: {release.command}")
    facts.add_row("tools", ", ".join(f"{name} {what}" for name, what in release.tools.items()))
    components = Table("role", "Triton model", "files", "size", title="components")
    for role, component in release.components.items():
        total = sum(file.bytes for file in component.files.values())
        components.add_row(role, component.model, str(len(component.files)), _megabytes(total))
    if release.tensorrt is not None:
        built = release.tensorrt
        facts.add_row(
            "TensorRT", f"{built.version} for compute capability {built.compute_capability}"
        )
    shown: list[RenderableType] = [facts, components, parity_table(release.parity)]
    if release.choice is not None:
        shown.append(choice_line(release.choice))
    if release.accuracy is not None:
        shown += [casts_table(release.casts)] if release.casts else []
        shown.append(accuracy_line(release.precision, release.accuracy))
    return {"kind": "release", **release.model_dump(mode="json")}, Group(*shown)


def casts_table(casts: Mapping[Role, ComponentCast]) -> Table:
    """Show how each graph was cast, and how far its answers are from fp32's."""
    table = Table(title="precision, against fp32 on the calibration samples")
    table.add_column("component", no_wrap=True)
    for heading in ("precision", "ONNX", "nodes", "cosine", "largest difference", "islands"):
        table.add_column(heading)
    for role, cast in casts.items():
        shown = cast.islands[:ISLANDS_SHOWN]
        more = len(cast.islands) - len(shown)
        table.add_row(
            role,
            cast.precision,
            _megabytes(cast.onnx_bytes),
            str(cast.nodes),
            f"{cast.cosine:.7f}",
            f"{cast.largest_difference:.2g}",
            ", ".join(shown) + (f" and {more} more" if more else ""),
        )
    return table


def accuracy_line(precision: str, accuracy: AccuracyReport) -> str:
    """Say what the precision costs in top-1."""
    return f"top-1, {precision} against fp32: {describe_accuracy(accuracy)}"


def choice_line(choice: RuntimeChoice) -> str:
    """Say why a release runs on the runtime that it has."""
    rates = ", ".join(
        f"{candidate} {rate:.1f} answers/s, {choice.alone_ms[candidate]:.1f} ms alone"
        for candidate, rate in choice.per_second.items()
    )
    threads = "1 thread" if choice.threads == 1 else f"{choice.threads} threads"
    chosen = f"target {choice.target}"
    if choice.precision != "fp32":
        chosen += f", precision {choice.precision}"
    refused = "".join(f"; {name} not taken: {why}" for name, why in choice.refused.items())
    return f"{chosen}, measured here (one instance, {threads}): {rates}{refused}"


def parity_table(parity: ParityReport) -> Table:
    """Show what the parity gate measured."""
    tolerance = parity.tolerance
    table = Table("stage", "output", "largest difference", "cosine at least", title="parity")
    for stage in parity.stages:
        cosine = "" if stage.smallest_cosine is None else f"{stage.smallest_cosine:.7f}"
        table.add_row(stage.stage, stage.output, f"{stage.largest_difference:.2g}", cosine)
    table.caption = (
        f"tolerances: features cosine {tolerance.features_cosine}, relative "
        f"{tolerance.features_relative:g}; probabilities {tolerance.probabilities:g}; "
        "token ids and pixels equal"
    )
    return table


def _describe_repository(
    repository: Path, apps: list[str]
) -> tuple[dict[str, Any], RenderableType]:
    table = Table("app", "live", "releases", "target", "labels", title=f"repository {repository}")
    document: dict[str, Any] = {"kind": "repository", "apps": {}}
    for app in apps:
        numbers = list_releases(repository, app)
        live = live_release(repository, app)
        release = load_release(release_folder(repository, app, live or numbers[-1]))
        document["apps"][app] = {"live": live, "releases": numbers}
        target = f"{release.target}, {release.precision}"
        row = (str(live or "none"), ", ".join(map(str, numbers)), target, str(len(release.labels)))
        table.add_row(app, *row)
    return document, table


def _facts(title: str) -> Table:
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _entry_points(entry_points: list[list[Any]]) -> str:
    return "; ".join(" + ".join(given) for given in entry_points)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
