"""rollout.toml: what a candidate has to show before it gets traffic, and when it loses it again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tomllib
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tritium_deploy.errors import SettingsError

DEFAULT_FILE = Path("rollout.toml")

Ratio = Annotated[float, Field(ge=1.0, le=100.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GateSettings(_Strict):
    """Before a canary and a promote. A gate cannot be switched off, its bound can be wide."""

    accuracy_margin: Annotated[float, Field(ge=0.0, le=100.0)] = 1.0
    """Percentage points that the candidate's top-1 accuracy may be below the live release's, on the
    candidate's own held-out samples."""
    latency_ratio: Ratio = 1.15
    """The candidate's p95 over the live release's, asked in turns on the same server."""
    latency_pairs: Annotated[int, Field(ge=20, le=10_000)] = 100
    """Pairs of requests for that, at least; a ratio above the bound is measured three times as
    long before it counts."""
    samples: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Held-out samples that are asked at most."""
    agreement: Share = 0.95
    """Share of answers equal to the live release's, for an app without labels."""


class WatchSettings(_Strict):
    """After a canary has begun, and after a promote."""

    seconds: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    error_points: Annotated[float, Field(ge=0, le=100)] = 1.0
    """Percentage points by which the share of failed requests may rise."""
    failures: Annotated[int, Field(ge=1)] = 3
    """Failed requests that are nothing yet."""
    latency_ratio: Ratio = 1.5
    """Mean latency over that of before, or of the live release."""
    requests: Annotated[int, Field(ge=1)] = 50
    """Answered requests, of both, before latencies are compared."""


class RolloutSettings(_Strict):
    """The content of rollout.toml."""

    gates: GateSettings = GateSettings()
    watch: WatchSettings = WatchSettings()
    load_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """For each model."""
    golden_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """For each golden answer; the first ones warm the engines up."""


def read_settings(path: Path | None) -> RolloutSettings:
    """Read a settings file.

    Args:
        path: None for rollout.toml in the current folder, or the defaults where there is none.

    Raises:
        SettingsError: it cannot be read, or holds something wrong; names the field.
    """
    if path is None:
        if not DEFAULT_FILE.exists():
            return RolloutSettings()
        path = DEFAULT_FILE
    try:
        return RolloutSettings.model_validate(tomllib.loads(path.read_text("utf-8")))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: no TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise SettingsError(f"{path}: {where}: {first['msg']}") from error
