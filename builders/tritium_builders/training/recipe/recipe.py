"""A recipe as a whole, and how its file is read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import tomllib
from pydantic import Field, ValidationError, field_validator, model_validator

from tritium_builders.errors import RecipeError
from tritium_builders.training.recipe.data import DataTable, ManifestTable
from tritium_builders.training.recipe.ensemble import EnsembleTable
from tritium_builders.training.recipe.fine_tuning import AugmentationTable, LoaderTable
from tritium_builders.training.recipe.fitting import OptimiserTable, SamplesTable, SplitTable
from tritium_builders.training.recipe.imbalance import ImbalanceTable
from tritium_builders.training.recipe.model import (
    OF_TASK,
    OVER_SEQUENCES,
    STRATEGIES,
    WITH_HEADS,
    FusionTable,
    ImageEncoderTable,
    Strategy,
    TextEncoderTable,
)
from tritium_builders.training.recipe.table import Table
from tritium_client.contract import Task, is_app_name

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Seed = Annotated[int, Field(ge=0)]
AnyRecipe = TypeVar("AnyRecipe", bound=Table)


class Recipe(Table):
    """The content of a recipe file."""

    schema_version: Literal[1] = 1
    app: str
    """The name under which the model will be served."""
    task: Task = "classification"
    """What the model is for; docs/tasks.md says what each needs."""
    out: str | None = None
    """The bundle's folder, relative to where the command runs. Default: `bundles/<app>`."""
    seeds: list[Seed] = Field(default=[0, 1, 2], min_length=1)
    """The report gives mean and spread over these; the bundle holds the first one's head."""
    data: DataTable
    text_encoder: TextEncoderTable
    image_encoder: ImageEncoderTable
    fusion: FusionTable = FusionTable()
    ensemble: EnsembleTable | None = None
    optimiser: OptimiserTable = OptimiserTable()
    augmentation: AugmentationTable = AugmentationTable()
    loader: LoaderTable = LoaderTable()
    imbalance: ImbalanceTable = ImbalanceTable()
    split: SplitTable = SplitTable()
    samples: SamplesTable = SamplesTable()

    @field_validator("app")
    @classmethod
    def _app(cls, name: str) -> str:
        if not is_app_name(name):
            raise ValueError(
                f"{name!r} is not an app name; use lower-case letters, digits and _, letter first"
            )
        return name

    @model_validator(mode="before")
    @classmethod
    def _one_strategy(cls, content: Any) -> Any:
        """A task with one strategy has it by default."""
        if isinstance(content, dict) and content.get("task") in OF_TASK:
            fusion = content.get("fusion", {})
            if isinstance(fusion, dict):
                return {**content, "fusion": {"strategy": OF_TASK[content["task"]], **fusion}}
        return content

    @model_validator(mode="after")
    def _data_fits_task(self) -> Recipe:
        data, manifest = self.data, isinstance(self.data, ManifestTable)
        if not manifest and self.task not in {"classification", "embedding"}:
            raise ValueError(f'task {self.task!r} needs data.source = "manifest"')
        values = data.values if isinstance(data, ManifestTable) else None
        if (values is not None) != (self.task == "regression"):
            raise ValueError('data.values is for task "regression", which needs it')
        labels = data.labels if isinstance(data, ManifestTable) else None
        if labels is not None and self.task not in {"classification", "multilabel"}:
            raise ValueError(f"data.labels is not for task {self.task!r}")
        if labels is not None and self.task == "classification" and len(labels) == 1:
            raise ValueError("data.labels holds one label; a classifier needs two")
        if self.fusion.hybrid and self.task != "classification":
            raise ValueError(f"fusion.hybrid is not for task {self.task!r}")
        if self.imbalance.strategy != "none" and self.task not in {"classification", "multilabel"}:
            raise ValueError(f"imbalance.strategy is not for task {self.task!r}")
        if self.fusion.calibration != "none" and self.task in {"regression", "embedding"}:
            raise ValueError(f"fusion.calibration is not for task {self.task!r}")
        return self

    @model_validator(mode="after")
    def _strategy_fits_task(self) -> Recipe:
        strategy, only = self.fusion.strategy, OF_TASK.get(self.task)
        if only is None and strategy not in STRATEGIES:
            raise ValueError(f"fusion strategy {strategy!r} is not for task {self.task!r}")
        if only is not None and strategy != only:
            raise ValueError(f"task {self.task!r} has fusion strategy {only!r}, not {strategy!r}")
        return self

    @model_validator(mode="after")
    def _pooling_fits_strategy(self) -> Recipe:
        if self.task == "tagging":
            if self.text_encoder.pooling != "none" or self.image_encoder.pooling == "none":
                raise ValueError(
                    'task "tagging" needs text_encoder.pooling = "none" and pooled pictures'
                )
            return self
        sequences = self.fusion.strategy in OVER_SEQUENCES
        for name, table in (
            ("text_encoder", self.text_encoder),
            ("image_encoder", self.image_encoder),
        ):
            if (table.pooling == "none") != sequences:
                wanted = '"none"' if sequences else 'anything but "none"'
                raise ValueError(
                    f"fusion strategy {self.fusion.strategy!r} needs {name}.pooling = {wanted}"
                )
        return self

    @model_validator(mode="after")
    def _augmentation_has_an_encoder(self) -> Recipe:
        for used, name, table in (
            (self.augmentation.token_dropout > 0, "text_encoder", self.text_encoder),
            (self.augmentation.of_pictures, "image_encoder", self.image_encoder),
        ):
            if used and table.train == "none":
                raise ValueError(
                    f"augmentation is of what goes into {name}, which is frozen and computed once; "
                    f"set {name}.train, or take that augmentation away"
                )
        return self

    @model_validator(mode="after")
    def _mixup_has_pooled_features_of_items(self) -> Recipe:
        if self.optimiser.mixup > 0 and self.fusion.strategy in OVER_SEQUENCES:
            raise ValueError(
                f"optimiser.mixup mixes pooled features, and {self.fusion.strategy} reads sequences"
            )
        if self.optimiser.mixup > 0 and self.task in ("tagging", "embedding"):
            raise ValueError(f"optimiser.mixup is not for task {self.task!r}; take it away")
        return self

    @model_validator(mode="after")
    def _encoders_may_learn(self) -> Recipe:
        if self.fine_tunes and self.ensemble is not None:
            raise ValueError(
                'ensemble\'s members share frozen encoders; set train = "none" in both, or train '
                "a recipe for each and join the bundles with tritium ensemble"
            )
        if self.task == "tagging" and self.text_encoder.train != "none":
            raise ValueError(
                "text_encoder.train: words are tagged by features of a frozen text encoder; set it "
                'to "none"'
            )
        return self

    @model_validator(mode="after")
    def _head_is_first_where_encoders_learn(self) -> Recipe:
        if self.optimiser.head_epochs and not self.fine_tunes:
            raise ValueError(
                "optimiser.head_epochs is for encoders that learn, and both are frozen; take it "
                "away, or set text_encoder.train or image_encoder.train"
            )
        return self

    @property
    def fine_tunes(self) -> bool:
        """Whether an encoder is trained."""
        return {self.text_encoder.train, self.image_encoder.train} != {"none"}

    @model_validator(mode="after")
    def _members_fit(self) -> Recipe:
        table = self.ensemble
        if table is not None and self.task != "classification":
            raise ValueError(f"ensemble is for classification, not for task {self.task!r}")
        for strategy in (table.strategies or [self.fusion.strategy]) if table else []:
            if (strategy in OVER_SEQUENCES) != (self.fusion.strategy in OVER_SEQUENCES):
                raise ValueError(
                    f"ensemble.strategies: {strategy!r} and fusion strategy "
                    f"{self.fusion.strategy!r} read different features of the encoders"
                )
            if strategy in WITH_HEADS and self.fusion.width % self.fusion.heads:
                raise ValueError(
                    f"ensemble.strategies: {strategy!r} needs a fusion.width that is a multiple "
                    "of fusion.heads"
                )
            if strategy == "late" and table and table.kind == "boosting":
                raise ValueError(
                    "ensemble.kind \"boosting\" adds logits, and strategy 'late' averages "
                    "probabilities"
                )
        return self

    def with_strategy(self, strategy: Strategy) -> Recipe:
        """The same recipe for another head.

        Raises:
            ValueError: when that head's settings are none, or the encoders' pooling does not fit.
        """
        content = self.model_dump()
        content["fusion"]["strategy"] = strategy
        return Recipe.model_validate(content)

    @property
    def fusion_name(self) -> str:
        """What the bundle calls its head: for people."""
        strategy = self.fusion.strategy
        return strategy if self.ensemble is None else self.ensemble.describe(strategy)

    @property
    def bundle_folder(self) -> Path:
        """Where the bundle goes."""
        return Path(self.out) if self.out is not None else Path("bundles") / self.app


def load_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        RecipeError: naming the file, the field and the fix, one line for each problem.
    """
    return read_recipe(path, Recipe)


def read_recipe(path: Path, kind: type[AnyRecipe]) -> AnyRecipe:
    """Read a recipe of one kind.

    Raises:
        RecipeError: naming the file, the field and the fix, one line for each problem.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecipeError(f"{path}: there is no such recipe; check the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read ({error}); give a TOML file") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path}: is not valid TOML: {error}; mend that line") from error
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        problems = [
            f"{path}: {_field(problem)}{_message(problem)}; {_fix(problem['type'])}"
            for problem in error.errors()
        ]
        raise RecipeError("\n".join(problems)) from error


def _field(problem: ErrorDetails) -> str:
    location = list(problem["loc"])
    if problem["type"].startswith("union_tag_"):
        location.append("source")
    elif location[:1] == ["data"] and len(location) > 1:
        del location[1]  # pydantic's word for which of the tables it is, and none of the file's
    return "".join((".".join(str(part) for part in location), ": ")) if location else ""


def _message(problem: ErrorDetails) -> str:
    if problem["type"] == "union_tag_invalid":
        known = str(problem["ctx"]["expected_tags"]).replace(", ", " or ")
        return f"Input should be {known}"
    if problem["type"] == "union_tag_not_found":
        return "Field required"
    return problem["msg"].removeprefix("Value error, ")


def _fix(kind: str) -> str:
    fixes = {"missing": "add it", "extra_forbidden": "remove it or correct its spelling"}
    fixes["union_tag_not_found"] = "add it"
    return fixes.get(kind, "correct the value")
