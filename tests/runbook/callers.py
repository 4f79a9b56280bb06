"""Callers who go on all night: they ask, 40 times a second, until they are told to end (SIGTERM).

python -m tests.runbook.callers models-1:8001 models-2:8001 > calls.json
"""

from __future__ import annotations

import collections
import json
import signal
import sys
import threading

from tritium_client import Client, Tls, TritiumClientError

PAUSE_S = 0.025


def main() -> None:
    """Print how often each outcome came."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    outcomes: collections.Counter[str] = collections.Counter()
    with Client(sys.argv[1:], app="openmoji", tls=Tls(ca="ca.pem")) as client:
        while not stop.wait(PAUSE_S):
            try:
                client.classify(text="red apple", timeout_s=5)
                outcomes["answered"] += 1
            except TritiumClientError as error:
                outcomes[f"{type(error).__name__}: {error}"] += 1
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
