"""`tritium train` for launchers of several processes, which start a module.

torchrun --standalone --nproc_per_node 2 -m tritium_builders.training recipe.toml --out bundles/app
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path


def main() -> None:
    """Run `tritium train` with the arguments of this process; the first process prints."""
    from tritium_client.cli import main as tritium

    sys.argv[1:1] = ["train"]
    first = os.environ.get("RANK", "0") == "0"
    with (
        contextlib.nullcontext() if first else Path(os.devnull).open("w", encoding="utf-8") as sink,
        contextlib.nullcontext() if first else contextlib.redirect_stdout(sink),
    ):
        try:
            tritium()
        finally:
            _leave()


def _leave() -> None:
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
