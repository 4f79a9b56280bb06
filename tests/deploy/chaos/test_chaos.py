"""Whatever is killed, filled up, stopped or put back: no request is lost without a word.

`make test` strikes once with everything, which takes half a minute; `make test-full` goes on for
thirty, and writes what it saw to benchmarks/results/chaos.json and docs/chaos.md.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.deploy.calls import wait_until
from tests.deploy.chaos.blows import BLOWS, Blow
from tests.deploy.chaos.ledger import Ledger, callers
from tests.deploy.chaos.summary import write
from tests.deploy.chaos.world import COMPILER, READY_WITHIN_S, World, world

FULL = bool(os.environ.get("TRITIUM_TEST_FULL"))
SECONDS = float(os.environ.get("TRITIUM_CHAOS_SECONDS", "1800" if FULL else "0"))
"""How long, after each blow was dealt once."""
PAUSES = (0.2, 3.0) if SECONDS else (0.2, 0.8)
"""Seconds between two blows, from and to."""
LONG_S = 1800
"""From here on it is worth keeping."""

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="own mounts need root"),
]


def strike(struck: World, chance: random.Random) -> Counter[str]:
    """Deal every blow once, in any order, and then any for as long as there is time."""
    dealt: Counter[str] = Counter()
    first = chance.sample(BLOWS, len(BLOWS))
    end = time.monotonic() + SECONDS

    def deal(blow: Blow) -> bool:
        time.sleep(chance.uniform(*PAUSES))
        hit = blow(struck, chance)
        dealt[blow.__name__] += hit
        return hit

    for blow in first:
        assert wait_until(lambda: any(one.ready for one in struck.servers), READY_WITHIN_S)
        deal(blow)
    while time.monotonic() < end:
        deal(chance.choice(BLOWS))
    return dealt


def test_every_request_is_answered_rightly_or_fails_with_a_reason(tmp_path: Path) -> None:
    seed = int(os.environ.get("TRITIUM_CHAOS_SEED", time.time_ns() % 2**32))
    print(f"TRITIUM_CHAOS_SEED={seed}")
    ledger, began = Ledger(), time.monotonic()
    with world(tmp_path) as struck:
        urls = [f"127.0.0.1:{one.ports.grpc}" for one in struck.servers]
        assert struck.envoy is not None
        proxy = struck.envoy.url
        with callers(ledger, urls, proxy):
            dealt = strike(struck, random.Random(seed))
            assert wait_until(struck.whole, READY_WITHIN_S), "it did not become whole again"
        afterwards = Ledger()
        with callers(afterwards, urls, proxy):
            time.sleep(1.5)
        starts = [one.starts for one in struck.servers]
        statuses = [one.stop() for one in struck.servers]
    balance = ledger.balance()
    summary = {
        "seed": seed,
        "machine": f"{os.cpu_count()} cores",
        "broken": len(ledger.broken),
        "seconds": round(time.monotonic() - began),
        "blows": dict(sorted(dealt.items())),
        "starts of servers": starts,
        "starts of Envoy": struck.envoy_starts,
        **balance,
    }
    print(json.dumps(summary, indent=2))
    if SECONDS >= LONG_S:
        write(summary)
    without_effect = {blow.__name__ for blow in BLOWS if not dealt[blow.__name__]}
    assert without_effect == (set() if COMPILER else {"turn_clock"})
    assert ledger.broken == []
    assert balance["asked"] == balance["answered"] + balance["failed"]
    assert balance["answered"] > balance["failed"]
    # It is as good as new.
    assert afterwards.broken == []
    assert afterwards.asked.total() == afterwards.answered.total() > 50
    assert statuses == [0, 0, 0]
