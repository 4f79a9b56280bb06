"""An app's rollout for people to read."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from tritium_builders.history import HistoryEntry
from tritium_client import contract
from tritium_deploy.rollout.status import AppState, ReleaseState

STYLES = {"live": "bold green", "canary": "yellow", "retired": "dim"}


def show_state(state: AppState, console: Console) -> None:
    """Print releases, servers, what is unfinished, and the newest history."""
    console.print(_releases(state))
    console.print(_servers(state))
    if state.owner is not None:
        console.print(f"at work: {state.owner.who}, {state.owner.doing}", markup=False)
    if state.pending is not None:
        how = "under way" if state.owner is not None else "interrupted: any command ends it"
        console.print(
            f"switch from release {state.pending.former} to {state.pending.release}, {how}",
            markup=False,
        )
    if state.history:
        console.print("history:", style="bold")
        for entry in state.history:
            console.print(f"  {_line(entry)}", markup=False, soft_wrap=True)


def _releases(state: AppState) -> Table:
    table = Table("release", "stage", "target", "precision", "built", title=state.app)
    for one in state.releases:
        table.add_row(
            str(one.number),
            _stage(one, state.rollout),
            one.target,
            one.precision,
            one.problem or one.created,
            style=STYLES.get(one.stage),
        )
    return table


def _stage(one: ReleaseState, rollout: contract.Rollout | None) -> str:
    if rollout is None or rollout.candidate != one.number:
        return one.stage
    shares = {"canary": rollout.canary_percent, "shadow": rollout.shadow_percent}
    words = [f"{name} {share:g}%" for name, share in shares.items() if share > 0]
    return ", ".join(words) or one.stage


def _servers(state: AppState) -> Table:
    table = Table("server", "live", "loaded", "")
    for one in state.servers:
        table.add_row(
            one.endpoint,
            "-" if one.release is None else str(one.release),
            ", ".join(map(str, one.loaded)) or "-",
            one.problem,
            style="red" if one.problem else None,
        )
    return table


def _line(entry: HistoryEntry) -> str:
    words = [entry.when, entry.who, entry.action, f"release {entry.release}"]
    if entry.percent is not None:
        words.append(f"at {entry.percent:g}%")
    if entry.former is not None:
        words.append(f"in place of {entry.former}")
    if entry.reason:
        words.append(f"({entry.reason})")
    return " ".join(words)
