"""The words that client, builders and server agree on: names, limits, error format.

Everything here is part of the wire contract. Changing a name or a format is a new major
`WIRE_VERSION`; adding one is a new minor version. Servables cannot import this module (they are
copied into a release and run alone), so the limits reach them through their specification and
the error format is written out in each of them; a test compares the two.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

WIRE_VERSION = "1.3"

Modality = Literal["text", "image"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)

Verb = Literal["classify", "annotate", "tag", "score", "embed"]
"""What an entry point does, and so what it answers with:

classify and annotate -> `probabilities`; tag -> `probabilities` of each word and `offsets`;
score -> `scores`; embed -> `embedding`.
"""
VERBS: tuple[Verb, ...] = get_args(Verb)

Task = Literal["classification", "multilabel", "tagging", "regression", "embedding"]
"""What an app was trained for."""
VERB_OF: dict[Task, Verb] = {
    "classification": "classify",
    "multilabel": "annotate",
    "tagging": "tag",
    "regression": "score",
    "embedding": "embed",
}
"""What the entry points of an app do, by its task."""

# --- tensors -----------------------------------------------------------------------------------

TEXT = "text"
"""BYTES [1], UTF-8."""
IMAGE = "image"
"""BYTES [1], one encoded picture (JPEG, PNG, WebP, GIF, BMP)."""
INPUT_IDS = "input_ids"
"""INT64 [tokens]."""
ATTENTION_MASK = "attention_mask"
"""INT64 [tokens], 1 for a token, 0 for padding."""
PIXELS = "pixels"
"""UINT8 [height, width, 3], RGB, not normalised."""
TEXT_FEATURES = "text_features"
"""FP32 [D], pooled."""
TEXT_SEQUENCE = "text_sequence"
"""FP32 [tokens, D], for heads that attend over tokens."""
TEXT_WORDS = "text_words"
"""FP32 [words, D], of each word's first token, for heads that tag words."""
WORD_STARTS = "word_starts"
"""INT64 [words], the index of each word's first token; -1 for padding."""
IMAGE_FEATURES = "image_features"
"""FP32 [D], pooled."""
IMAGE_SEQUENCE = "image_sequence"
"""FP32 [patches, D], for heads that attend over patches."""
PROBABILITIES = "probabilities"
"""FP32 [labels], sums to 1; of `annotate`, each is 0 to 1 on its own. Of `tag`: FP32 [words,
labels], each row sums to 1."""
OFFSETS = "offsets"
"""INT64 [words, 2]: each word's first character in the text and the one after its last, counted
in Unicode code points."""
SCORES = "scores"
"""FP32 [outputs], in the unit that the app was trained with."""
EMBEDDING = "embedding"
"""FP32 [D]."""

ROUTE_KEY = "route_key"
"""BYTES [1], UTF-8, of a router: whatever shall always meet the same release."""
RELEASE = "release"
"""INT64 [1], of a router: the release that answered."""
LABEL = "label"
"""BYTES [1], UTF-8, of a router: the most probable label."""

OUTPUTS: dict[Verb, tuple[str, ...]] = {
    "classify": (PROBABILITIES,),
    "annotate": (PROBABILITIES,),
    "tag": (PROBABILITIES, OFFSETS),
    "score": (SCORES,),
    "embed": (EMBEDDING,),
}
"""What an entry point answers with, by what it does."""

# --- limits ------------------------------------------------------------------------------------

MAX_TEXT_BYTES = 65_536
"""A longer text is refused: the encoder would see less than a hundredth of it."""
MAX_IMAGE_BYTES = 20 * 1024 * 1024
"""The largest encoded picture that is decoded."""
MAX_IMAGE_PIXELS = 64_000_000
"""Width times height, read from the header before a pixel is decoded."""

KEEPALIVE_MS = 6_000
"""How often a client asks a silent server, during a call, whether it is still there. A server must
allow it (`--grpc-http2-min-recv-ping-interval-without-data`); Triton's default does not."""

# --- model names -------------------------------------------------------------------------------

Role = Literal[
    "text_tokenizer",
    "image_decoder",
    "text_encoder",
    "image_encoder",
    "fusion_head",
    "fusion_head_text",
    "fusion_head_image",
    "encoders",
]
"""What a component does in the graph. `fusion_head_text` is the head with the image absent;
`encoders` runs the readers and both encoders in one process, on a CPU."""
ROLES: tuple[Role, ...] = get_args(Role)

APP_PATTERN = re.compile(r"[a-z][a-z0-9_]{0,62}")
"""An app's name is the first part of every Triton model name, so it stays a plain word."""


def is_app_name(name: str) -> bool:
    """Say whether `name` can be an app's name: a lower-case word of at most 63 characters."""
    return APP_PATTERN.fullmatch(name) is not None


def entry_point(app: str, verb: Verb, modalities: tuple[Modality, ...]) -> str:
    """Name the alias ensemble that callers use, for instance `openmoji_classify_text`.

    Args:
        app: The app's name.
        verb: What to do.
        modalities: What the caller gives; both together is the unmarked form.
    """
    suffix = "" if set(modalities) == set(MODALITIES) else f"_{modalities[0]}"
    return f"{app}_{verb}{suffix}"


def release_entry_point(
    app: str, verb: Verb, modalities: tuple[Modality, ...], release: int
) -> str:
    """Name the immutable ensemble of one release, for instance `openmoji_classify_r3`."""
    return f"{entry_point(app, verb, modalities)}_r{release}"


def main_entry_points(app: str) -> dict[Verb, str]:
    """What the main entry point of an app may be called, by what it does: an app has one of them.

    Its folder in a model repository holds the app's releases, and its config says which is live.
    """
    return {
        verb: entry_point(app, verb, ("text",) if verb == "embed" else MODALITIES) for verb in VERBS
    }


def router(app: str) -> str:
    """Name the entry point that splits requests for callers without the SDK."""
    return f"{app}_route"


def component(app: str, role: Role, content_hash: str) -> str:
    """Name a component by the first 12 hex digits of the hash of its content."""
    return f"{app}_{role}_{content_hash[:12]}"


_COMPONENT = re.compile(rf"_({'|'.join(sorted(ROLES, key=len, reverse=True))})_[0-9a-f]{{12}}")


def role_of(text: str) -> Role | None:
    """The role of the first component that a text names, for instance one of Triton's messages."""
    match = _COMPONENT.search(text)
    return None if match is None else next(role for role in ROLES if role == match[1])


# --- parameters of an entry point's config -----------------------------------------------------

PARAM_APP = "tritium.app"
PARAM_RELEASE = "tritium.release"
"""Decimal release number."""
PARAM_TASK = "tritium.task"
PARAM_MODALITIES = "tritium.modalities"
"""Comma-separated: the modalities that this entry point takes."""
PARAM_LABELS = "tritium.labels"
"""JSON list, in the order of the probabilities (of `score`: what each of the scores is)."""
PARAM_THRESHOLDS = "tritium.thresholds"
"""JSON list, of `annotate`: from which probability on each label holds, in the labels' order."""
PARAM_WIRE_VERSION = "tritium.wire_version"
PARAM_TARGET = "tritium.target"
PARAM_PRECISION = "tritium.precision"
PARAM_SERVER_TENSORRT = "tritium.server.tensorrt"
"""TensorRT version of the server, or `none`; added by `tritium serve` when it loads the model."""
PARAM_SERVER_COMPUTE_CAPABILITY = "tritium.server.compute_capability"
"""Of the server's GPU, for instance `8.6`, or `none`; added likewise."""

PARAM_ROLLOUT = "tritium.rollout"
"""JSON, see `Rollout`: which share of an entry point's requests goes to a candidate; absent where
none does. `tritium rollout` writes it, the SDK follows it."""
PARAM_SERVER_APPS = "tritium.server.apps"
"""JSON list: every app that the server serves, as of the load of this entry point; added likewise.
"""
PARAM_SERVER_ENTRY_POINTS = "tritium.server.entry_points"
"""JSON list: every entry point that the app behind this one has there. One that is named and not
found is being loaded or unloaded. Added likewise."""
PARAM_SERVER_MACHINE = "tritium.server.machine"
"""JSON: how the server runs a release's components, which whoever loads another release there needs
to know; added likewise."""
PARAM_SERVER_TRUSTED_KEYS = "tritium.server.trusted_keys"
"""JSON list of Ed25519 public keys, base64: whoever loads a release there has to see first that one
of them signed it; absent where releases need no signature. Added likewise."""
SERVER_PARAMETERS = "tritium.server."
"""How the names of all parameters begin that a server adds."""


def entry_point_parameters(
    *,
    app: str,
    release: int,
    task: str,
    modalities: Sequence[Modality],
    labels: Sequence[str],
    target: str,
    precision: str,
    thresholds: Sequence[float] = (),
) -> dict[str, str]:
    """Write what an entry point's config says of the release behind it.

    Args:
        app: The app's name.
        release: The release's number.
        task: What the app was trained for, for instance `classification`.
        modalities: What this entry point takes.
        labels: In the order of the probabilities; of `score`, what each of the scores is.
        target: What the components are compiled for, for instance `openvino`.
        precision: Of the engines, for instance `fp32`.
        thresholds: Of `annotate`, one for each label.

    Returns:
        Name -> value of the config's parameters, all of them strings.
    """
    return {
        **({PARAM_THRESHOLDS: json.dumps(list(thresholds))} if thresholds else {}),
        PARAM_APP: app,
        PARAM_RELEASE: str(release),
        PARAM_TASK: task,
        PARAM_MODALITIES: ",".join(modalities),
        PARAM_LABELS: json.dumps(labels, ensure_ascii=False),
        PARAM_WIRE_VERSION: WIRE_VERSION,
        PARAM_TARGET: target,
        PARAM_PRECISION: precision,
    }


# --- rollouts ----------------------------------------------------------------------------------

ROLLOUT_REFRESH_S = 5.0
"""How often the SDK reads an entry point's `PARAM_ROLLOUT` again, seconds."""


@dataclass(frozen=True)
class Rollout:
    """What an entry point's config says of a candidate beside the live release.

    Raises:
        ValueError: a share is not between 0 and 100, or the candidate is no release number.
    """

    candidate: int
    """A release; its own ensembles (`release_entry_point`) are loaded."""
    canary_percent: float = 0.0
    """Share of keys whose requests the candidate answers, 0 to 100."""
    shadow_percent: float = 0.0
    """Share of the live release's requests that the candidate is asked as well, 0 to 100."""
    salt: str = ""
    """Says which keys those are; the same for as long as a candidate's share grows or shrinks."""

    def __post_init__(self) -> None:
        if type(self.candidate) is not int or self.candidate < 1:
            raise ValueError(f"a release is a positive number: {self.candidate!r}")
        for share in (self.canary_percent, self.shadow_percent):
            # Compared before it becomes a float, which an integer of 400 digits cannot.
            if not (isinstance(share, int | float) and 0 <= share <= 100):
                raise ValueError(f"a share is between 0 and 100 percent: {share!r}")
        if not isinstance(self.salt, str):
            raise ValueError(f"a salt is a text: {self.salt!r}")  # noqa: TRY004 - read from JSON
        self.salt.encode()  # half a surrogate pair is a UnicodeEncodeError, which is a ValueError

    def takes(self, key: str) -> bool:
        """Whether the candidate answers the requests of a key.

        A key that it takes at some share it takes at every larger one, too.

        Args:
            key: Whatever shall always meet the same release, for instance a user's id.
        """
        return rollout_bucket(self.salt, key) < self.canary_percent

    def shadows(self, key: str) -> bool:
        """Whether the candidate is asked beside the live release; other keys than `takes`."""
        return rollout_bucket(f"shadow {self.salt}", key) < self.shadow_percent


def rollout_bucket(salt: str, key: str) -> float:
    """Where a key lies between 0 (included) and 100 (excluded), evenly for any kind of keys.

    Source: BLAKE2 (RFC 7693), keyed with the salt's own digest, as a key has at most 64 bytes.
    """
    keyed = hashlib.blake2b(salt.encode(), digest_size=32).digest()
    digest = hashlib.blake2b(key.encode(), digest_size=8, key=keyed).digest()
    # 53 bits: every value is a float, and none of them rounds up to 100.
    return (int.from_bytes(digest, "big") >> 11) / 2**53 * 100


def format_rollout(rollout: Rollout) -> str:
    """Write `PARAM_ROLLOUT`."""
    return json.dumps(vars(rollout), sort_keys=True)


def parse_rollout(text: str) -> Rollout | None:
    """Read `PARAM_ROLLOUT`; None where it is empty. What a newer minor version adds is not read.

    Raises:
        ValueError: it is something else.
    """
    if not text:
        return None
    try:
        values = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(values, dict):
        raise ValueError(f"{text!r} is no JSON object")  # noqa: TRY004 - of a text, not a type
    known = {name: values[name] for name in Rollout.__dataclass_fields__ if name in values}
    try:
        return Rollout(**known)
    except TypeError as error:
        raise ValueError(f"{text!r}: {error}") from error


# --- the server's name -------------------------------------------------------------------------

_SERVER_ID = re.compile(r"tritium apps=(?P<apps>[a-z0-9_,]*)")


def format_server_id(apps: Iterable[str]) -> str:
    """Write the name that a server gives itself (`tritonserver --id`): where its apps are found."""
    return f"tritium apps={','.join(apps)}"


def parse_server_id(name: str) -> tuple[str, ...] | None:
    """Read the apps that a server was started with, or None when its name does not say."""
    match = _SERVER_ID.fullmatch(name)
    return None if match is None else tuple(app for app in match["apps"].split(",") if app)


# --- errors on the wire ------------------------------------------------------------------------

_ERROR = re.compile(
    r"tritium\.invalid_input stage=(?P<stage>\w+) item=(?P<item>\d+): (?P<reason>.*)", re.DOTALL
)


@dataclass(frozen=True)
class WireError:
    """An input that a stage of the graph refused."""

    stage: str
    """The role that refused it, for instance `image_decoder`."""
    item: int
    """Index of the item within its request; 0 when a request carries one item."""
    reason: str


def format_error(error: WireError) -> str:
    """Write the message that a servable puts into its TritonError."""
    return f"tritium.invalid_input stage={error.stage} item={error.item}: {error.reason}"


def parse_error(message: str) -> WireError | None:
    """Find a servable's message inside what Triton made of it, or None when there is none."""
    match = _ERROR.search(message)
    if match is None:
        return None
    return WireError(match["stage"], int(match["item"]), match["reason"])
