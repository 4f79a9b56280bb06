"""How one server runs the components of any release: its cores, its tuning, its packages.

`tritium serve` writes it into the entry points that it loads, so that whoever loads another release
into that server, from wherever, has the components run as the server itself would.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib import metadata
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tritium_builders.release import Release
from tritium_deploy.tuning import Tuning, machine_tuning, tuned_configs

PYTHON = "python"
RUNTIMES = ("numpy", "onnxruntime", "openvino")
"""Packages that a release's servables compute with."""


class Machine(BaseModel):
    """What `contract.PARAM_SERVER_MACHINE` holds."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    cores: int
    """That the server may use."""
    own_cores: bool
    """Whether nobody else uses them: only then do instances keep to theirs."""
    tuning: Tuning | None = None
    """From a tuning file; lies over what follows from the cores."""
    response_cache: bool = False
    """Whether entry points keep answers."""
    packages: dict[str, str] = {}
    """Package -> version, of those that servables compute with; `python` is the interpreter's."""

    def configs(self, release: Release, read: Callable[[str], Any]) -> dict[str, Any]:
        """The configs that a release's components run with here.

        Args:
            release: Any release of the app.
            read: Model -> its `ModelConfig` in the repository.

        Returns:
            Triton model -> config, of those that do not run with the repository's.

        Raises:
            TuningError: the tuning file does not fit the release.
        """
        models = {role: component.model for role, component in release.loaded.items()}
        layers = []
        if "encoders" in models:
            layers.append(machine_tuning(release.app, models, self.cores, own_cores=self.own_cores))
        if self.tuning is not None:
            layers.append(self.tuning)
        found: dict[str, Any] = {}

        def read_tuned(model: str) -> Any:
            return found.get(model) or read(model)

        for layer in layers:
            found.update(tuned_configs(layer, models, read_tuned))
        return found


def installed_packages() -> dict[str, str]:
    """The versions of what servables compute with, in this Python."""
    found = {PYTHON: platform.python_version()}
    for name in RUNTIMES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def read_machine(text: str) -> Machine | None:
    """Read the parameter; None where a server has none, as it was started by somebody else."""
    try:
        return Machine.model_validate_json(text)
    except ValidationError:
        return None
