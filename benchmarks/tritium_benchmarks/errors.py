"""Every error that a benchmark can end with.

    TritiumError
    └── BenchmarkError               a benchmark cannot be run, or gave nothing to report
        ├── WorkloadError            a workload's file, or a field of it, cannot be used
        ├── PerfAnalyzerMissingError there is no perf_analyzer; `tritium bench install` brings one
        ├── PerfAnalyzerError        perf_analyzer ended without a measurement
        ├── ContenderError           a server that is to be measured is not known, or does not run
        ├── PlanError                what a load needs cannot be planned
        └── RecordError              results cannot be written, or read again

Each message names the cause and the fix in one line.
"""

from __future__ import annotations

from tritium_builders.errors import TritiumError


class BenchmarkError(TritiumError):
    """A benchmark cannot be run, or gave nothing to report."""


class WorkloadError(BenchmarkError):
    """A workload cannot be used. Names the file and the field.

    Args:
        file: The workload's file.
        problem: What is wrong, with the field's name.
    """

    def __init__(self, file: object, problem: str) -> None:
        super().__init__(f"{file}: {problem}")


class PerfAnalyzerMissingError(BenchmarkError):
    """There is no perf_analyzer in the user's cache."""


class PerfAnalyzerError(BenchmarkError):
    """The program perf_analyzer ended without a measurement."""


class ContenderError(BenchmarkError):
    """A server that is to be measured is not known, does not start, or does not answer."""


class PlanError(BenchmarkError):
    """What was asked of a plan is wrong, or no number of servers would do it."""


class RecordError(BenchmarkError):
    """A run's results cannot be written, or cannot be read again."""
