"""Triton's model control over gRPC; the one place that translates its errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import InferenceServerException

from tritium_builders.history import Traffic
from tritium_deploy.errors import ControlError
from tritium_deploy.security.access import PLAIN, Access

CALL_TIMEOUT_S = 10.0
FAILURE_COUNTS = 2
"""How often Triton 24.10 counts one failed request of an ensemble; tests/deploy/test_metrics.py."""
HEALS = "tritium.heals"
"""Parameter of a component's config that only a healed server has: how often it was healed."""


@dataclass(frozen=True)
class ModelState:
    """One model version in Triton's repository index."""

    state: str
    """READY, LOADING, UNLOADING or UNAVAILABLE; empty where it was never loaded."""
    reason: str
    """Why it is unavailable, in Triton's words."""


class ModelControl:
    """Loads and unloads the models of one tritonserver.

    Args:
        url: Its gRPC address, `host:port`.
        access: How it is reached, and what its model control asks for.
    """

    def __init__(self, url: str, access: Access = PLAIN) -> None:
        self.url = url
        self._client = access.connect(url)
        self._access = access

    def live(self, timeout_s: float = CALL_TIMEOUT_S) -> bool:
        """Say whether the server answers at all, within `timeout_s` seconds."""
        with contextlib.suppress(InferenceServerException):
            return bool(self._client.is_server_live(client_timeout=timeout_s))
        return False

    def version(self) -> str:
        """Triton's version, for instance `2.51.0`.

        Raises:
            ControlError: the server does not answer.
        """
        with _translated("ask for the server's version"):
            found = self._client.get_server_metadata(client_timeout=CALL_TIMEOUT_S)
        return str(found.version)

    def load(self, model: str, timeout_s: float, config: Any = None) -> None:
        """Load a model and, for an ensemble, every model that it names.

        Args:
            model: Its name.
            timeout_s: Seconds for all of it.
            config: A `ModelConfig` to load it with; None for the one in the repository.

        Raises:
            ControlError: with Triton's reason, or DEADLINE_EXCEEDED after `timeout_s`.
        """
        with _translated(f"load {model}"):
            self._client.load_model(
                model,
                config=None if config is None else _to_json(config),
                headers=self._access.admin_headers(self.url),
                client_timeout=timeout_s,
            )

    def restart(self, model: str, timeout_s: float) -> None:
        """Start a loaded model's instances again, in place.

        Triton starts a loaded model again only when its files or its config changed. Counting up
        a parameter of the config in the server's memory does that and leaves the repository,
        which may be read-only or shared, as it is. Nothing is unloaded: ensembles keep answering,
        and later loads of ensembles that name the model do not start it again.

        Raises:
            ControlError: with Triton's reason, or DEADLINE_EXCEEDED after `timeout_s`.
        """
        config = self.config(model)
        heals = int(config.parameters[HEALS].string_value or "0") + 1
        config.parameters[HEALS].string_value = str(heals)
        with _translated(f"restart {model}"):
            self._client.load_model(
                model,
                config=_to_json(config),
                headers=self._access.admin_headers(self.url),
                client_timeout=timeout_s,
            )

    def unload(self, model: str) -> None:
        """Refuse new requests for a model; Triton finishes the ones that it has.

        Raises:
            ControlError: with Triton's reason.
        """
        with _translated(f"unload {model}"):
            self._client.unload_model(
                model, headers=self._access.admin_headers(self.url), client_timeout=CALL_TIMEOUT_S
            )

    def states(self) -> dict[str, list[ModelState]]:
        """The state of every model in the repository, one entry for each version.

        Raises:
            ControlError: with Triton's reason.
        """
        with _translated("list models"):
            index = self._client.get_model_repository_index(
                headers=self._access.admin_headers(self.url), client_timeout=CALL_TIMEOUT_S
            )
        states: dict[str, list[ModelState]] = {}
        for model in index.models:
            states.setdefault(model.name, []).append(ModelState(model.state, model.reason))
        return states

    def ready_models(self) -> set[str]:
        """Models of which at least one version takes requests, as Triton believes.

        Raises:
            ControlError: with Triton's reason.
        """
        return {
            model
            for model, versions in self.states().items()
            if any(version.state == "READY" for version in versions)
        }

    def loaded_models(self) -> set[str]:
        """Models that are loaded, are being loaded, or finish what they have before they go.

        Raises:
            ControlError: with Triton's reason.
        """
        return {
            model
            for model, versions in self.states().items()
            if any(version.state in ("READY", "UNLOADING", "LOADING") for version in versions)
        }

    def traffic(self, model: str, version: str) -> Traffic:
        """What one version of a loaded ensemble has answered since it was loaded.

        Raises:
            ControlError: with Triton's reason, for instance that it is not loaded.
        """
        with _translated(f"read the statistics of {model}"):
            found = self._client.get_inference_statistics(
                model, version, client_timeout=CALL_TIMEOUT_S
            )
        counts = [one.inference_stats for one in found.model_stats]
        answered = sum(one.success.count for one in counts)
        took_ns = sum(one.success.ns for one in counts)
        return Traffic(
            requests=answered,
            failures=-(-sum(one.fail.count for one in counts) // FAILURE_COUNTS),
            mean_ms=took_ns / answered / 1e6 if answered else 0.0,
        )

    def is_ready(self, model: str) -> bool:
        """Say whether Triton believes that a model can answer."""
        with contextlib.suppress(InferenceServerException):
            return bool(self._client.is_model_ready(model, client_timeout=CALL_TIMEOUT_S))
        return False

    def config(self, model: str) -> Any:
        """The config that a loaded model runs with, a `ModelConfig` protobuf.

        Raises:
            ControlError: with Triton's reason.
        """
        with _translated(f"read the config of {model}"):
            response = self._client.get_model_config(model, client_timeout=CALL_TIMEOUT_S)
        config = model_config_pb2.ModelConfig()
        config.CopyFrom(response.config)
        return config

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def _to_json(config: Any) -> str:
    text: str = json_format.MessageToJson(config, preserving_proto_field_name=True)
    return text


@contextlib.contextmanager
def _translated(call: str) -> Iterator[None]:
    try:
        yield
    except InferenceServerException as error:
        code = str(error.status() or "UNKNOWN").removeprefix("StatusCode.")
        raise ControlError(call, code, one_line(error.message() or "no reason given")) from error


def load_reason(text: str) -> str:
    """Cut the reason why a model does not load down to what the model itself said."""
    for marker in ("UNAVAILABLE state: ", "failed with error: "):
        _, found, rest = text.rpartition(marker)
        if found:
            return rest
    return text


def one_line(text: str) -> str:
    """Put Triton's multi-line reasons, tracebacks included, on one line."""
    return " ".join(text.replace(" ;", ";").split()).rstrip("; ")
