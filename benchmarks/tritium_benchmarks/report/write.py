"""Write a run's report beside its record."""

from __future__ import annotations

import base64
from importlib import resources
from pathlib import Path
from typing import Any

from tritium_benchmarks.contenders import CONTENDERS, LIMIT
from tritium_benchmarks.errors import RecordError
from tritium_benchmarks.ratios import AGREE_WITHIN, complete_repeats, headline, noise
from tritium_benchmarks.records import RunRecord
from tritium_benchmarks.report.plots import plots
from tritium_benchmarks.report.tables import tables

MARKDOWN, HTML = "report.md", "report.html"
LIMIT_ABOUT = "the same work in a loop with no server, one pinned worker for each core"


def write_report(record: RunRecord, folder: Path) -> tuple[Path, Path]:
    """Write `report.md` and `report.html`.

    Args:
        record: The run, also one that was interrupted.
        folder: Where.

    Returns:
        Both paths.

    Raises:
        RecordError: they cannot be written.
    """
    pages = {MARKDOWN: to_markdown(record), HTML: to_html(record)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, page in pages.items():
            (folder / name).write_text(page, encoding="utf-8")
    except OSError as error:
        raise RecordError(
            f"the report cannot be written to {folder} ({error.strerror}); the measurements are in "
            "its run.json if that was written"
        ) from error
    return folder / MARKDOWN, folder / HTML


def verdict(record: RunRecord) -> list[str]:
    """The headline, or why there is none."""
    if not any(name != LIMIT for name in headline(record)):
        return []
    problems = noise(record)
    if problems:
        return [
            f"Too noisy for a headline: ratios must agree within {AGREE_WITHIN:.0%} between the "
            "two halves of the run. "
            + "; ".join(problems)
            + ". Measure longer, on a quiet machine."
        ]
    return [
        f"{ratio} of the {record.contenders[name].lower()}"
        if name == LIMIT
        else f"{ratio} times the throughput of {record.contenders[name]}"
        for name, ratio in headline(record).items()
    ]


def to_markdown(record: RunRecord) -> str:
    """The run as Markdown."""
    parts = [f"# {record.app}: {record.workload.name}\n", f"{record.workload.about}\n"]
    if record.ended != "complete":
        parts.append(f"**Not complete: {record.ended}.**\n")
    lines = verdict(record)
    if lines:
        parts.append("".join(f"- {line}\n" for line in lines))
    for table in tables(record):
        parts.append(f"## {table.title}\n")
        parts.append(table.to_markdown())
        if table.note:
            parts.append(f"{table.note}\n")
    parts.append("## What it holds for\n")
    parts.append("".join(f"- {key}: {value}\n" for key, value in facts(record).items()))
    return "\n".join(parts)


def to_html(record: RunRecord) -> str:
    """The run as one page that needs nothing else."""
    import jinja2

    template = resources.files(__package__).joinpath("report.html.j2").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(template).render(
        record=record,
        verdict=verdict(record),
        noisy=bool(noise(record)),
        tables=tables(record),
        plots={title: _as_address(svg) for title, svg in plots(record).items()},
        facts=facts(record),
    )


def _as_address(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def facts(record: RunRecord) -> dict[str, str]:
    """What the figures hold for, in words."""
    known: dict[str, Any] = record.manifest
    found = {
        "Measured": f"{known['started']}, {complete_repeats(record)} complete repeats",
        "Command": known["command"],
        "Machine": f"{known['processor']}, {known['cores']} cores, {known['memory_gib']} GiB; "
        f"{', '.join(known['flags']) or 'no vector units that engines look for'}",
        "System": f"Linux {known['kernel']}, glibc {known['glibc']}, Python {known['python']}",
        "Versions": ", ".join(f"{name} {value}" for name, value in known["versions"].items()),
        "perf_analyzer": known["perf_analyzer"],
        "Commit": known["commit"] or "no checkout",
    }
    release = known.get("release")
    if release:
        found["Release"] = (
            f"{record.app} {release['number']}: {release['target']}, {release['precision']}, "
            f"bundle {release['bundle'][:12]}"
        )
    for name, title in record.contenders.items():
        found[title] = LIMIT_ABOUT if name == LIMIT else CONTENDERS[name].about
    return found
