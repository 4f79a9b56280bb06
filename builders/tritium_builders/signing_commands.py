"""`tritium keygen` and `tritium sign`: releases that a server knows the origin of."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from tritium_builders.errors import needs


def keygen_command(
    path: Annotated[Path, typer.Argument(help="Gets the private key.", show_default=False)],
) -> None:
    """Draw a pair of Ed25519 keys: PATH signs releases, PATH.pub is for servers.

    Examples:

        tritium keygen signing.key

    Exit codes: 0 written; 1 there is a file already, or it cannot be written; 2 wrong usage.
    """
    with needs("build"):
        from tritium_builders.signing import make_keys

    public, name = make_keys(path)
    sys.stdout.write(f"{path} signs, keep it secret; {public} is for servers (key {name})\n")


def sign_command(
    app: Annotated[str, typer.Argument(help="The app.", show_default=False)],
    release: Annotated[int, typer.Argument(min=1, help="The release.", show_default=False)],
    key: Annotated[Path, typer.Option(help="The private key, from `tritium keygen`.")],
    repository: Annotated[Path, typer.Option(help="The Triton model repository.")] = Path(
        "model_repository"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print the signature.")] = False,
) -> None:
    """Sign a release: every file of it, in place of a signature that it may have.

    Examples:

        tritium sign openmoji 2 --key signing.key

    Exit codes: 0 signed; 1 there is no such release, or it is not as it was published; 2 wrong
    usage.
    """
    with needs("build"):
        from tritium_builders.signing import sign_release

    signature = sign_release(repository, app, release, key)
    if as_json:
        sys.stdout.write(json.dumps(signature.model_dump(), indent=2) + "\n")
    else:
        files = len(signature.files)
        sys.stdout.write(f"signed {app} release {release}: {files} files, key {signature.key}\n")
