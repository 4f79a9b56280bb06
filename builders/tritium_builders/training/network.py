"""What is trained at once: a fusion head, and below it the encoders that learn with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from tritium_builders.models import FusionHead
from tritium_builders.models.fusion.base import Given
from tritium_builders.preprocessing import ImagePreprocessing
from tritium_builders.reference import features_of, normalise
from tritium_builders.training.features import Features
from tritium_builders.training.inputs import Feed, Inputs
from tritium_builders.training.trainable import merge_lora, set_training

ENCODED_AT_ONCE = 64
"""Items, where no gradients are kept."""

Mix = tuple[float, Tensor]
"""The share of an item's own features, and INT64 [B]: whose features the rest is."""


class FusionNetwork(nn.Module):
    """A head over encoders that learn, or over the features of those that do not.

    Args:
        head: Features -> logits.
        text_encoder: Where it learns; None: its features are fed.
        image_encoder: Where it learns; None: its features are fed.
        image: What is done to pixels before the image encoder.
    """

    def __init__(
        self,
        head: FusionHead,
        text_encoder: nn.Module | None,
        image_encoder: nn.Module | None,
        image: ImagePreprocessing,
    ) -> None:
        super().__init__()
        self.head = head
        self.text_encoder = text_encoder
        self.image_encoder = image_encoder
        self._image = image

    @property
    def encoders(self) -> list[nn.Module]:
        """Those that learn."""
        both = (self.text_encoder, self.image_encoder)
        return [encoder for encoder in both if encoder is not None]

    def without_encoders(self) -> FusionNetwork:
        """The same head, to be fed with features."""
        return FusionNetwork(self.head, None, None, self._image)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.head.parameters()).device

    def forward(
        self, inputs: Inputs, given: Sequence[Given], mix: Mix | None = None
    ) -> list[Tensor]:
        """Logits FP32 [B, K] for each set of modalities.

        Args:
            inputs: B items.
            given: The modalities that the head is given.
            mix: How items' features are mixed; None: not at all.
        """
        features = self.encode(inputs, given)
        if mix is not None:
            features = _mixed(features, mix)
        return [logits_of(self.head, features, one) for one in given]

    def encode(self, inputs: Inputs, given: Sequence[Given]) -> Features:
        """Run the encoders that learn, where the head is given their modality.

        Args:
            inputs: B items.
            given: The modalities that the head is given.
        """
        text, image = inputs.text, inputs.image
        if self.text_encoder is not None and _encodes(self, "text", given):
            text = features_of(self.text_encoder(text, inputs.text_mask), "text_encoder")
        if self.image_encoder is not None and _encodes(self, "image", given):
            pixels = normalise(image, self._image)
            image = features_of(self.image_encoder(pixels), "image_encoder")
        return Features(text, inputs.text_mask if text.ndim == 3 else None, image)

    def train(self, mode: bool = True) -> FusionNetwork:
        """Put the head and what learns of the encoders into training mode, or all out of it."""
        super().train(mode)
        for encoder in self.encoders:
            set_training(encoder, mode)
        return self

    def learned(self) -> dict[str, Tensor]:
        """The head's state and all weights that learn; what is frozen is not in it."""
        learn = {name for name, weight in self.named_parameters() if weight.requires_grad}
        return {
            name: tensor
            for name, tensor in self.state_dict().items()
            if name in learn or name.startswith("head.")
        }

    def load_learned(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `learned` gave."""
        self.load_state_dict(dict(state), strict=False)

    def merge(self) -> None:
        """Make plain encoders of those with LoRA; they do not learn any more."""
        for encoder in self.encoders:
            merge_lora(encoder).requires_grad_(False)
        self.eval()


@torch.inference_mode()
def features_for(
    network: FusionNetwork, feed: Feed, indices: Tensor, given: Sequence[Given]
) -> Features:
    """What the head reads of some items, where the network is, with encoders as they are now.

    Args:
        network: In evaluation mode.
        feed: Where its inputs come from.
        indices: INT64 [N], items.
        given: What the head will be given; other modalities are not encoded.
    """
    kept = feed.features.select(indices)
    if not network.encoders:
        return kept
    parts = torch.split(indices, ENCODED_AT_ONCE)
    found = [network.encode(feed.take(part).to(network.device), given) for part in parts]
    masks = [one.text_mask for one in found if one.text_mask is not None]
    return replace(
        kept,
        text=torch.cat([one.text for one in found])
        if _encodes(network, "text", given)
        else kept.text,
        text_mask=torch.cat(masks) if masks else None,
        image=torch.cat([one.image for one in found])
        if _encodes(network, "image", given)
        else kept.image,
    )


@torch.inference_mode()
def answers_of(head: FusionHead, features: Features, given: Sequence[Given]) -> dict[Given, Tensor]:
    """Logits [N, K], or [N, W, K], for each of the given sets of modalities."""
    return {one: logits_of(head, features, one) for one in given}


def logits_of(head: FusionHead, features: Features, given: Given) -> Tensor:
    """Logits FP32 [N, K] with these modalities given and the others absent."""
    text = features.text if "text" in given else None
    image = features.image if "image" in given else None
    if features.text_mask is None or not head.sequences:
        logits: Tensor = head(text, image)
    else:
        logits = head(text, image, features.text_mask if "text" in given else None)
    return logits


def _encodes(network: FusionNetwork, modality: str, given: Sequence[Given]) -> bool:
    encoder = network.text_encoder if modality == "text" else network.image_encoder
    return encoder is not None and any(modality in one for one in given)


def _mixed(features: Features, mix: Mix) -> Features:
    share, others = mix
    text, image = (
        share * own + (1 - share) * own[others] if own.is_floating_point() else own
        for own in (features.text, features.image)
    )
    return Features(text, features.text_mask, image)
