"""What every file of figures is made of."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """What is written into JSON files: nothing unknown, nothing that changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)
