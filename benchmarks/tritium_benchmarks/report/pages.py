"""Put a run's tables into pages that people read: the README, docs/benchmarks.md.

    python -m tritium_benchmarks.report.pages benchmarks/results/bench README.md docs/benchmarks.md

A page says where, with `<!-- bench: NAME -->` and `<!-- /bench -->`; what is between is replaced.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tritium_benchmarks.errors import RecordError
from tritium_benchmarks.ratios import complete_repeats
from tritium_benchmarks.records import RunRecord, read_record
from tritium_benchmarks.report.tables import breakdown, comparison, throughput
from tritium_benchmarks.report.write import facts, verdict


def main(arguments: Sequence[str] | None = None) -> None:
    """Rewrite the pages."""
    parser = argparse.ArgumentParser(description="Put a run's tables into pages.")
    parser.add_argument("run", type=Path)
    parser.add_argument("pages", type=Path, nargs="+")
    given = parser.parse_args(arguments)
    record = read_record(given.run)
    for page in given.pages:
        page.write_text(filled(page.read_text("utf-8"), record), "utf-8")


def filled(page: str, record: RunRecord) -> str:
    """A page with a run's figures in its places.

    Raises:
        RecordError: the page asks for something that is not known.
    """
    return fill_places(page, "bench", parts(record))


def fill_places(page: str, kind: str, known: Mapping[str, str]) -> str:
    """A page with Markdown in its places, `<!-- KIND: NAME -->` to `<!-- /KIND -->`.

    Raises:
        RecordError: the page asks for something that is not known.
    """

    def fill(place: re.Match[str]) -> str:
        if place[2] not in known:
            raise RecordError(
                f"no part of a run is called {place[2]!r}; there are: {sorted(known)}"
            )
        return f"{place[1]}{known[place[2]].strip()}\n{place[4]}"

    places = rf"(<!-- {kind}: ([a-z]+) -->\n)(.*?)(<!-- /{kind} -->)"
    return re.sub(places, fill, page, flags=re.DOTALL)


def parts(record: RunRecord) -> dict[str, str]:
    """What pages can show: name -> Markdown."""
    told = facts(record)
    machine = (
        f"{told['Machine']}; {complete_repeats(record)} repeats, {record.manifest['started'][:10]}."
    )
    return {
        "verdict": "\n".join(f"- {line}" for line in verdict(record)),
        "comparison": comparison(record).to_markdown(),
        "throughput": throughput(record).to_markdown(),
        "breakdown": breakdown(record).to_markdown(),
        "machine": machine,
    }


if __name__ == "__main__":
    main()
