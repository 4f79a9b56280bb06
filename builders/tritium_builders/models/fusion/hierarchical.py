"""Fusion at several depths."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from tritium_builders.models.fusion.base import PooledFusion, projection


class HierarchicalFusion(PooledFusion):
    """A network for each modality and a central one that takes from both at every depth.

    At depth 0 stand the projected modalities. The central network adds up, with learned weights,
    what it had itself and what both modalities' networks have at that depth:

        central_(l+1) = layer(a_l central_l + b_l text_l + c_l image_l)

    Args:
        text_features: D of the text encoder.
        image_features: D of the image encoder.
        labels: Number of labels, K.
        width: Width of every layer.
        layers: How many layers each modality has after its projection, at least 1.
        dropout: Dropout on every layer.
        modality_dropout: Probability that an item trains with one modality absent.

    Source: Vielzeuf et al. 2018, "CentralNet: a Multilayer Approach for Multimodal Fusion",
    section 3.
    """

    kind: ClassVar[str] = "hierarchical"
    settings: ClassVar[tuple[str, ...]] = ("width", "layers")

    def __init__(
        self,
        *,
        text_features: int,
        image_features: int,
        labels: int,
        width: int = 256,
        layers: int = 2,
        dropout: float = 0.3,
        modality_dropout: float = 0.3,
    ) -> None:
        super().__init__(
            text_features=text_features,
            image_features=image_features,
            labels=labels,
            width=width,
            layers=layers,
            dropout=dropout,
            modality_dropout=modality_dropout,
        )
        self.text_layers = _layers(layers, width, dropout)
        self.image_layers = _layers(layers, width, dropout)
        self.central_layers = _layers(layers + 1, width, dropout)
        # Of text and image at each depth, and of what the central network has from the one above.
        self.modality_weights = nn.Parameter(torch.ones(layers + 1, 2))
        self.central_weights = nn.Parameter(torch.ones(layers))
        # The central network is the hidden layers; what is left to do is linear.
        self.classifier = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, labels))

    def _classify(self, text: Tensor, image: Tensor) -> Tensor:
        weights = self.modality_weights
        central = self.central_layers[0](weights[0, 0] * text + weights[0, 1] * image)
        for depth, (text_layer, image_layer) in enumerate(
            zip(self.text_layers, self.image_layers, strict=True), start=1
        ):
            text, image = text_layer(text), image_layer(image)
            below = self.central_weights[depth - 1] * central
            together = below + weights[depth, 0] * text + weights[depth, 1] * image
            central = self.central_layers[depth](together)
        logits: Tensor = self.classifier(central)
        return logits


class _Layer(nn.Module):
    """What comes in, plus what a layer makes of it: depth costs a small data set less so.

    Source: He et al. 2016, "Deep Residual Learning for Image Recognition", section 3.2.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.change = projection(width, width, dropout)

    def forward(self, features: Tensor) -> Tensor:
        """FP32 [B, width] -> the same."""
        answer: Tensor = features + self.change(features)
        return answer


def _layers(count: int, width: int, dropout: float) -> nn.ModuleList:
    return nn.ModuleList(_Layer(width, dropout) for _ in range(count))
