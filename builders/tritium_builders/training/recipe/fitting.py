"""`[optimiser]`, `[split]`, `[samples]`: how it is trained, and on which items."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tritium_builders.training.recipe.table import Table


class OptimiserTable(Table):
    """`[optimiser]`: how weights are fitted, and when that stops."""

    kind: Literal["adamw", "sgd"] = "adamw"
    """AdamW (Loshchilov and Hutter 2019), or gradient descent with momentum."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of sgd."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Of the head."""
    encoder_learning_rate: float | None = Field(default=None, gt=0)
    """Of encoders that are trained. Default: 2e-5; 2e-4 for LoRA, whose updates start from zero."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Each layer of an encoder learns at so many times the rate of the one above it. Source:
    Howard and Ruder 2018 (ULMFiT), section 3.2; Clark et al. 2020 (ELECTRA), appendix."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Never of encoders' norms and biases."""
    decay_biases: bool = True
    """Whether it is of the head's norms and biases, too."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    mixup: float = Field(default=0.0, ge=0)
    """Features of two items are mixed by a share from Beta(mixup, mixup); 0: they are not. Source:
    Zhang et al. 2018; of features as in Verma et al. 2019, "Manifold Mixup"."""
    batch_size: int = Field(default=64, ge=2)
    """Items in one step, over all processes."""
    gradient_accumulation: int = Field(default=1, ge=1)
    """In how many parts a step is computed: the same step with less memory."""
    gradient_clip: float | None = Field(default=None, gt=0)
    """Longest gradient, as a norm over all weights; longer ones are shortened to it."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rates after the warm-up: as they are, or to 0 over `max_epochs` (Loshchilov and
    Hutter 2017, without restarts)."""
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """The share of all steps of `max_epochs` in which learning rates rise from 0."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """In what trained encoders and the head above them compute gradients. `auto`: bf16 where the
    hardware computes in it. A head on frozen features always trains in fp32, unless this says
    bf16; and all answers are fp32."""
    max_epochs: int = Field(default=100, ge=1)
    head_epochs: int = Field(default=0, ge=0)
    """Where encoders learn: at most so many epochs in which the head alone does, on features that
    are computed once, at constant rates. A head that knows nothing yet would pull the encoders out
    of shape. Source: Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features"."""
    patience: int = Field(default=10, ge=1)
    """Epochs without a better `metric` before training stops."""
    metric: Literal["loss", "score", "accuracy", "macro_f1"] = "loss"
    """What early stopping watches on the validation side. `score` is the task's own figure."""
    checkpoint_seconds: float = Field(default=60.0, ge=0)
    """How much of a training may be lost when it is killed; the next run goes on from there."""

    @property
    def of_head(self) -> OptimiserTable:
        """How the head is trained before the encoders learn."""
        changed = {"max_epochs": self.head_epochs, "schedule": "constant", "warmup": 0.0}
        return self.model_copy(update=changed)


class SplitTable(Table):
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


class SamplesTable(Table):
    """`[samples]`: what the bundle keeps: of the training side, and of what was held out."""

    golden: int = Field(default=16, ge=1, le=16)
    """Every build and every start of the server is checked with these."""
    calibration: int = Field(default=64, ge=0)
    validation: int | None = Field(default=None, ge=1)
    """At most so many of the held-out items, labels in turn and one a group. Default: all of them;
    writing the bundle holds their pictures in memory."""
