"""What a run saw, for benchmarks/results/chaos.json and docs/chaos.md."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from tritium_benchmarks.report.pages import fill_places

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "benchmarks" / "results" / "chaos.json"
PAGE = ROOT / "docs" / "chaos.md"


def render(seen: dict[str, Any]) -> str:
    """The table of docs/chaos.md."""
    reasons: Counter[str] = Counter()
    for name, count in seen["failures"].items():
        reasons[name.rpartition(": ")[2]] += count
    blows = ", ".join(f"`{name}` {count}" for name, count in seen["blows"].items())
    why = ", ".join(f"`{name}` {count:,}" for name, count in sorted(reasons.items()))
    share = 100 * seen["failed"] / seen["asked"]
    rows = {
        "blows": f"{sum(seen['blows'].values()):,}: {blows}",
        "starts": f"servers {sum(seen['starts of servers']):,}, Envoy {seen['starts of Envoy']:,}",
        "asked": f"{seen['asked']:,} requests in {seen['seconds'] / 60:.0f} minutes",
        "answered, and rightly": f"{seen['answered']:,}",
        "failed with a reason": f"{seen['failed']:,} ({share:.2f} %): {why}",
        "lost, wrong, twice or late": f"{seen['broken']:,}",
        "slowest call": f"{seen['slowest call, s']:.1f} s; callers allow 3 s",
    }
    lines = ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())]
    seed = (
        f"Seed {seen['seed']}, {seen['machine']}: `TRITIUM_TEST_FULL=1 pytest tests/deploy/chaos`."
    )
    return "\n".join([*lines, "", seed]) + "\n"


def write(seen: dict[str, Any]) -> None:
    """Keep what was seen, and show it in the page."""
    RESULTS.write_text(json.dumps(seen, indent=2) + "\n", encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(fill_places(page, "chaos", {"ledger": render(seen)}), encoding="utf-8")
