"""What a client knows of an entry point's rollout: what is read, and when it is read again."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from tritium_client import contract
from tritium_client._logging import logger
from tritium_client.contract import Rollout


class Route:
    """Where the requests of one entry point go, as far as this client knows.

    Whoever has the turn to read calls `learned` or `failed`; everything else is safe to use from
    several threads.

    Args:
        entry_point: The alias ensemble that callers use.
        clock: Seconds; a test gives its own.
    """

    def __init__(self, entry_point: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.entry_point = entry_point
        self.rollout: Rollout | None = None
        """None while there is none, or it could not be read yet."""
        self.known = False
        """Whether it was read at least once."""
        self.readings = 0
        """How many readings have ended, those that failed included."""
        self.read_at = 0.0
        """When what is known was read, by the clock."""
        self._clock = clock
        self._due = 0.0
        self._refused = ""

    @property
    def is_due(self) -> bool:
        """Whether it is time to read it."""
        return not self.known or self._clock() >= self._due

    def learned(self, text: str) -> None:
        """Note what `PARAM_ROLLOUT` says; what cannot be read counts as no rollout."""
        try:
            self.rollout = contract.parse_rollout(text)
        except ValueError as error:
            self.rollout = None
            if text != self._refused:
                logger.warning("the rollout of %s is left out: %s", self.entry_point, error)
                self._refused = text
        self.known = True
        self.read_at = self._clock()
        self._end_reading()

    def failed(self) -> None:
        """Note that a reading failed: what was known goes on to count."""
        self._end_reading()

    def expire(self) -> None:
        """Have it read again at the next call."""
        self._due = 0.0

    def _end_reading(self) -> None:
        self._due = self._clock() + contract.ROLLOUT_REFRESH_S
        self.readings += 1


def names_a_release(model: str) -> bool:
    """Whether a Triton model is the ensemble of one release, and not an alias that callers use."""
    return re.search(r"_r[0-9]+\Z", model) is not None
