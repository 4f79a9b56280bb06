# Generated from tritium_client/_async by tools/generate_sync.py: change it there.
"""Which release a request goes to: the live one, a candidate, or one in the shadow of the other."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from tritium_client import _wire, contract
from tritium_client._arguments import check_route_key
from tritium_client._call import Call
from tritium_client._exceptions import (
    AppNotFound,
    ClientClosed,
    IncompatibleRelease,
    InvalidInput,
    ServerError,
    ServerUnavailable,
    TritiumClientError,
)
from tritium_client._logging import logger
from tritium_client._results import ShadowReport
from tritium_client._rollout import Route
from tritium_client._shadows import Tallies, Tally, compare
from tritium_client._sync import _io
from tritium_client._sync.catalog import Catalog
from tritium_client._sync.sender import Sender
from tritium_client.contract import Modality, Verb

if TYPE_CHECKING:
    from tritium_client._labelling import LabellingQueue

SHADOWS_AT_ONCE = 8
"""Requests in the shadow of others that one client has under way; more are dropped."""
REFRESH_S = 1.0
"""The longest that a call waits for a rollout to be read again, seconds."""
SHARE_OF_CALL = 0.5
"""The largest part of what is left of a call that it waits for a rollout: a server that hangs must
not keep it from one that answers."""
FALLS_BACK = (AppNotFound, IncompatibleRelease, ServerError, ServerUnavailable)
"""What is wrong with a candidate, and not with what was asked."""

Inputs = dict[Modality, bytes]


class Router:
    """Sends each request where the rollout of its entry point says.

    Args:
        sender: What asks the server.
        catalog: What knows releases.
        labelling: Samples what is classified; None for never.
    """

    def __init__(
        self, sender: Sender, catalog: Catalog, labelling: LabellingQueue | None = None
    ) -> None:
        self._sender = sender
        self._catalog = catalog
        self._labelling = labelling
        self._routes: dict[str, tuple[Route, _io.Slots]] = {}
        self._background = _io.Background(SHADOWS_AT_ONCE)
        self._tallies = Tallies()

    def ask(
        self, app: str, verb: Verb, inputs: Inputs, call: Call, route_key: str | None
    ) -> _wire.Answer:
        """Ask an entry point.

        A candidate that is gone or broken fails no call: the live release answers in its place.

        Args:
            app: The app.
            verb: What to do.
            inputs: Modality -> bytes.
            call: The call that this is.
            route_key: Keys that a candidate takes always meet it; None for the call's own id.

        Raises:
            ValueError: `route_key` could never be right.
            TritiumClientError: what the call ended with.
        """
        answer = self._ask(app, verb, inputs, call, route_key)
        if self._labelling is not None and verb == "classify":
            release = answer.release
            self._labelling.offer(app, inputs, release.labels, answer.values, release.release)
        return answer

    def _ask(
        self, app: str, verb: Verb, inputs: Inputs, call: Call, route_key: str | None
    ) -> _wire.Answer:
        check_route_key(route_key)
        key = call.request_id if route_key is None else route_key
        route = self._route(app, verb, tuple(inputs), call)
        rollout = route.rollout
        if rollout is None:
            return self._ask_live(app, verb, inputs, call)
        if rollout.takes(key):
            try:
                return self._ask_candidate(app, verb, inputs, call, rollout.candidate)
            except FALLS_BACK as error:
                if isinstance(error, AppNotFound):
                    route.expire()  # the rollout may have ended
                logger.info(
                    "%s goes to the live release of %s, since candidate %d failed it: %s",
                    call.request_id, app, rollout.candidate, error,
                )  # fmt: skip
            return self._ask_live(app, verb, inputs, call)
        answer = self._ask_live(app, verb, inputs, call)
        # A candidate that went live a moment ago needs no comparison with itself.
        if answer.release.release != rollout.candidate and rollout.shadows(key):
            live = answer.release.release
            tally = self._tallies.of(app, verb, rollout.candidate, live, route.read_at)
            if tally is not None:
                shadow = partial(self._shadow, tally, inputs, call, answer, call.answered_in_s)
                if not self._background.start(shadow):
                    tally.drop()
        return answer

    def report(self, app: str, verb: Verb | None) -> ShadowReport:
        """How the answers of an app's candidate compare with those of the live release."""
        return self._tallies.report(app, verb)

    def close(self) -> None:
        """End what was begun beside the calls."""
        self._background.close()
        self._tallies.close()

    def _ask_live(self, app: str, verb: Verb, inputs: Inputs, call: Call) -> _wire.Answer:
        modalities = tuple(inputs)
        name = contract.entry_point(app, verb, modalities)
        request = _wire.infer_request(
            name, inputs, request_id=call.request_id, outputs=contract.OUTPUTS[verb]
        )
        try:
            response = self._sender.send("ModelInfer", request, call, model=name)
        except (AppNotFound, InvalidInput) as error:
            self._catalog.explain(error, name, app, verb, modalities, call)
            raise
        number = _wire.read_release(response)
        release = self._catalog.release(app, verb, modalities, number, call)
        return _wire.read_answer(verb, response, release)

    def _ask_candidate(
        self, app: str, verb: Verb, inputs: Inputs, call: Call, candidate: int
    ) -> _wire.Answer:
        """Ask a release's own ensemble, once; its answer's version is not the release's number."""
        modalities = tuple(inputs)
        name = contract.release_entry_point(app, verb, modalities, candidate)
        # First: another major version would refuse the tensors before it could say which it is.
        release = self._catalog.release(app, verb, modalities, candidate, call, again=False)
        request = _wire.infer_request(
            name, inputs, request_id=call.request_id, outputs=contract.OUTPUTS[verb]
        )
        response = self._sender.send("ModelInfer", request, call, model=name, again=False)
        return _wire.read_answer(verb, response, release)

    def _shadow(
        self, tally: Tally, inputs: Inputs, caller: Call, live: _wire.Answer, live_s: float
    ) -> None:
        """Ask the candidate what the live release was asked, and compare; nobody waits for it."""
        app, verb, modalities = tally.app, tally.verb, tuple(inputs)
        name = contract.release_entry_point(app, verb, modalities, tally.candidate)
        call = Call(
            caller.endpoint,
            caller.timeout_s,
            request_id=f"{caller.request_id}-shadow",
            headers=caller.headers,
            is_shadow=True,
        )
        try:
            release = self._catalog.release_aside(name, call)
            request = _wire.infer_request(
                name, inputs, request_id=call.request_id, outputs=contract.OUTPUTS[verb]
            )
            began = time.monotonic()
            response = self._sender.send_aside("ModelInfer", request, call, model=name)
            candidate_s = time.monotonic() - began
            comparison = compare(verb, live, _wire.read_answer(verb, response, release))
        except ClientClosed:
            return
        except TritiumClientError as error:
            logger.debug("%s failed: %s", call.request_id, error)
            comparison = None
        if comparison is None:
            tally.fail()
        else:
            tally.add(comparison, live_s, candidate_s)

    def _route(self, app: str, verb: Verb, modalities: tuple[Modality, ...], call: Call) -> Route:
        """What is known of an entry point's rollout; read first where it is time for that."""
        name = contract.entry_point(app, verb, modalities)
        found = self._routes.get(name)
        if found is None:
            found = self._routes.setdefault(name, (Route(name), _io.Slots(1)))
        route, turn = found
        if not route.is_due:
            return route
        readings = route.readings
        # The first callers wait until somebody has read it, so that a key meets one release from
        # the start. Later on one of them reads, and the others go on with what is known.
        if route.known:
            has_turn = turn.take_now()
        else:
            has_turn = turn.take(max(0.0, call.left_s * SHARE_OF_CALL))
        if not has_turn:
            return route
        try:
            if route.readings == readings:
                self._read(route, app, verb, modalities, call)
        finally:
            turn.give()
        return route

    def _read(
        self, route: Route, app: str, verb: Verb, modalities: tuple[Modality, ...], call: Call
    ) -> None:
        """Read a rollout once; that it failed is for the request itself to tell, if it fails too.

        Raises:
            ClientClosed: nothing can be sent any more.
        """
        limit_s = call.left_s * SHARE_OF_CALL
        if route.known:
            limit_s = min(limit_s, REFRESH_S)
        if limit_s <= 0:
            return
        own = Call(call.endpoint, limit_s, request_id=call.request_id, headers=call.headers)
        try:
            config = self._catalog.read_aside(route.entry_point, own)
        except ClientClosed:
            raise
        except TritiumClientError as error:
            logger.debug("the rollout of %s was not read: %s", route.entry_point, error)
            route.failed()
            if not route.known:  # names of apps that there are not must not pile up
                self._routes.pop(route.entry_point, None)
        else:
            self._catalog.learn(app, verb, modalities, config)
            route.learned(config.rollout)
