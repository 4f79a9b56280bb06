"""The builders' verbs, `train` to `inspect`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tritium_builders.errors import needs


def register(app: typer.Typer) -> None:
    """Add the builders' verbs to the `tritium` command."""
    from tritium_builders.build_command import build_command
    from tritium_builders.ensembles.command import ensemble_command
    from tritium_builders.explain.command import explain_command
    from tritium_builders.reports.command import report_command
    from tritium_builders.signing_commands import keygen_command, sign_command
    from tritium_builders.training.command import data_app, train_command
    from tritium_builders.training.pretraining.command import pretrain_command

    app.command("train")(train_command)
    app.command("report")(report_command)
    app.command("pretrain")(pretrain_command)
    app.add_typer(data_app)
    app.command("ensemble")(ensemble_command)
    app.command("build")(build_command)
    app.command("explain")(explain_command)
    app.command("keygen")(keygen_command)
    app.command("sign")(sign_command)
    app.command("inspect")(inspect_command)


def inspect_command(
    path: Annotated[
        Path, typer.Argument(help="A bundle, a release or a repository.", show_default=False)
    ] = Path("model_repository"),
    lint: Annotated[
        bool,
        typer.Option("--lint", help="Find configs of a repository that do not fit each other."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what is in a bundle, a release or a repository, and check that it is whole.

    Examples:

        tritium inspect bundles/openmoji

        tritium inspect model_repository/openmoji_classify/1 --json

        tritium inspect --lint model_repository

    Exit codes: 0 shown, and with --lint nothing found; 1 it cannot be read, or --lint found
    something; 2 wrong usage.
    """
    import json

    from rich.console import Console

    if lint:
        _lint(path, as_json)
        return

    with needs("build"):
        from tritium_builders.inspect import describe

        document, picture = describe(path)
    if as_json:
        sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=2) + "\n")
    else:
        Console().print(picture)


def _lint(repository: Path, as_json: bool) -> None:
    import json

    from rich.console import Console

    with needs("build"):
        from tritium_builders.lint import lint_repository

    found = lint_repository(repository)
    if as_json:
        findings = [finding.as_dict() for finding in found.findings]
        document = {"models": found.models, "findings": findings}
        sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=2) + "\n")
    else:
        console = Console(highlight=False, soft_wrap=True)
        for finding in found.findings:
            console.print(str(finding), markup=False)
        count = len(found.findings)
        console.print(f"{found.models} models, {count} finding{'' if count == 1 else 's'}")
    if found.findings:
        raise typer.Exit(1)
