"""What strikes a server or Envoy: each blow is dealt and, where it would last, taken back."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.deploy.chaos.world import Server, World

SECONDS = 1.5
"""How long a blow that lasts does."""
HOUR = 3600

Blow = Callable[[World, random.Random], bool]
"""Deals it; whether there was anything to strike."""


def kill_stub(world: World, chance: random.Random) -> bool:
    """A process of the Python backend dies."""
    return _kill(signal.SIGKILL, chance.choice(_server(world, chance).stubs() or [0]))


def kill_tritonserver(world: World, chance: random.Random) -> bool:
    """Its supervisor says so and ends, too."""
    return _kill(signal.SIGKILL, _server(world, chance).triton)


def kill_supervisor(world: World, chance: random.Random) -> bool:
    """What it supervised ends with it."""
    return _kill(signal.SIGKILL, _server(world, chance).pid)


def drain(world: World, chance: random.Random) -> bool:
    """Somebody restarts a server in good order."""
    return _kill(signal.SIGTERM, _server(world, chance).pid)


def hang(world: World, chance: random.Random) -> bool:
    """Tritonserver stops where it is, and goes on."""
    pid = _server(world, chance).triton
    if not _kill(signal.SIGSTOP, pid):
        return False
    time.sleep(SECONDS)
    _kill(signal.SIGCONT, pid)
    return True


def kill_envoy(world: World, _: random.Random) -> bool:
    """Every connection through it is reset."""
    return world.envoy is not None and _kill(signal.SIGKILL, world.envoy.process.pid)


def fill_shared_memory(world: World, chance: random.Random) -> bool:
    """Nobody can grow a region of /dev/shm, or make one."""
    return _fill(_server(world, chance), Path("/dev/shm"))


def fill_disk(world: World, chance: random.Random) -> bool:
    """Logs and run folder cannot be written."""
    server = _server(world, chance)
    return _fill(server, server.folder)


def turn_clock(world: World, chance: random.Random) -> bool:
    """The wall clock jumps an hour, and back; the monotonic one does not."""
    server = _server(world, chance)
    server.turn_clock(chance.choice([-HOUR, HOUR]))
    time.sleep(SECONDS)
    server.turn_clock(0)
    return server.library is not None


BLOWS: tuple[Blow, ...] = (
    kill_stub, kill_tritonserver, kill_supervisor, drain, hang, kill_envoy, fill_shared_memory,
    fill_disk, turn_clock,
)  # fmt: skip


def _server(world: World, chance: random.Random) -> Server:
    """One that is ready, if there is any."""
    return chance.choice([one for one in world.servers if one.ready] or world.servers)


def _kill(number: signal.Signals, pid: int) -> bool:
    with suppress(ProcessLookupError):
        if pid:
            os.kill(pid, number)
            return True
    return False


def _fill(server: Server, folder: Path) -> bool:
    place = server.inside(folder)
    if place is None:
        return False
    with suppress(OSError), _filler(place / "filler"):  # its mounts go when it ends
        time.sleep(SECONDS)
        return True
    return False


@contextmanager
def _filler(path: Path) -> Iterator[None]:
    """A file that leaves no room beside it."""
    try:
        with path.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(1 << 20)):
                pass
        yield
    finally:
        path.unlink(missing_ok=True)
