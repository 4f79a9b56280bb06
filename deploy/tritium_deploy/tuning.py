"""How a release's components run on one machine: what `tritium bench tune` finds, `serve` takes.

    tritium bench tune openmoji --p99-ms 200 --out openmoji.tuning.toml
    tritium serve --tuning openmoji.tuning.toml

A release is written once and for every machine; a tuning lies over its configs when they are
loaded, and changes neither what is answered nor any file of the repository.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import tomllib
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tritium_builders.configs import share_cores_out
from tritium_client.contract import Role
from tritium_deploy.errors import TuningError

AtLeastOne = Annotated[int, Field(ge=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ComponentTuning(_Strict):
    """How one component runs; what is left out stays as it is without a tuning file."""

    instances: Annotated[int, Field(ge=1, le=64)] | None = None
    """Processes (Python backend) or execution contexts (TensorRT)."""
    threads: Annotated[int, Field(ge=0)] | None = None
    """Of each engine call; 0 for all that the process may use."""
    streams: AtLeastOne | None = None
    """Engine calls that one instance makes side by side."""
    max_batch: AtLeastOne | None = None
    """Requests that one engine call answers at most."""
    pin: bool | None = None
    """Of `encoders`: its instances share the cores out and keep to theirs."""
    max_queue_delay_us: Annotated[int, Field(ge=0)] | None = None
    """Microseconds that a request may wait for others to share its batch."""

    def apply(self, config: Any, role: str) -> None:
        """Write it into a component's `ModelConfig`.

        Args:
            config: Changed in place.
            role: Of the component, for errors.

        Raises:
            TuningError: the component has no engine whose threads, streams or batches could be set.
        """
        if self.instances is not None:
            config.instance_group[0].count = self.instances
        if self.max_queue_delay_us is not None:
            config.dynamic_batching.max_queue_delay_microseconds = self.max_queue_delay_us
        engine = {
            name: value
            for name in ("threads", "streams", "max_batch", "pin")
            if (value := getattr(self, name)) is not None
        }
        if not engine:
            return
        spec = json.loads(config.parameters["spec"].string_value or "{}")
        unknown = sorted(set(engine) - set(spec))
        if unknown:
            raise TuningError(f"component {role} has no {unknown[0]} to set; take the line out")
        config.parameters["spec"].string_value = json.dumps(spec | engine, sort_keys=True)
        if self.max_batch is not None:
            # Triton then leaves what is over to another instance, or to the next batch.
            del config.dynamic_batching.preferred_batch_size[:]
            config.dynamic_batching.preferred_batch_size.append(self.max_batch)


class Tuning(_Strict):
    """The content of a tuning file."""

    app: str
    components: dict[Role, ComponentTuning]
    measured: dict[str, str | int | float] = {}
    """What it was found with: machine, release, figures. For people; not read again."""


def machine_tuning(app: str, roles: Iterable[Role], cores: int, *, own_cores: bool) -> Tuning:
    """How an app with `encoders` runs where nobody has tuned it: an instance for each core.

    At most eight: instances with few threads answer more than one with many, and each holds the
    model once.

    Args:
        app: The app.
        roles: Of its loaded components.
        cores: That the server may use.
        own_cores: Whether nobody else uses them: only then do instances keep to theirs.
    """
    instances, threads = share_cores_out(cores)
    encoders = ComponentTuning(instances=instances, threads=threads, pin=own_cores and cores > 1)
    # A head's work is over before a second thread of it would have a core.
    heads: dict[Role, ComponentTuning] = {
        role: ComponentTuning(threads=threads) for role in roles if role != "encoders"
    }
    return Tuning(app=app, components={"encoders": encoders, **heads})


def read_tuning(path: Path) -> Tuning:
    """Read a tuning file.

    Raises:
        TuningError: it cannot be read, or holds something wrong; names the field.
    """
    try:
        return Tuning.model_validate(tomllib.loads(path.read_text("utf-8")))
    except OSError as error:
        raise TuningError(f"{path} cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TuningError(f"{path}: no TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "[key]") or "the file"
        raise TuningError(f"{path}: {where}: {first['msg']}") from error


def write_tuning(tuning: Tuning, path: Path) -> None:
    """Write a tuning file.

    Raises:
        TuningError: it cannot be written.
    """
    import tomli_w  # servers read tunings without it

    text = tomli_w.dumps(tuning.model_dump(exclude_none=True, mode="json"))
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise TuningError(f"{path} cannot be written ({error.strerror})") from error


def tuned_configs(
    tuning: Tuning, models: Mapping[Role, str], read: Callable[[str], Any]
) -> dict[str, Any]:
    """The configs of one release's components with a tuning laid over them.

    Args:
        tuning: What to change.
        models: Role -> Triton model, of the release.
        read: Model -> its `ModelConfig` in the repository.

    Returns:
        Triton model -> config, for the components that the tuning names.

    Raises:
        TuningError: it names a component that the release does not have, or cannot tune.
    """
    found = {}
    for role, component in tuning.components.items():
        if role not in models:
            raise TuningError(
                f"the tuning names {role}, which the live release of {tuning.app} does not have; "
                f"it has: {', '.join(models)}"
            )
        config = read(models[role])
        component.apply(config, role)
        found[models[role]] = config
    return found
