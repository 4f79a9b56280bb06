"""Every error that serving and rolling out can end with.

    TritiumError
    ├── ServeError                  the server could not start, or did not stay up
    │   ├── UnsupportedError        this platform, Python or numpy cannot run Triton
    │   ├── TritonNotFoundError     there is no tritonserver to run
    │   ├── RepositoryError         the repository, or a release in it, cannot be served
    │   │   ├── PlanMismatchError   its plans are for another TensorRT or another GPU
    │   │   └── UnsignedError       it is not signed, or is not what was signed
    │   ├── TracingError            where traces shall go is no address for them
    │   ├── TuningError             a tuning file cannot be used, or does not fit the release
    │   ├── CertificateError        a certificate or its key cannot be used
    │   ├── PortTakenError          another process listens on a port
    │   ├── SharedMemoryError       /dev/shm has no room for the Python backend
    │   ├── StartError              tritonserver ended, or did not answer, while starting
    │   ├── ControlError            Triton refused, or did not answer, a model-control call
    │   ├── LoadError               a model of a release does not load
    │   ├── GoldenError             a golden sample is not answered as it was at build
    │   │   └── ReleaseError        another release answered than the one that was expected
    │   └── ServerDiedError         tritonserver ended by itself while serving
    ├── AdminKeyError               the file of the admin key cannot be used
    └── RolloutError                a rollout command changed nothing, or took back what it did
        ├── SettingsError           rollout.toml cannot be used
        ├── LockedError             another operator is at work on the app
        ├── UnreachableError        a server does not answer, or is none of this app's
        ├── KeyRefusedError         model control wants the admin key, or another one
        ├── CandidateError          a release cannot be staged; names what is wrong with it
        ├── GateError               a candidate was measured and is not good enough
        └── SwitchError             the entry points could not be switched; they were switched back

Each message names the cause and the fix, or the log to read, in one line.
"""

from __future__ import annotations

from pathlib import Path

from tritium_builders.errors import TritiumError


class ServeError(TritiumError):
    """The server could not start, or did not stay up."""


class UnsupportedError(ServeError):
    """This platform, Python or numpy cannot run Triton's Python backend."""


class TritonNotFoundError(ServeError):
    """There is no tritonserver to run."""


class RepositoryError(ServeError):
    """The repository, or a release in it, cannot be served."""


class PlanMismatchError(RepositoryError):
    """A release's plans were built for another TensorRT, or another GPU, than the server's."""


class UnsignedError(RepositoryError):
    """A server wants signed releases, and one is not, or is not what was signed."""


class CertificateError(ServeError):
    """A certificate or its key cannot be used."""


class TracingError(ServeError):
    """Where traces shall go is no address that spans can be sent to."""


class TuningError(ServeError):
    """A tuning file cannot be used, or does not fit the release that it lies over."""


class PortTakenError(ServeError):
    """Another process listens on a port that the server needs."""

    def __init__(self, purpose: str, host: str, port: int) -> None:
        super().__init__(
            f"{purpose} port {port} on {host} is taken by another process; "
            f"choose another with --{purpose}-port, or let --free-ports choose"
        )
        self.purpose = purpose
        self.port = port


class SharedMemoryError(ServeError):
    """Shared memory (/dev/shm) has no room for the Python backend's regions."""


class StartError(ServeError):
    """tritonserver ended, or did not answer, while it was starting."""

    def __init__(self, problem: str, log: Path) -> None:
        super().__init__(f"tritonserver {problem}; see {log}")
        self.log = log


class ControlError(ServeError):
    """Triton refused, or did not answer, a model-control call.

    Args:
        call: What was asked, for instance `load tiny_classify`.
        code: The gRPC status code's name, for instance `UNAVAILABLE`.
        reason: Triton's own words.
    """

    def __init__(self, call: str, code: str, reason: str) -> None:
        super().__init__(f"{call}: {code}: {reason}")
        self.code = code
        self.reason = reason


class LoadError(ServeError):
    """A model of a release does not load."""

    def __init__(self, model: str, reason: str, log: Path) -> None:
        super().__init__(f"model {model} failed to load: {reason}; see {log}")
        self.model = model
        self.reason = reason
        self.log = log


class GoldenError(ServeError):
    """A golden sample is not answered as it was at build."""

    def __init__(self, entry_point: str, sample: str, problem: str) -> None:
        super().__init__(f"{entry_point}: golden sample {sample}: {problem}")
        self.entry_point = entry_point
        self.sample = sample
        self.problem = problem


class ReleaseError(GoldenError):
    """Another release answered than the one that was expected to be live."""

    def __init__(self, entry_point: str, sample: str, answered: str, expected: str) -> None:
        problem = f"release {answered} answered in place of {expected}"
        super().__init__(entry_point, sample, problem)


class ServerDiedError(ServeError):
    """tritonserver ended by itself while serving."""

    def __init__(self, how: str, log: Path) -> None:
        super().__init__(f"tritonserver {how}; start `tritium serve` again, and see {log}")
        self.log = log


class AdminKeyError(TritiumError):
    """The file of the admin key cannot be used."""


class EnvoyConfigError(TritiumError):
    """A configuration of Envoy cannot be made as it was asked for."""


class RolloutError(TritiumError):
    """A rollout command changed nothing, or took back what it had done."""


class SettingsError(RolloutError):
    """rollout.toml cannot be used."""


class LockedError(RolloutError):
    """Another operator is at work on the app."""


class UnreachableError(RolloutError):
    """A server does not answer, or does not serve the app."""

    def __init__(self, endpoint: str, problem: str) -> None:
        super().__init__(f"server {endpoint}: {problem}")
        self.endpoint = endpoint


class KeyRefusedError(RolloutError):
    """A server's model control is restricted, and the key was not given or is another one."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(
            f"server {endpoint} refuses model control without its admin key; run this as the user "
            "that serves, on its machine, or give the file of `tritium serve --admin-key-file`"
        )
        self.endpoint = endpoint


class CandidateError(RolloutError):
    """A release cannot be staged.

    Args:
        app: Whose.
        release: Which.
        fault: What is wrong with it, in one line.
    """

    def __init__(self, app: str, release: int, fault: str) -> None:
        super().__init__(f"{app} release {release} cannot be staged: {fault}")
        self.fault = fault


class GateError(RolloutError):
    """A candidate was measured and is not good enough.

    Args:
        app: Whose.
        release: Which.
        failures: What each gate that failed found.
    """

    def __init__(self, app: str, release: int, failures: tuple[str, ...]) -> None:
        super().__init__(f"{app} release {release} is refused: {'; '.join(failures)}")
        self.failures = failures


class SwitchError(RolloutError):
    """The entry points could not be switched to a release everywhere; they were switched back."""
