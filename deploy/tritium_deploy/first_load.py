"""The loads of a server that starts: many at a time, each bounded, and a failure explained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tritium_deploy.control import ModelControl, load_reason
from tritium_deploy.errors import ControlError, LoadError
from tritium_deploy.progress import in_parallel
from tritium_deploy.triton import Triton

LOADS_IN_FLIGHT = 8


class FirstLoad:
    """Loads models into a tritonserver that nobody calls yet.

    Args:
        triton: Its process.
        control: Its model control.
        timeout_s: For each model.
    """

    def __init__(self, triton: Triton, control: ModelControl, timeout_s: float) -> None:
        self._triton = triton
        self._control = control
        self._timeout_s = timeout_s

    def load(self, model: str, config: Any = None) -> None:
        """Load one model, with a config of its own or the repository's.

        Raises:
            LoadError: with the model's own words, or how tritonserver ended.
        """
        try:
            self._control.load(model, self._timeout_s, config)
        except ControlError as error:
            log = self._triton.log
            if self._triton.exited.wait(0.5 if error.code == "UNAVAILABLE" else 0):
                raise LoadError(
                    model, f"tritonserver {self._triton.describe_exit()}", log
                ) from error
            reason = error.reason
            if error.code == "DEADLINE_EXCEEDED":
                reason = f"it did not finish within {self._timeout_s:g} s"
            raise LoadError(model, load_reason(reason), log) from error

    def each(
        self,
        models: Sequence[str],
        config: Callable[[str], Any],
        on_progress: Callable[[int], None],
    ) -> None:
        """Load several at a time.

        Args:
            models: Which.
            config: The config of one; None for the repository's.
            on_progress: Told how many are loaded, from several threads.

        Raises:
            LoadError: of the first that fails.
        """
        in_parallel(
            models, lambda model: self.load(model, config(model)), on_progress, LOADS_IN_FLIGHT
        )
