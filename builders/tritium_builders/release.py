"""What a release says of itself: `release.json`, and where things lie in a repository.

A release is the folder `<number>/` of the app's main entry point, for instance
`openmoji_classify/3/`, in a Triton model repository. It exists when
its `release.json` does: the publisher renames that folder into place last.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tritium_builders.errors import PublishError
from tritium_builders.names import (
    AppName,
    InnerPath,
    ModelName,
    require_app_name,
    require_number,
)
from tritium_client.contract import (
    VERB_OF,
    Modality,
    Role,
    Task,
    Verb,
    entry_point,
    is_app_name,
    main_entry_points,
    release_entry_point,
)

RELEASE_FILE = "release.json"
GOLDEN = "golden"
VALIDATION = "validation"

Target = Literal["openvino", "onnxruntime", "tensorrt"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]


class Record(BaseModel):
    """What is written as JSON: nothing unknown in it, and nothing changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PublishedFile(Record):
    """One file of a component, for integrity checks."""

    sha256: str
    bytes: int


class PublishedComponent(Record):
    """One Triton model of the release."""

    model: ModelName
    """Its Triton model name, a folder of the repository."""
    files: dict[InnerPath, PublishedFile]
    """Path relative to the model's folder -> hash and size."""


class Tolerance(Record):
    """How far a served value may be from PyTorch's before the build fails."""

    features_cosine: float
    """Smallest cosine similarity of a feature vector with PyTorch's."""
    features_relative: float
    """Largest |difference| of a feature over the largest |feature| of that vector."""
    probabilities: float
    """Largest |difference| of a probability."""


class StageParity(Record):
    """What the parity gate measured for one output of one stage."""

    stage: str
    output: str
    samples: int
    largest_difference: float
    smallest_cosine: float | None = None
    """For features only."""


class ParityReport(Record):
    """What the parity gate measured, stage by stage."""

    tolerance: Tolerance
    stages: list[StageParity]


class ComponentCast(Record):
    """How one component's graph came from fp32 to the release's precision."""

    precision: Precision
    onnx_bytes: int
    onnx_sha256: str
    """Of the graph that was compiled."""
    nodes: int
    islands: list[str] = []
    """What stayed in higher precision because the gate asked for it, in words."""
    cosine: float = 1.0
    """Smallest cosine of an output with fp32's, over the calibration samples."""
    largest_difference: float = 0.0
    """Of an output from fp32's, relative to that vector's largest value."""


class AccuracyReport(Record):
    """Right answers of the release's precision beside fp32's, sample by sample."""

    samples: int
    labelled: bool
    """False where nobody labelled the samples: then "right" means fp32's own answer."""
    both_right: int
    only_fp32_right: int
    only_this_right: int
    both_wrong: int
    points: float
    """Percentage points gained; negative when accuracy was lost."""
    interval: tuple[float, float]
    """95 % confidence interval of `points`, for paired samples."""


class ProfileShape(Record):
    """The shapes of one input that one optimisation profile covers, batch first."""

    min: list[int]
    opt: list[int]
    max: list[int]


class PlanRecord(Record):
    """One component's TensorRT plan."""

    profiles: list[dict[str, ProfileShape]]
    """Profile index -> input -> shapes."""
    layers: int
    seconds: float


class TensorRTRecord(Record):
    """What a release's plans were built with; a server must match it before it loads them."""

    version: str
    """TensorRT's, for instance `10.9.0.34`."""
    compute_capability: str
    """Of the GPU that built, for instance `8.6`."""
    options: dict[str, Any]
    """`TensorRTOptions`, as given."""
    plans: dict[Role, PlanRecord]


class RuntimeChoice(Record):
    """What `--target auto` and `--precision auto` measured on the machine that built.

    A candidate is a target, with its precision where that is not fp32: `openvino bf16`.
    """

    target: Target
    """What was chosen."""
    precision: Precision = "fp32"
    """What was chosen."""
    per_second: dict[str, float]
    """Candidate -> answers per second of one instance with full batches; medians of turns."""
    alone_ms: dict[str, float]
    """Candidate -> milliseconds to encode a request alone; medians of turns."""
    threads: int
    """Of the instance."""
    refused: dict[str, str] = {}
    """Candidate -> why it could not be chosen: no such unit on this CPU, or a gate."""


class Release(Record):
    """The content of release.json."""

    schema_version: Literal[1] = 1
    app: AppName
    number: int = Field(ge=1)
    task: Task
    labels: list[str]
    """Of the probabilities; of a regression, what each score is; of an app that embeds, none."""
    thresholds: list[float] = []
    """Of a multi-label app: from which probability on each label holds."""
    units: list[float] = []
    """Of a regression: the spread of each score in training. A difference is divided by it before
    it is held against a tolerance."""
    entry_points: list[list[Modality]]
    """The sets of modalities that callers may give."""
    space: str | None = None
    """Of an app that embeds: names the space of its vectors. Those of equal spaces can be compared,
    so an index that was filled with one release can be asked with the other."""
    target: Target
    precision: Precision
    max_batch: int = 32
    """Requests that one execution of a component may answer."""
    components: dict[Role, PublishedComponent]
    bundle_hash: str
    tools: dict[str, str]
    """Package -> version, of everything that had a hand in the engines."""
    parity: ParityReport
    casts: dict[Role, ComponentCast] = {}
    """For reduced precision: how each component's graph was cast."""
    accuracy: AccuracyReport | None = None
    """For reduced precision: what it costs."""
    tensorrt: TensorRTRecord | None = None
    """For the target tensorrt."""
    choice: RuntimeChoice | None = None
    """For `--target auto`: why it is this target."""
    command: str
    """The command that builds this release again."""
    created: str
    """ISO 8601, UTC."""

    @property
    def loaded(self) -> dict[Role, PublishedComponent]:
        """The components that Triton loads: on a CPU `encoders`, which runs others, and heads."""
        if "encoders" not in self.components:
            return self.components
        return {
            role: component
            for role, component in self.components.items()
            if role == "encoders" or role.startswith("fusion_head")
        }

    @property
    def version_compatible(self) -> bool:
        """Whether its plans may be loaded by a later TensorRT than they were built with."""
        return self.tensorrt is not None and bool(self.tensorrt.options["version_compatible"])

    @property
    def verb(self) -> Verb:
        """What its entry points do."""
        return VERB_OF[self.task]

    @property
    def main_entry_point(self) -> str:
        """The alias whose config says what is live; the app's releases lie in its folder."""
        return self.alias(self.entry_points[0])

    def alias(self, modalities: list[Modality]) -> str:
        """Name the ensemble that callers use for these modalities."""
        return entry_point(self.app, self.verb, tuple(modalities))

    def graph(self, modalities: list[Modality]) -> str:
        """Name the release's own ensemble for these modalities."""
        return release_entry_point(self.app, self.verb, tuple(modalities), self.number)


def release_folder(repository: Path, app: str, number: int) -> Path:
    """Where release `number` of `app` lies.

    Raises:
        PublishError: `app` cannot be an app's name, or `number` a release's.
    """
    return app_folder(repository, app) / str(require_number(number))


def app_folder(repository: Path, app: str) -> Path:
    """The folder of an app's main entry point, which its releases lie in.

    Raises:
        PublishError: `app` cannot be an app's name.
    """
    return repository / main_entry_points(app)[app_verb(repository, app)]


def app_verb(repository: Path, app: str) -> Verb:
    """What an app's entry points do; `classify` where a repository has no such app.

    Raises:
        PublishError: `app` cannot be an app's name.
    """
    names = main_entry_points(require_app_name(app))
    return next((verb for verb, name in names.items() if (repository / name).is_dir()), "classify")


def load_release(folder: Path) -> Release:
    """Read the release.json of one release folder.

    Raises:
        PublishError: when it is missing or not a release.json of this schema.
    """
    path = folder / RELEASE_FILE
    try:
        return Release.model_validate_json(path.read_bytes())
    except OSError as error:
        raise PublishError(f"{path}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise PublishError(f"{path}: {where}: {first['msg']}; build the release again") from error


def read_release(repository: Path, app: str, number: int) -> Release:
    """Read one release of a repository.

    Raises:
        PublishError: as `load_release`; or its release.json speaks of another one.
    """
    folder = release_folder(repository, app, number)
    release = load_release(folder)
    if (release.app, release.number) != (app, number):
        raise PublishError(
            f"{folder / RELEASE_FILE} is of {release.app} release {release.number}; build the "
            "release again"
        )
    return release


def list_apps(repository: Path) -> list[str]:
    """The apps that have at least one release in a repository, sorted."""
    endings = [name.removeprefix("a") for name in main_entry_points("a").values()]
    named = {
        folder.name.removesuffix(ending)
        for ending in endings
        for folder in repository.glob(f"*{ending}")
    }
    return sorted(app for app in named if is_app_name(app) and list_releases(repository, app))


def list_releases(repository: Path, app: str) -> list[int]:
    """The numbers of an app's complete releases, ascending."""
    folder = app_folder(repository, app)
    return sorted(
        int(path.parent.name)
        for path in folder.glob(f"*/{RELEASE_FILE}")
        if re.fullmatch(r"[1-9]\d*", path.parent.name)
    )


def live_release(repository: Path, app: str) -> int | None:
    """The release that the app's alias ensemble points to, or None when there is none."""
    folder = app_folder(repository, app)
    try:
        text = (folder / "config.pbtxt").read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(rf'model_name:\s*"{re.escape(folder.name)}_r(\d+)"', text)
    return int(match[1]) if match else None
