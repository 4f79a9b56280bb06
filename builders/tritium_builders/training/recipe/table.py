"""What all tables of a recipe share."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Table(BaseModel):
    """One table of a recipe: nothing unknown, nothing that changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)
