"""The verbs of a rollout, each safe to interrupt anywhere and to run again.

    with Rollout("model_repository", ["127.0.0.1:8001"]) as rollout:
        rollout.stage("openmoji", 2)
        rollout.canary("openmoji", 2, percent=5)
        rollout.promote("openmoji", 2)
        rollout.rollback("openmoji")

A verb takes the app's lock, ends what somebody left unfinished, makes a plan and carries it out.
With `dry_run` it makes the plan only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tritium_builders.aliases import live_rollout
from tritium_builders.history import Action, HistoryEntry
from tritium_builders.release import app_verb, list_releases
from tritium_client import Tls, contract
from tritium_deploy.errors import RolloutError
from tritium_deploy.rollout.fleet import DEFAULT_ENDPOINT, Fleet
from tritium_deploy.rollout.gates import Consent
from tritium_deploy.rollout.observe import Verdict, watch_canary, watch_live
from tritium_deploy.rollout.plan import OnStep, Plan, Step, ignore
from tritium_deploy.rollout.retire import retired
from tritium_deploy.rollout.settings import RolloutSettings
from tritium_deploy.rollout.stage import memory_notes, read_candidate
from tritium_deploy.rollout.status import AppState, read_state
from tritium_deploy.rollout.steps import gated, shared, staged, switched, synced
from tritium_deploy.rollout.work import (
    Site,
    Work,
    begin,
    last_switch,
    require_app,
    rollback_target,
)
from tritium_deploy.security.access import Access


class Rollout:
    """Rolls releases of a repository out to the servers that serve from it.

    Args:
        repository: A Triton model repository, the one that the servers serve from.
        endpoints: Their gRPC addresses, `host:port`; a name with several addresses is several
            servers.
        settings: Gates and bounds; None for the defaults.
        admin_key: What the servers' model control asks for; None where it asks for nothing, or
            the servers are this user's on this machine, where it is found.
        tls: How the connections are encrypted; None for plain text.
        skip_unreachable: Go on without servers that do not answer: they find in the repository
            what is live when they are back.
        wait_s: Seconds to wait for another operator's lock.
        on_step: Told what is being done, from several threads.

    Raises:
        RolloutError: there is no such repository, or an endpoint's name cannot be resolved.
        ValueError: an endpoint is not host:port.
    """

    def __init__(
        self,
        repository: str | Path,
        endpoints: Sequence[str] = (DEFAULT_ENDPOINT,),
        *,
        settings: RolloutSettings | None = None,
        admin_key: str | None = None,
        tls: Tls | None = None,
        skip_unreachable: bool = False,
        wait_s: float = 0.0,
        on_step: OnStep = ignore,
    ) -> None:
        self.repository = Path(repository).absolute()
        if not self.repository.is_dir():
            raise RolloutError(
                f"repository {repository} does not exist; name the one that the servers serve from"
            )
        self._site = Site(
            self.repository,
            Fleet(endpoints, Access(tls, admin_key)),
            settings or RolloutSettings(),
            on_step,
            skip_unreachable,
            wait_s,
        )

    def status(self, app: str) -> AppState:
        """What the repository and every server say of an app; changes nothing.

        Raises:
            RolloutError: the repository has no such app.
        """
        require_app(self.repository, app)
        return read_state(self.repository, app, self._site.fleet)

    def stage(self, app: str, number: int, *, dry_run: bool = False) -> Plan:
        """Verify a release, load it beside the live one everywhere, and replay golden samples.

        Raises:
            CandidateError: naming what is wrong with it; it is not loaded anywhere.
            RolloutError: a server cannot be reached, or another operator is at work.
        """
        title = f"stage {app} {number}"
        with begin(self._site, app, title, dry_run=dry_run) as work:
            steps = staged(work, read_candidate(self.repository, app, number))
            news = any(place.components or place.graphs for place in work.placements.values())
            if news:
                steps.append(Step("note it in the history", lambda: _noted(work, "stage", number)))
            return work.carry_out(Plan(title, tuple(steps), memory_notes(work.placements)))

    def canary(
        self,
        app: str,
        number: int,
        percent: float,
        *,
        accept: bool = False,
        new_space: bool = False,
        dry_run: bool = False,
    ) -> Plan:
        """Send a share of callers to a candidate, after its gates. 0 ends that.

        Args:
            app: Whose.
            number: The candidate.
            percent: Share of route keys, 0 to 100.
            accept: Take an app without labels on its agreement with live.
            new_space: Take embeddings in another space than live's.
            dry_run: Make the plan only.

        Raises:
            CandidateError: it cannot be staged.
            GateError: it is not good enough.
            RolloutError: as `stage`; or another release is a canary already.
        """
        consent = Consent(accept, new_space)
        return self._share(app, number, "canary", percent, consent=consent, dry_run=dry_run)

    def shadow(self, app: str, number: int, percent: float, *, dry_run: bool = False) -> Plan:
        """Have a share of callers' requests sent to a candidate as well; callers get live's answer.

        The SDK compares both answers: `client.shadow_report()`.

        Args:
            app: Whose.
            number: The candidate.
            percent: Share of requests, 0 to 100.
            dry_run: Make the plan only.

        Raises:
            CandidateError: it cannot be staged.
            RolloutError: as `stage`; or another release is a candidate already.
        """
        return self._share(app, number, "shadow", percent, dry_run=dry_run)

    def promote(
        self,
        app: str,
        number: int,
        *,
        accept: bool = False,
        new_space: bool = False,
        dry_run: bool = False,
    ) -> Plan:
        """Make a release live everywhere, after its gates; staged first where it is not.

        Args:
            app: Whose.
            number: The release.
            accept: Take an app without labels on its agreement with live.
            new_space: Take embeddings in another space than live's.
            dry_run: Make the plan only.

        Raises:
            CandidateError: it cannot be staged.
            GateError: it is not good enough.
            SwitchError: a server did not switch; all of them serve the former release.
            RolloutError: as `stage`.
        """
        title = f"promote {app} {number}"
        with begin(self._site, app, title, dry_run=dry_run) as work:
            if work.live.release.number == number:
                return work.carry_out(Plan(title, (synced(work),)))
            candidate = read_candidate(self.repository, app, number)
            steps = [
                *staged(work, candidate),
                gated(work, candidate, Consent(accept, new_space)),
                *switched(work, candidate, "promote"),
            ]
            return work.carry_out(Plan(title, tuple(steps), memory_notes(work.placements)))

    def rollback(
        self, app: str, *, to: int | None = None, reason: str = "", dry_run: bool = False
    ) -> Plan:
        """Make the release live again that was live before; no gates, no rebuild.

        A second rollback after the first does nothing, unless `to` names a release.

        Args:
            app: Whose.
            to: Which release; None for the one before the last promote.
            reason: Why; goes into the history.
            dry_run: Make the plan only.

        Raises:
            SwitchError: a server did not switch; all of them serve what they served.
            RolloutError: there is nothing to go back to; or as `stage`.
        """
        with begin(self._site, app, f"rollback {app}", dry_run=dry_run, tolerant=True) as work:
            number = to if to is not None else rollback_target(self.repository, app)
            if number is None:
                raise RolloutError(
                    f"{app} has had one live release only; there is nothing to go back to"
                )
            title = f"rollback {app} to {number}"
            if number == work.live.release.number:
                return work.carry_out(Plan(title, (synced(work),)))
            former = read_candidate(self.repository, app, number)
            return work.carry_out(Plan(title, tuple(switched(work, former, "rollback", reason))))

    def retire(self, app: str, number: int, *, delete: bool = False, dry_run: bool = False) -> Plan:
        """Unload a release that nothing refers to; perhaps remove its files.

        Args:
            app: Whose.
            number: Which; never the live one, its candidate, or the one to roll back to.
            delete: Remove the files that no other release needs.
            dry_run: Make the plan only.

        Raises:
            RolloutError: something refers to it; or as `stage`.
        """
        title = f"retire {app} {number}"
        with begin(self._site, app, title, dry_run=dry_run) as work:
            kept = self._kept(app)
            if number in kept:
                raise RolloutError(f"{app} release {number} is {kept[number]}; it stays")
            return work.carry_out(Plan(title, tuple(retired(work, number, delete=delete))))

    def gc(self, app: str, *, keep: int = 3, dry_run: bool = False) -> Plan:
        """Retire and remove all but an app's newest releases, and what something refers to.

        Args:
            app: Whose.
            keep: How many of the newest stay, at least 1.
            dry_run: Make the plan only.

        Raises:
            RolloutError: as `stage`.
            ValueError: `keep` is below 1.
        """
        if keep < 1:
            raise ValueError(f"keep must be at least 1: {keep}")
        with begin(self._site, app, f"gc {app}", dry_run=dry_run) as work:
            kept = self._kept(app)
            old = [one for one in list_releases(self.repository, app)[:-keep] if one not in kept]
            steps = [step for number in old for step in retired(work, number, delete=True)]
            return work.carry_out(Plan(f"gc {app}", tuple(steps)))

    def watch(self, app: str, seconds: float | None = None) -> Verdict:
        """Compare what callers get with before; go back by itself when a bound breaks.

        With a canary, the candidate is compared with the live release, and its share goes to 0.
        Else the live release is compared with what the one before it gave, and that one is rolled
        back to.

        Args:
            app: Whose.
            seconds: For how long; None for what the settings say.

        Raises:
            RolloutError: there is nothing to compare with; or as `stage`.
        """
        site, bounds = self._site, self._site.settings.watch
        seconds = bounds.seconds if seconds is None else seconds
        watched, verb = self._watched(app), app_verb(self.repository, app)
        if isinstance(watched, contract.Rollout):
            verdict = watch_canary(site.fleet, app, verb, watched, bounds, seconds, site.on_step)
            if verdict.broken:
                self._share(app, watched.candidate, "canary", 0, reason=verdict.text)
            return verdict
        verdict = watch_live(
            site.fleet, app, verb, watched.release, watched.before, bounds, seconds, site.on_step
        )
        if verdict.broken:
            self.rollback(app, to=watched.former, reason=verdict.text)
        return verdict

    def plan_watch(self, app: str, seconds: float | None = None) -> Plan:
        """What `watch` would watch, and what it would do; changes nothing.

        Raises:
            RolloutError: there is nothing to compare with.
        """
        seconds = self._site.settings.watch.seconds if seconds is None else seconds
        watched = self._watched(app)
        if isinstance(watched, contract.Rollout):
            what = f"release {watched.candidate} beside the live one"
            then = f"set the canary share of release {watched.candidate} to 0"
        else:
            what = f"release {watched.release} beside what release {watched.former} gave"
            then = f"roll back to release {watched.former}"
        return Plan(
            f"watch {app}",
            (
                Step(f"watch {what} for {seconds:g} s", str),
                Step(f"only if a bound breaks: {then}", str),
            ),
        )

    def _watched(self, app: str) -> contract.Rollout | HistoryEntry:
        """The canary, or else the promote, that there is to watch."""
        require_app(self.repository, app)
        rollout = live_rollout(self.repository, app)
        if rollout is not None and rollout.canary_percent > 0:
            return rollout
        entry = last_switch(self.repository, app)
        if entry is None or entry.action != "promote" or entry.former is None:
            raise RolloutError(f"{app} has neither a canary nor a promote to watch")
        return entry

    def close(self) -> None:
        """Close the connections."""
        self._site.fleet.close()

    def __enter__(self) -> Rollout:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _share(
        self,
        app: str,
        number: int,
        action: Action,
        percent: float,
        *,
        consent: Consent | None = None,
        dry_run: bool = False,
        reason: str = "",
    ) -> Plan:
        if not 0 <= percent <= 100:
            raise RolloutError(f"a share is between 0 and 100 percent: {percent:g}")
        title = f"{action} {app} {number} at {percent:g}%"
        with begin(self._site, app, title, dry_run=dry_run, tolerant=percent == 0) as work:
            if work.live.release.number == number:
                raise RolloutError(f"{app} release {number} is live already")
            before = live_rollout(self.repository, app)
            if before is not None and before.candidate != number:
                raise RolloutError(
                    f"{app} release {before.candidate} is the candidate now; promote it, or set "
                    "its shares to 0 first"
                )
            after = _with_share(before, app, number, action, percent)
            steps: list[Step] = []
            if percent > 0:
                candidate = read_candidate(self.repository, app, number)
                steps += staged(work, candidate)
                if action == "canary":
                    steps.append(gated(work, candidate, consent or Consent()))
            steps += shared(work, before, after, (action, number, percent), reason)
            return work.carry_out(Plan(title, tuple(steps), memory_notes(work.placements)))

    def _kept(self, app: str) -> dict[int, str]:
        """Releases that have to stay, and why."""
        kept: dict[int, str] = {}
        target = rollback_target(self.repository, app)
        if target is not None:
            kept[target] = "the one to roll back to"
        rollout = live_rollout(self.repository, app)
        if rollout is not None:
            kept[rollout.candidate] = "a candidate that gets requests; set its shares to 0 first"
        kept[require_app(self.repository, app)] = "live"
        return kept


def _with_share(
    before: contract.Rollout | None, app: str, number: int, action: Action, percent: float
) -> contract.Rollout | None:
    """A candidate's shares with one of them changed; None where it has none any more."""
    shares = before or contract.Rollout(number)
    after = contract.Rollout(
        number,
        canary_percent=percent if action == "canary" else shares.canary_percent,
        shadow_percent=percent if action == "shadow" else shares.shadow_percent,
        # It stays with the candidate: a growing share keeps the keys that it has.
        salt=f"{app} {number}",
    )
    return after if after.canary_percent + after.shadow_percent > 0 else None


def _noted(work: Work, action: Action, number: int) -> str:
    work.note(action, number)
    return ""
