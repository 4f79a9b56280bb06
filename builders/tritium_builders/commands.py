"""The builders' verbs: `tritium train`, `tritium build`, `tritium inspect`."""

from __future__ import annotations

import platform
import sys
import time
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from tritium_builders.errors import TritiumError, needs


class BuildTarget(str, Enum):
    """What this machine can build for."""

    openvino = "openvino"
    onnxruntime = "onnxruntime"


def register(app: typer.Typer) -> None:
    """Add the builders' verbs to the `tritium` command."""
    from tritium_builders.training.command import train_command

    app.command("train")(train_command)
    app.command("build")(build_command)
    app.command("inspect")(inspect_command)


def build_command(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.", show_default=False)],
    target: Annotated[BuildTarget, typer.Option(help="What to compile for.")] = (
        BuildTarget.openvino
    ),
    repository: Annotated[Path, typer.Option(help="The Triton model repository.")] = Path(
        "model_repository"
    ),
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build even when this release is already there.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print release.json.")] = False,
) -> None:
    """Build a bundle: export, compile, verify against PyTorch, publish as a release.

    Nothing is published unless every stage answers what PyTorch answers.

    Examples:

        tritium build bundles/openmoji

        tritium build bundles/openmoji --target onnxruntime --repository /srv/models
    """
    require_platform()
    from rich.console import Console

    from tritium_builders.inspect import parity_table

    console = Console(stderr=as_json)
    steps: dict[str, float] = {}
    with console.status("loading the bundle") as status:
        with needs("build"):
            from tritium_builders.builder import build

        def progress(step: str, item: str) -> None:
            steps.setdefault(step, time.perf_counter())
            status.update(f"{step} {item}")

        started = time.perf_counter()
        release = build(
            bundle,
            target=target.value,
            repository=repository,
            rebuild=rebuild,
            progress=progress,
        )
        ended = time.perf_counter()
    folder = repository / release.alias(release.entry_points[0]) / str(release.number)
    if as_json:
        sys.stdout.write(release.model_dump_json(indent=2) + "\n")
        return
    if not steps:
        console.print(f"{release.app} release {release.number} is already built: {folder}")
        return
    console.print(parity_table(release))
    marks = [started, *steps.values(), ended]
    names = ["load", *steps]
    spent = zip(names, marks, marks[1:], strict=False)
    console.print(", ".join(f"{name} {end - begin:.1f} s" for name, begin, end in spent))
    console.print(f"published {release.app} release {release.number}: {folder}", style="bold")


def inspect_command(
    path: Annotated[
        Path, typer.Argument(help="A bundle, a release or a repository.", show_default=False)
    ] = Path("model_repository"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what is in a bundle, a release or a repository, and check that it is whole.

    Examples:

        tritium inspect bundles/openmoji

        tritium inspect model_repository/openmoji_classify/1 --json
    """
    import json

    from rich.console import Console

    with needs("build"):
        from tritium_builders.inspect import describe

        document, picture = describe(path)
    if as_json:
        sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=2) + "\n")
    else:
        Console().print(picture)


def require_platform() -> None:
    """Refuse machines that the builders do not run on, in one line.

    Raises:
        TritiumError: naming what was found and what is needed.
    """
    found = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    supported = sys.platform == "linux" and platform.machine() == "x86_64"
    if not (supported and sys.version_info[:2] in {(3, 11), (3, 12)}):
        raise TritiumError(f"needs Linux x86-64 and Python 3.11 or 3.12; this is {found}")
