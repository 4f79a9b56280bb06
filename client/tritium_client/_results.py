"""What calls answer with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt

    from tritium_client._exceptions import TritiumClientError
    from tritium_client.contract import Modality, Verb


@dataclass(frozen=True)
class Timing:
    """Where the time of a call went.

    Triton tells queue and compute times as sums over requests (its metrics), not for one request.
    """

    total_s: float
    """Seconds from the call to its return: everything below, reading the input, pauses between
    attempts, and waiting for one of the client's `max_in_flight` places."""
    answer_s: float
    """Seconds from sending the request that was answered to its answer: network, queue, compute."""
    attempts: int
    """Requests that were sent; retries, hedges and one that a candidate failed included."""


@dataclass(frozen=True)
class Ranked:
    """One label with its probability."""

    label: str
    probability: float
    """0 to 1."""


@dataclass(frozen=True)
class Classification:
    """The answer to one `classify`."""

    label: str
    """The most probable label."""
    probability: float
    """Its probability, 0 to 1."""
    ranking: tuple[Ranked, ...]
    """The `top_k` most probable labels, most probable first; equal ones in label order."""
    probabilities: npt.NDArray[np.float32] = field(repr=False, compare=False)
    """FP32 [labels], of every label in the release's order; sums to 1; read-only."""
    release: int
    """The release that computed this answer."""
    request_id: str = field(compare=False)
    """The id that the request carried; the server logs it."""
    timing: Timing = field(compare=False, repr=False)
    """Where the time of the call went."""


@dataclass(frozen=True)
class Annotation:
    """The answer to one `annotate`: any number of labels, each on its own."""

    labels: tuple[Ranked, ...]
    """The labels that hold, most probable first; there may be none."""
    ranking: tuple[Ranked, ...]
    """All labels, most probable first; equal ones in label order."""
    probabilities: npt.NDArray[np.float32] = field(repr=False, compare=False)
    """FP32 [labels], in the release's order, each 0 to 1; read-only."""
    thresholds: Mapping[str, float] = field(repr=False)
    """Label -> the probability from which on it holds, as training chose it."""
    release: int
    """The release that computed this answer."""
    request_id: str = field(compare=False)
    timing: Timing = field(compare=False, repr=False)


@dataclass(frozen=True)
class Embedding:
    """The answer to one `embed_text` or `embed_image`."""

    vector: npt.NDArray[np.float32] = field(compare=False)
    """FP32 [D], read-only; whether it has unit length is the app's choice."""
    release: int
    """The release that computed it. Vectors of releases with other encoders do not compare."""
    request_id: str = field(compare=False)
    timing: Timing = field(compare=False, repr=False)


@dataclass(frozen=True)
class Score:
    """The answer to one `score`."""

    value: float
    """The first of `values`; most apps have one."""
    values: npt.NDArray[np.float32] = field(repr=False, compare=False)
    """FP32 [outputs], read-only, in the unit that the app was trained with."""
    names: tuple[str, ...]
    """What each of `values` is."""
    release: int
    request_id: str = field(compare=False)
    timing: Timing = field(compare=False, repr=False)


@dataclass(frozen=True)
class Tag:
    """One word of a text with its tag."""

    word: str
    start: int
    """Index of its first character in the text."""
    end: int
    """Index after its last character."""
    tag: str
    """The most probable one, for instance `B-PER` or `O`."""
    probability: float
    """0 to 1."""


@dataclass(frozen=True)
class Entity:
    """Words that belong together."""

    label: str
    """The tags' label without `B-` and `I-`."""
    text: str
    start: int
    """Index of its first character in the text."""
    end: int
    """Index after its last character."""
    probability: float
    """The mean of its words' probabilities, 0 to 1."""


@dataclass(frozen=True)
class Tagging:
    """The answer to one `tag`."""

    tags: tuple[Tag, ...]
    """One for each word that the model read, in order."""
    entities: tuple[Entity, ...]
    """What the tags mark, in order."""
    release: int
    request_id: str = field(compare=False)
    timing: Timing = field(compare=False, repr=False)


T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class ItemResult(Generic[T_co]):
    """What became of one of many items: exactly one of `result` and `error` is there."""

    index: int
    """Of the item, counted from 0."""
    result: T_co | None = None
    """A Classification from `classify_many`, an Embedding from `embed_many`."""
    error: TritiumClientError | None = None

    def unwrap(self) -> T_co:
        """The result.

        Raises:
            TritiumClientError: what the call ended with.
        """
        if self.error is not None:
            raise self.error
        assert self.result is not None  # noqa: S101 - one of the two is always there
        return self.result


@dataclass(frozen=True)
class EntryPoint:
    """One kind of request that an app answers."""

    verb: Verb
    """What is asked, for instance `classify`."""
    modalities: tuple[Modality, ...]
    """What is given."""


@dataclass(frozen=True)
class AppStatus:
    """What a server says of an app that it serves."""

    app: str
    ready: bool
    """Whether each entry point takes requests (Triton's view: a dead process goes unnoticed)."""
    release: int
    """The release that callers get now."""
    task: str
    labels: tuple[str, ...]
    """In the order of the probabilities."""
    entry_points: tuple[EntryPoint, ...]
    """What the app answers."""
    target: str
    """What its components are compiled for, for instance `openvino`."""
    precision: str
    wire_version: str
    """The version of the wire contract that the release speaks, `major.minor`."""


@dataclass(frozen=True)
class ShadowReport:
    """How a candidate's answers compare with those of the live release, as one client saw them.

    A candidate is asked beside the live release where a rollout says so; a new candidate, or a new
    live release, starts a new report. None stands for what is not known before two answers have
    been compared.

    - `classify`: answers agree when their most probable label is the same. Their difference is the
      total variation distance of the probabilities, 0 to 1.
    - `annotate`: they agree when the same labels hold. Their difference is the largest absolute
      difference of a label's probability, 0 to 1.
    - `tag`: they agree when all tags are the same. Their difference is the share of words with
      another tag, 0 to 1.
    - `score`: their difference is the largest absolute difference of a score, in the app's unit.
    - `embed`: their difference is 1 minus the cosine of the vectors, 0 to 2.
    """

    app: str
    verb: Verb | None = None
    """What was asked; None while no candidate was."""
    candidate: int | None = None
    """The candidate's release."""
    live: int | None = None
    """The live release that it is compared with."""
    requests: int = 0
    """Requests that the candidate was sent as well, and that have ended."""
    failed: int = 0
    """Those among them without two answers that can be compared."""
    dropped: int = 0
    """Requests that it was not sent, since as many as may be were under way already."""
    agreement: float | None = None
    """Share of the compared answers that agree, 0 to 1; always None for `score` and `embed`."""
    mean_difference: float | None = None
    """Of the compared answers, in the unit above."""
    largest_difference: float | None = None
    """Of the compared answers, in the unit above."""
    live_latency_s: float | None = None
    """Median seconds from sending a request to the live release's answer, over the last 1,024 that
    were compared."""
    candidate_latency_s: float | None = None
    """The same of the candidate's answers to the same requests."""


@dataclass(frozen=True)
class ServerStatus:
    """What a server says of itself."""

    endpoint: str
    live: bool
    ready: bool
    """Triton's own readiness; `tritium serve` has one that also knows of dead processes."""
    version: str
    """Triton's version, for instance `2.51.0`."""
