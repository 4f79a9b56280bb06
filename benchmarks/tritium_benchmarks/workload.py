"""What is asked of a server, and how fast: the schema of benchmarks/workloads/*.toml.

workload = load_workload("saturate")
workload.texts.words          # how long texts are
workload.arrivals             # how requests come
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tomllib
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator
from pydantic import ValidationError as PydanticError

from tritium_benchmarks.errors import WorkloadError

_INSTALLED = Path(__file__).parent / "workloads"
WORKLOADS = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[1] / "workloads"
"""The wheel holds them; in a checkout they stand beside the package."""

Share = Annotated[float, Field(ge=0, le=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PictureKind(_Strict):
    """One kind of picture in the mix."""

    format: Literal["jpeg", "png"]
    width: PositiveInt
    height: PositiveInt
    weight: PositiveFloat = 1.0
    """Relative to the other kinds'."""


class Words(_Strict):
    """How many words a text has: log-normal, as lengths of real texts are, cut at both ends.

    `sigma = 0` makes every text `median` words long.
    """

    median: PositiveInt = 9
    sigma: Annotated[float, Field(ge=0, le=3)] = 0.6
    least: PositiveInt = 1
    most: PositiveInt = 200

    @model_validator(mode="after")
    def _in_order(self) -> Words:
        if not self.least <= self.median <= self.most:
            raise ValueError("least, median and most must be in this order")
        return self


class Mix(_Strict):
    """Which requests there are. What is left to 1 has both a text and a picture."""

    text_only: Share = 0.0
    image_only: Share = 0.0
    repeats: Share = 0.0
    """Requests that repeat an earlier one byte for byte, for the response cache."""
    distinct: PositiveInt = 128
    """Different inputs that are made; a longer run goes through them again."""

    @model_validator(mode="after")
    def _at_most_all(self) -> Mix:
        if self.text_only + self.image_only > 1 + 1e-9:  # 0.9 + 0.1 is more than 1
            raise ValueError("text_only and image_only are more than 1 together")
        return self


class Closed(_Strict):
    """So many requests are in flight, always: the next one is sent when one is answered."""

    kind: Literal["closed"]
    in_flight: tuple[PositiveInt, ...] = Field(min_length=1)


class Poisson(_Strict):
    """Requests come when they come, whether or not earlier ones are answered."""

    kind: Literal["poisson"]
    share_of_peak: tuple[PositiveFloat, ...] = Field(min_length=1)
    """Rates, as shares of the highest closed-loop throughput."""


class Offline(_Strict):
    """A pile of items: as many as possible per second, latency does not matter."""

    kind: Literal["offline"]
    concurrency: PositiveInt = 64
    items: PositiveInt = 2000


Arrivals = Annotated[Closed | Poisson | Offline, Field(discriminator="kind")]


class Workload(_Strict):
    """One workload file."""

    name: str = Field(pattern=r"[a-z][a-z0-9-]*")
    about: str
    """What it answers, in a sentence."""
    mix: Mix = Mix()
    texts: Words = Words()
    pictures: tuple[PictureKind, ...] = Field(min_length=1)
    arrivals: Arrivals
    seed: int = 0


def load_workload(name: str) -> Workload:
    """Read a workload by its name, or from a file.

    Args:
        name: One of `workload_names()`, or the path of a .toml file.

    Raises:
        WorkloadError: there is none, or what is wrong with it.
    """
    is_path = name.endswith(".toml") or "/" in name
    path = Path(name) if is_path else WORKLOADS / f"{name}.toml"
    try:
        content = path.read_bytes()
    except OSError as error:
        known = ", ".join(workload_names())
        problem = f"cannot be read ({error.strerror}); there are: {known}"
        raise WorkloadError(path, problem) from error
    try:
        return Workload.model_validate(tomllib.loads(content.decode()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WorkloadError(path, f"no TOML: {error}") from error
    except PydanticError as error:
        raise WorkloadError(path, _first_problem(error)) from error


def workload_names() -> tuple[str, ...]:
    """The workloads that come with the project, sorted."""
    return tuple(sorted(path.stem for path in WORKLOADS.glob("*.toml")))


def _first_problem(error: PydanticError) -> str:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or "the file"
    return f"{field}: {first['msg'].removeprefix('Value error, ')}"
