"""Cast graphs in a process of their own.

    python -m tritium_builders.precision.worker REQUEST.json ANSWER.json

`graphs.py` starts it. ModelOpt patches ONNX Runtime and PyTorch when it is imported, prints
progress, and takes gigabytes for large graphs; none of that belongs into the caller's process.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from pydantic import Field

from tritium_builders.errors import CompileError
from tritium_builders.precision.cast import Bound, NotCloseEnoughError, cast_graph
from tritium_builders.release import ComponentCast, Precision, Record
from tritium_builders.servables.engine import Tensors
from tritium_client.contract import Role

TOLD = "tritium casts "
"""What a line of progress begins with; the component follows."""


class CastJob(Record):
    """One component to cast."""

    role: Role
    graph: Path
    out: Path
    samples: Path
    """A folder of .npz files, one for each calibration sample."""
    cosine: float
    relative: float
    """The bound, see `Bound`."""


class CastRequest(Record):
    """What to cast, and to what."""

    precision: Precision
    rest: Precision = "fp16"
    jobs: list[CastJob]


class CastFailure(Record):
    """A component that no cast of which answers closely enough."""

    role: Role
    cosine: float
    relative: float


class CastAnswer(Record):
    """What was cast; or the first failure; or what the tools refused."""

    casts: dict[Role, ComponentCast] = Field(default_factory=dict)
    failure: CastFailure | None = None
    error: str | None = None


def load_samples(folder: Path) -> list[Tensors]:
    """Read what `save_samples` wrote, in order."""
    found = []
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as arrays:
            found.append({name: arrays[name] for name in arrays.files})
    return found


def main(request: Path, answer: Path) -> None:
    """Cast one graph after the other; what goes wrong is part of the answer."""
    asked = CastRequest.model_validate_json(request.read_bytes())
    casts: dict[Role, ComponentCast] = {}
    found = CastAnswer()
    for job in asked.jobs:
        print(f"{TOLD}{job.role}", flush=True)  # noqa: T201 - the parent reads it as progress
        try:
            casts[job.role] = cast_graph(
                job.graph,
                job.out,
                asked.precision,
                load_samples(job.samples),
                Bound(job.cosine, job.relative),
                rest=asked.rest,
            )
        except NotCloseEnoughError as error:
            failure = CastFailure(role=job.role, cosine=error.cosine, relative=error.relative)
            found = CastAnswer(failure=failure)
            break
        except CompileError as error:
            found = CastAnswer(error=str(error))
            break
    else:
        found = CastAnswer(casts=casts)
    answer.write_text(found.model_dump_json(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
