"""Masked language modelling: some tokens are hidden, and guessed from the others.

Source: Devlin et al. 2019 (BERT), section 3.1; on texts of one's own domain, Gururangan et al.
2020, "Don't Stop Pretraining: Adapt Language Models to Domains and Tasks".
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DataCollatorForLanguageModeling

from tritium_builders.errors import RecipeError
from tritium_builders.models import LoadedTextEncoder
from tritium_builders.models.huggingface import load_masked_language_model
from tritium_builders.models.sources import pretrained_name
from tritium_builders.models.text_encoders import load_tokenizer
from tritium_builders.training.pretraining.folders import write_text_encoder
from tritium_builders.training.pretraining.objectives import PretrainingTask, Watched

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WATCHED_MASKS = 4
"""Each watched text is masked so many times, always in the same ways: short ones have few tokens,
and one mask would say little."""


class MaskedLanguage(PretrainingTask):
    """A text encoder with a head that names the hidden tokens.

    A checkpoint without such a head (sentence encoders have none) gets a new one.

    Args:
        source: The text encoder's source.
        text: The same encoder, loaded; says how long texts may be.
        texts: Of the whole data set.
        probability: Of a token to be hidden.
        batch_size: How many texts are watched at once.

    Raises:
        RecipeError: when the model has no such task, or its tokenizer no mask token.
    """

    def __init__(
        self,
        source: str,
        text: LoadedTextEncoder,
        texts: Sequence[str],
        *,
        probability: float,
        batch_size: int,
    ) -> None:
        name = pretrained_name(source)
        self._tokenizer = load_tokenizer(source, name)
        if self._tokenizer.mask_token is None:
            raise RecipeError(
                f"{source}: its tokenizer has no mask token, so nothing can be hidden; "
                'use objective = "contrastive", or another text encoder'
            )
        self._text = text
        self._model: PreTrainedModel = load_masked_language_model(source, name)
        self._encoder: nn.Module = self._model.base_model
        self.encoders = nn.ModuleDict({"text": self._encoder})
        self.heads = nn.ModuleDict({"words": _WithoutEncoder(self._model, self._encoder)})
        self._rows = self._tokenizer(
            list(texts), truncation=True, max_length=text.preprocessing.max_length
        )["input_ids"]
        self._collate = DataCollatorForLanguageModeling(
            self._tokenizer, mlm_probability=probability
        )
        self._batch_size = batch_size
        self._hidden: Tensor | None = None
        self._encoder.register_forward_hook(self._keep_hidden)

    def loss(self, items: Tensor) -> Tensor:
        """Cross-entropy of the hidden tokens, a mean over them."""
        total, count, _ = self._guess(items)
        return total / max(count, 1)

    @torch.inference_mode()
    def watch(self, items: Tensor) -> Watched:
        """The same with masks that do not change, and how many tokens are guessed rightly."""
        total, count, right = 0.0, 0, 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for batch in torch.split(items.repeat(WATCHED_MASKS), self._batch_size):
                loss, hidden, guessed = self._guess(batch)
                total, count, right = total + float(loss), count + hidden, right + guessed
        count = max(count, 1)
        return Watched(total / count, {"hidden tokens guessed": right / count})

    def write(self, folder: Path) -> list[Path]:
        """Write the encoder without its head, in Hugging Face's layout."""
        write_text_encoder(self._encoder, self._tokenizer, self._text.preprocessing, folder)
        return [folder]

    def _guess(self, items: Tensor) -> tuple[Tensor, int, int]:
        """Loss summed over hidden tokens, their number, and how many are guessed rightly."""
        device = self._model.device
        rows: list[Any] = [{"input_ids": self._rows[index]} for index in items.tolist()]
        batch = {name: values.to(device) for name, values in self._collate(rows).items()}
        wanted = batch.pop("labels")
        hidden = wanted != -100
        wanted, self._hidden = wanted[hidden], hidden
        logits = self._model(**batch).logits[0]
        loss = functional.cross_entropy(logits, wanted, reduction="sum")
        return loss, len(wanted), int((logits.argmax(-1) == wanted).sum())

    def _keep_hidden(self, encoder: nn.Module, inputs: Any, output: Any) -> Any:  # noqa: ARG002
        """Show the head hidden tokens only: it costs more than the encoder, and most are not."""
        output["last_hidden_state"] = output["last_hidden_state"][self._hidden][None]
        return output


class _WithoutEncoder(nn.Module):
    """The weights of a model's head: those that its encoder does not have, too."""

    def __init__(self, model: nn.Module, encoder: nn.Module) -> None:
        super().__init__()
        shared = {id(one) for one in encoder.parameters()}
        own = [one for one in model.parameters() if id(one) not in shared]
        self.weights = nn.ParameterList(own)
