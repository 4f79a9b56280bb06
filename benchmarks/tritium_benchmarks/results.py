"""What a benchmark leaves: a table for people, and the figures that it was made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_results(folder: Path, name: str, document: Any, table: str) -> None:
    """Write `<name>.json` and `<name>.md`; what an earlier run left there is replaced.

    Args:
        folder: Made when it is not there.
        name: Of both files, without their endings.
        document: JSON values.
        table: Markdown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(to_json(document), encoding="utf-8")
    (folder / f"{name}.md").write_text(table, encoding="utf-8")


def to_json(document: Any) -> str:
    """JSON that shows in a diff which figures changed."""
    return json.dumps(document, indent=1) + "\n"
