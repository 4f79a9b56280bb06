"""Move what callers name from one release to another: everywhere, or nowhere.

    1. note in the repository that it begins (pending.py)
    2. every server loads its entry points anew: 3 to 5 ms each, nothing is started or stopped
    3. the entry points' files in the repository, the main one last: from here on it is done
    4. servers that came back meanwhile are told again
    5. the history is written, and the note removed

Each entry point stands for one release at any moment, so no answer mixes two. What dies on the way
leaves the note behind; whoever comes next completes the switch if step 3 was reached, else undoes
it. A server that is dead cannot hold up the others: it finds in the repository what is live.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tritium_builders.aliases import live_rollout, point_aliases
from tritium_builders.history import Action, now, whoami
from tritium_builders.pending import PendingSwitch, remove_pending, write_pending
from tritium_builders.release import live_release
from tritium_client import contract
from tritium_deploy.errors import SwitchError, UnreachableError
from tritium_deploy.live import AppRelease, read_app_release
from tritium_deploy.loading import load_beside, point
from tritium_deploy.rollout.fleet import Fleet, FleetServer
from tritium_deploy.rollout.settings import RolloutSettings


@dataclass(frozen=True)
class Switch:
    """From one release of an app to another."""

    repository: Path
    fleet: Fleet
    settings: RolloutSettings
    former: AppRelease
    release: AppRelease
    action: Action
    """`promote` or `rollback`."""

    @property
    def app(self) -> str:
        """Whose entry points they are."""
        return self.release.name

    def begin(self) -> None:
        """Note that it begins."""
        write_pending(
            self.repository,
            self.app,
            PendingSwitch(
                former=self.former.release.number,
                release=self.release.release.number,
                action=self.action,
                who=whoami(),
                when=now(),
            ),
        )

    def point_servers(self) -> list[str]:
        """Have every server that is alive point to the new release.

        Returns:
            The endpoints of those that are dead.

        Raises:
            SwitchError: one that is alive did not; all of them point to the former one again.
        """
        dead, refused = point_fleet(
            self.fleet, self.repository, self.release, None, self.settings.load_timeout_s
        )
        if not refused and len(dead) < len(self.fleet.servers):
            return dead
        stuck = self.undo()
        server, error = next(iter(refused.items()), ("every server", "does not answer"))
        tail = f"; {', '.join(stuck)} must follow by itself" if stuck else ""
        raise SwitchError(
            f"{self.app} stays at release {self.former.release.number}: {server}: {error}{tail}"
        )

    def write_repository(self) -> None:
        """Write the entry points' files: what is live from now on."""
        point_aliases(self.repository, self.release.release)

    def tell_again(self) -> list[str]:
        """Tell again whoever came back meanwhile.

        Returns:
            The endpoints of servers that do not answer; they follow when they are back.
        """
        dead, refused = point_fleet(
            self.fleet, self.repository, self.release, None, self.settings.load_timeout_s
        )
        return [*dead, *refused]

    def end(self) -> None:
        """Remove the note."""
        remove_pending(self.repository, self.app)

    def undo(self) -> list[str]:
        """Point everything to the former release again, its candidate's share included.

        Removes the note.

        Returns:
            The endpoints of servers that could not be told.

        Raises:
            OSError: the repository cannot be written; the servers were told, and the note stays.
        """
        # The main entry point's file is written last, so it says still what was before.
        rollout = live_rollout(self.repository, self.app)
        dead, refused = point_fleet(
            self.fleet, self.repository, self.former, rollout, self.settings.load_timeout_s
        )
        point_aliases(self.repository, self.former.release, rollout)
        remove_pending(self.repository, self.app)
        return [*dead, *refused]


def end_pending(
    repository: Path, app: str, pending: PendingSwitch, fleet: Fleet, settings: RolloutSettings
) -> bool:
    """Complete or undo a switch that somebody began and did not end.

    The note of a switch that is completed stays until the caller has written its history.

    Returns:
        Whether it was completed: the repository said already that the new release is live.
    """
    completes = live_release(repository, app) == pending.release
    # Whatever is wrong with the other one: it is not needed.
    goes_live = read_app_release(
        repository, app, pending.release if completes else pending.former, whole=False
    )
    switch = Switch(repository, fleet, settings, goes_live, goes_live, pending.action)
    if completes:
        switch.write_repository()
        switch.tell_again()
    else:
        switch.undo()
    return completes


def point_fleet(
    fleet: Fleet,
    repository: Path,
    release: AppRelease,
    rollout: contract.Rollout | None,
    timeout_s: float,
) -> tuple[list[str], Mapping[str, Exception]]:
    """Have every server's entry points stand for a release, with a candidate beside it or none.

    A server that restarted since may have to load the release first.

    Returns:
        The endpoints of servers that are dead, or are still starting: they find in the repository
        what is live; and endpoint -> error, of those that are there and did not.
    """

    def one(server: FleetServer) -> None:
        state = server.state(release.name)
        with server.explained():
            load_beside(server.control, server.here(release, state, repository), timeout_s)
            point(
                server.control,
                server.entry_points(release, rollout, state, repository),
                timeout_s,
            )

    dead, refused = [], {}
    for server, result in fleet.each(one).items():
        if isinstance(result, UnreachableError):
            dead.append(server.endpoint)
        elif isinstance(result, Exception):
            refused[server.endpoint] = result
    return dead, refused
