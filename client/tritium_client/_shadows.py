"""What the answers of a candidate that is asked beside the live release say of it."""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tritium_client._logging import logger
from tritium_client._results import ShadowReport
from tritium_client._wire import Answer
from tritium_client.contract import Verb

WINDOW = 1024
"""Comparisons whose latencies are remembered."""
LOG_EVERY_S = 60.0


@dataclass(frozen=True)
class Comparison:
    """Two answers to the same inputs; `ShadowReport` says what the fields mean for each verb."""

    agree: bool | None
    difference: float


def compare(verb: Verb, live: Answer, candidate: Answer) -> Comparison | None:
    """Compare the answers of two releases, which may have other labels in another order.

    Returns:
        None when they cannot be compared: other names, another size, values that are no numbers.
    """
    if not (np.isfinite(live.values).all() and np.isfinite(candidate.values).all()):
        return None
    return _COMPARE[verb](live, candidate)


def _compare_classes(live: Answer, candidate: Answer) -> Comparison | None:
    ours, theirs = _by_label(live), _by_label(candidate)
    if not ours or not theirs:
        return None
    distance = sum(
        abs(ours.get(label, 0.0) - theirs.get(label, 0.0)) for label in ours.keys() | theirs.keys()
    )
    first, second = (max(one, key=one.__getitem__) for one in (ours, theirs))
    return Comparison(first == second, distance / 2)


def _compare_label_sets(live: Answer, candidate: Answer) -> Comparison | None:
    ours, theirs = _by_label(live), _by_label(candidate)
    if not ours or not theirs:
        return None
    labels = ours.keys() | theirs.keys()
    largest = max(abs(ours.get(label, 0.0) - theirs.get(label, 0.0)) for label in labels)
    return Comparison(_holding(live) == _holding(candidate), largest)


def _holding(answer: Answer) -> set[str]:
    release, values = answer.release, answer.values.tolist()
    rows = zip(release.labels, values, release.thresholds, strict=True)
    return {label for label, value, least in rows if value >= least}


def _compare_tags(live: Answer, candidate: Answer) -> Comparison | None:
    ours, theirs = _tag_of_each_word(live), _tag_of_each_word(candidate)
    words = ours.keys() | theirs.keys()  # releases may take words apart in other places
    other = sum(ours.get(word) != theirs.get(word) for word in words)
    return Comparison(other == 0, other / len(words) if words else 0.0)


def _compare_scores(live: Answer, candidate: Answer) -> Comparison | None:
    ours, theirs = _by_label(live), _by_label(candidate)
    if ours.keys() != theirs.keys():
        return None
    return Comparison(None, max(abs(ours[name] - theirs[name]) for name in ours))


def _compare_vectors(live: Answer, candidate: Answer) -> Comparison | None:
    ours: npt.NDArray[np.float64] = live.values.astype(np.float64)
    theirs: npt.NDArray[np.float64] = candidate.values.astype(np.float64)
    length = float(np.linalg.norm(ours) * np.linalg.norm(theirs))
    if ours.shape != theirs.shape or length == 0:
        return None
    return Comparison(None, 1 - min(1.0, max(-1.0, float(ours @ theirs) / length)))


_COMPARE: dict[Verb, Callable[[Answer, Answer], Comparison | None]] = {
    "classify": _compare_classes,
    "annotate": _compare_label_sets,
    "tag": _compare_tags,
    "score": _compare_scores,
    "embed": _compare_vectors,
}


def _by_label(answer: Answer) -> dict[str, float]:
    return dict(zip(answer.release.labels, answer.values.tolist(), strict=True))


def _tag_of_each_word(answer: Answer) -> dict[tuple[int, int], str]:
    best = answer.values.argmax(axis=1).tolist() if answer.offsets else []
    tags = (answer.release.labels[tag] for tag in best)
    return dict(zip(answer.offsets, tags, strict=True))


class Tally:
    """What became of the requests that a candidate was asked beside the live release.

    Safe to use from several threads.

    Args:
        app: The app that is asked.
        verb: What it is asked.
        candidate: The release that is asked beside the live one.
        live: The release that answers.
        clock: Seconds; a test gives its own.
    """

    def __init__(
        self,
        app: str,
        verb: Verb,
        candidate: int,
        live: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.app = app
        self.verb = verb
        self.candidate = candidate
        self.live = live
        self._clock = clock
        self._lock = threading.Lock()
        self._requests = self._failed = self._dropped = self._agreed = 0
        self._differences = self._largest = 0.0
        self._latencies: deque[tuple[float, float]] = deque(maxlen=WINDOW)
        self._logged = False
        self._logged_at = clock()

    def add(self, comparison: Comparison, live_s: float, candidate_s: float) -> None:
        """Note two answers and the seconds that they took."""
        with self._lock:
            self._requests += 1
            self._agreed += comparison.agree is True
            self._differences += comparison.difference
            self._largest = max(self._largest, comparison.difference)
            self._latencies.append((live_s, candidate_s))
        self.log()

    def fail(self) -> None:
        """Note a request without two answers that can be compared."""
        with self._lock:
            self._requests += 1
            self._failed += 1
        self.log()

    def drop(self) -> None:
        """Note a request that the candidate was not sent."""
        with self._lock:
            self._dropped += 1

    def log(self, *, last: bool = False) -> None:
        """Log the report, at most once a minute.

        Args:
            last: Nothing more will come: also log what is younger than a minute.
        """
        with self._lock:
            now = self._clock()
            waited = now - self._logged_at >= LOG_EVERY_S
            if not (waited or (last and not self._logged)) or not self._requests:
                return
            self._logged, self._logged_at = True, now
        logger.info("%s", describe(self.report()))

    def report(self) -> ShadowReport:
        """What is known by now."""
        with self._lock:
            compared = self._requests - self._failed
            agrees = self.verb in {"classify", "annotate", "tag"}
            live_s, candidate_s = (
                map(statistics.median, zip(*self._latencies, strict=True))
                if compared
                else (None, None)
            )
            return ShadowReport(
                app=self.app,
                verb=self.verb,
                candidate=self.candidate,
                live=self.live,
                requests=self._requests,
                failed=self._failed,
                dropped=self._dropped,
                agreement=self._agreed / compared if compared and agrees else None,
                mean_difference=self._differences / compared if compared else None,
                largest_difference=self._largest if compared else None,
                live_latency_s=live_s,
                candidate_latency_s=candidate_s,
            )


class Tallies:
    """The newest tally of each app and verb. Safe to use from several threads."""

    def __init__(self) -> None:
        self._newest: dict[tuple[str, Verb], Tally] = {}
        self._read_at: dict[tuple[str, Verb], float] = {}
        self._lock = threading.Lock()

    def of(self, app: str, verb: Verb, candidate: int, live: int, read_at: float) -> Tally | None:
        """Where what becomes of one more request is noted.

        Args:
            app: The app that is asked.
            verb: What it is asked.
            candidate: The release that is asked beside the live one.
            live: The release that has answered.
            read_at: When the rollout that says so was read.

        Returns:
            None when what another entry point of the app knows is newer, and says something else:
            each reads its own rollout, a few seconds before or after the others.
        """
        with self._lock:
            newest = self._newest.get((app, verb))
            if newest is not None and (newest.candidate, newest.live) == (candidate, live):
                return newest
            if self._read_at.get((app, verb), read_at) > read_at:
                return None
            self._read_at[app, verb] = read_at
            tally = self._newest[app, verb] = Tally(app, verb, candidate, live)
            return tally

    def close(self) -> None:
        """Log what was not logged yet."""
        with self._lock:
            tallies = list(self._newest.values())
        for tally in tallies:
            tally.log(last=True)

    def report(self, app: str, verb: Verb | None) -> ShadowReport:
        """The newest report of an app; with no verb, of the one that was asked most."""
        with self._lock:
            tallies = [
                tally
                for (of_app, of_verb), tally in self._newest.items()
                if of_app == app and verb in (None, of_verb)
            ]
        reports = [tally.report() for tally in tallies]
        return max(reports, key=lambda report: report.requests, default=ShadowReport(app, verb))


def describe(report: ShadowReport) -> str:
    """A report as a line of the log."""
    parts = [f"{report.requests} requests, {report.failed} failed, {report.dropped} dropped"]
    if report.agreement is not None:
        parts.append(f"{report.agreement:.2%} agree")
    if report.mean_difference is not None and report.largest_difference is not None:
        parts.append(
            f"difference {report.mean_difference:.4g}, at most {report.largest_difference:.4g}"
        )
    if report.live_latency_s is not None and report.candidate_latency_s is not None:
        parts.append(
            f"median latency {report.candidate_latency_s * 1000:.1f} ms beside "
            f"{report.live_latency_s * 1000:.1f} ms"
        )
    return (
        f"{report.app} {report.verb}: release {report.candidate} in the shadow of {report.live}: "
        f"{', '.join(parts)}"
    )
