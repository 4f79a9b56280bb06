"""Why a run over many items ends before its last item."""

from __future__ import annotations


class WrongUsageError(ValueError):
    """What was given could never work: exit code 2."""


class BatchError(Exception):
    """The run cannot go on: exit code 1."""
