"""What a bundle asks of an architecture so that it can keep weights instead of a graph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import nn
from typing_extensions import Self


class KnownModule(nn.Module, ABC):
    """A torch module that a bundle can make again from a JSON object and a state dict.

    `state_dict()` holds every weight, and `from_config(module.config())` makes the same module
    with other weights, without a network and without reading weights.
    """

    kind: ClassVar[str]
    """Its name in a bundle; never changed, or old bundles no longer load."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Everything but the weights, as JSON values that hold no paths of this machine."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make the module with weights that are still to be loaded.

        Args:
            config: What `config()` of the same class returned.
        """
