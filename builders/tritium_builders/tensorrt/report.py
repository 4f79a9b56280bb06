"""What `--check` found, for people."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table

from tritium_builders.inspect import accuracy_line, casts_table, parity_table
from tritium_builders.tensorrt.check import CheckReport, ComponentCheck

OPERATORS_SHOWN = 4


def check_report(report: CheckReport) -> RenderableType:
    """Show what was built ahead of time, what was cast, and what the gates measured."""
    table = Table(
        title=f"{report.app}, {report.precision}: TensorRT for RTX {report.tensorrt_rtx}, compute "
        f"capability {', '.join(report.compute_capabilities)}, batch 1 to {report.max_batch}",
    )  # fmt: skip
    table.add_column("component", no_wrap=True)
    for heading in ("layers", "ahead of time", "plan"):
        table.add_column(heading, justify="right")
    for heading in ("profiles", "operators", "warnings"):
        table.add_column(heading)
    for role, component in report.components.items():
        table.add_row(
            role,
            str(component.layers),
            f"{component.seconds:.1f} s",
            f"{component.plan_bytes / 1e6:.1f} MB",
            _profiles(component),
            _operators(component),
            "\n".join(component.warnings) or "none",
        )
    shown: list[RenderableType] = [table]
    casts = {role: one.cast for role, one in report.components.items()}
    if report.accuracy is not None:
        shown += [casts_table(casts), accuracy_line(report.precision, report.accuracy)]
    shown.append(parity_table(report.parity))
    return Group(*shown)


def _operators(component: ComponentCheck) -> str:
    shown = list(component.operators.items())[:OPERATORS_SHOWN]
    rest = sum(component.operators.values()) - sum(count for _, count in shown)
    words = [f"{count} {name}" for name, count in shown]
    return ", ".join([*words, f"{rest} others"] if rest else words)


def _profiles(component: ComponentCheck) -> str:
    if len(component.profiles) == 1:
        return "1, by batch"
    first = next(iter(component.profiles[0]))
    lengths = [str(profile[first].max[1]) for profile in component.profiles]
    return f"{len(lengths)}: {', '.join(lengths)} tokens"
