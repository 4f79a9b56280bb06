"""Put a run's tables into pages that people read: the README, docs/benchmarks.md.

    python -m tritium_benchmarks.report.pages benchmarks/results/bench README.md docs/benchmarks.md

A page says where, with `<!-- bench: NAME -->` and `<!-- /bench -->`; what is between is replaced.
Another run's places have another word, `--places reduced`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tritium_benchmarks.errors import RecordError
from tritium_benchmarks.ratios import complete_repeats
from tritium_benchmarks.records import RunRecord, read_record
from tritium_benchmarks.report.tables import Table, breakdown, comparison, throughput
from tritium_benchmarks.report.write import facts, verdict
from tritium_builders.choose import Candidate
from tritium_builders.release import RuntimeChoice


def main(arguments: Sequence[str] | None = None) -> None:
    """Rewrite the pages."""
    parser = argparse.ArgumentParser(description="Put a run's tables into pages.")
    parser.add_argument("run", type=Path)
    parser.add_argument("pages", type=Path, nargs="+")
    parser.add_argument("--places", default="bench", help="the word before the colon")
    given = parser.parse_args(arguments)
    record = read_record(given.run)
    for page in given.pages:
        page.write_text(filled(page.read_text("utf-8"), record, given.places), "utf-8")


def filled(page: str, record: RunRecord, kind: str = "bench") -> str:
    """A page with a run's figures in its places.

    Raises:
        RecordError: the page asks for something that is not known.
    """
    return fill_places(page, kind, parts(record))


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
    choice = (record.manifest.get("release") or {}).get("choice")
    return {
        "choice": "" if choice is None else _choice(RuntimeChoice.model_validate(choice)),
        "verdict": "\n".join(f"- {line}" for line in verdict(record)),
        "comparison": comparison(record).to_markdown(),
        "throughput": throughput(record).to_markdown(),
        "breakdown": breakdown(record).to_markdown(),
        "machine": machine,
    }


def _choice(choice: RuntimeChoice) -> str:
    """What `--target auto` and `--precision auto` measured."""
    chosen = str(Candidate(choice.target, choice.precision))
    rows = [
        (f"**{name}**" if name == chosen else name, f"{rate:.1f}", f"{choice.alone_ms[name]:.1f}")
        for name, rate in choice.per_second.items()
    ]
    rows += [(f"{name}: {why}", "", "") for name, why in choice.refused.items()]
    return Table("Choice", ("", "answers/s", "ms alone"), tuple(rows)).to_markdown()


if __name__ == "__main__":
    main()
