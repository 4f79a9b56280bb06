"""Methods on models whose right explanation is known, and on the axioms that they promise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

from tests.support.models import IMAGES, tokenizer
from tests.support.pictures import png
from tritium_builders import Bundle, TextPreprocessing
from tritium_builders.errors import ExplainError
from tritium_builders.explain.answering import ModuleAnswering
from tritium_builders.explain.attention import _rollout, attention
from tritium_builders.explain.attributions import regions
from tritium_builders.explain.gradients import gradient, integrated_gradients
from tritium_builders.explain.item import ExplainedItem, prepare_item
from tritium_builders.explain.occlusion import occlusion
from tritium_builders.graphs import load_model
from tritium_builders.models import HuggingFaceImageEncoder, HuggingFaceTextEncoder
from tritium_builders.reference import FusionModel

TEXT = "a red fox, on unbelievable snow"
CORNER = 16


class SumOfEmbeddings(nn.Module):
    """Adds up its tokens' vectors."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, 8)

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        embedded: Tensor = self.table(input_ids) * attention_mask.unsqueeze(-1)
        return embedded.sum(1)


class Corner(nn.Module):
    """Sees nothing but the red of the upper left corner."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        return pixel_values[:, :1, :CORNER, :CORNER].mean((2, 3))


class Weighted(nn.Module):
    """One score: the modalities' features, weighted."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.image = nn.Linear(8, 1), nn.Linear(1, 1)

    def forward(self, text: Tensor, image: Tensor) -> Tensor:
        score: Tensor = self.text(text) + self.image(image)
        return score


@pytest.fixture(scope="module")
def linear() -> FusionModel:
    """A model whose output is a sum over tokens and pixels."""
    torch.manual_seed(0)
    words = tokenizer()
    return FusionModel(
        SumOfEmbeddings(words.get_vocab_size()), Corner(), Weighted(), words,
        TextPreprocessing(max_length=48), IMAGES, "regression",
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def item(linear: FusionModel) -> ExplainedItem:
    return prepare_item(linear, TEXT, png(64, 64, 3))


def by_hand(model: FusionModel, item: ExplainedItem) -> tuple[Any, Any]:
    """What each token and pixel of the linear model adds, by its weights."""
    with torch.no_grad():
        text, head = model.text_encoder, model.fusion_head
        assert isinstance(text, SumOfEmbeddings)
        assert isinstance(head, Weighted)
        table = text.table
        tokens = (table(item.ids[0]) - table(torch.tensor(item.blank_token))) @ head.text.weight[0]
        change = (item.pixels[0].float() - item.blank_pixel)[..., 0] / 255 / model.image.std[0]
        pixels = change * float(head.image.weight) / CORNER**2
        pixels[CORNER:], pixels[:, CORNER:] = 0, 0
    return np.where(item.special, 0, tokens.numpy()), pixels.numpy()


@pytest.mark.parametrize("method", [integrated_gradients, gradient])
def test_gradients_find_what_a_linear_model_adds_up(
    linear: FusionModel, item: ExplainedItem, method: object
) -> None:
    found = method(linear, item, 0)  # type: ignore[operator]
    tokens, pixels = by_hand(linear, item)
    np.testing.assert_allclose(found.tokens, tokens, atol=1e-5)
    np.testing.assert_allclose(found.pixels, pixels, atol=1e-6)


def test_occlusion_finds_the_words_and_the_corner(linear: FusionModel, item: ExplainedItem) -> None:
    found = occlusion(ModuleAnswering(linear), item, 0)
    tokens, _ = by_hand(linear, item)
    assert found.tokens is not None
    np.testing.assert_allclose(found.tokens, tokens, atol=1e-5)
    assert found.pixels is not None
    reach = CORNER + 2 * (64 // 14)  # a window that begins in the corner
    assert np.abs(found.pixels[:CORNER, :CORNER]).max() > 1e-3
    assert np.abs(found.pixels[reach:]).max() < 1e-6  # of rounding
    assert np.abs(found.pixels[:, reach:]).max() < 1e-6


def test_integrated_gradients_add_up_to_the_difference(known: Bundle) -> None:
    model = load_model(known)
    own = prepare_item(model, TEXT, png(80, 60, 5))
    answer = ModuleAnswering(model)(own.ids, own.pixels)[0]
    index = int(answer.argmax())
    found = integrated_gradients(model, own, index)
    assert found.tokens is not None is not found.pixels
    assert found.baseline is not None
    difference = float(answer[index]) - found.baseline
    assert abs(difference) > 0.005
    assert found.tokens.sum() + found.pixels.sum() == pytest.approx(difference, abs=2e-3)
    assert np.all(found.tokens[own.special] == 0)
    assert np.all(found.tokens[~own.special] != 0)


def test_tokens_are_cut_from_the_text(item: ExplainedItem) -> None:
    assert item.tokens[0] == "[CLS]"
    assert item.special.tolist() == [token in ("[CLS]", "[SEP]") for token in item.tokens]
    own = [TEXT[start:end] for start, end in item.spans]
    assert [part for part in own if part] == [
        token for token, special in zip(item.tokens, item.special, strict=True) if not special
    ]
    assert item.blank_token == tokenizer().token_to_id("[MASK]")


def vit_model(linear: FusionModel, text: nn.Module | None = None) -> FusionModel:
    torch.manual_seed(1)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        image_size=64, patch_size=16,
    )  # fmt: skip
    encoder = HuggingFaceImageEncoder(ViTModel(config), "pooled").eval()
    return replace(linear, image_encoder=encoder, text_encoder=text or linear.text_encoder)


def test_attention_is_spread_over_words_and_patches(known: Bundle, linear: FusionModel) -> None:
    text = load_model(known).text_encoder
    assert isinstance(text, HuggingFaceTextEncoder)
    model = vit_model(linear, text)
    own = prepare_item(model, TEXT, png(80, 60, 5))
    found = attention(model, own)
    assert found.notes == ()
    assert found.tokens is not None is not found.pixels
    assert found.tokens.sum() == pytest.approx(1)
    assert found.pixels.sum() == pytest.approx(1)
    assert np.all(found.tokens[own.special] == 0)
    assert len(np.unique(found.pixels.round(12))) == 16  # one value a patch
    config: Any = text.model.config
    assert config._attn_implementation == "sdpa"
    assert not config.output_attentions


def test_attention_says_who_has_none(
    known: Bundle, linear: FusionModel, item: ExplainedItem
) -> None:
    model = load_model(known)
    found = attention(model, prepare_item(model, TEXT, png(80, 60, 5)))
    assert found.pixels is None
    assert found.notes == ("the image encoder has no attention; take another method to see it",)
    with pytest.raises(ExplainError, match="take --method integrated_gradients"):
        attention(linear, item)


def test_rollout_follows_attention_through_layers() -> None:
    first, second = torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 3, 3)
    first[0, 0, :, 2] = 1  # everybody looks at the last token
    second[0, 0, :, 1] = 1  # then at the one in the middle
    reader = HuggingFaceImageEncoder.__new__(HuggingFaceImageEncoder)
    nn.Module.__init__(reader)
    reader.pooling = "pooled"
    # Token 0: half its own path (half itself, half the last), half the middle's (likewise).
    np.testing.assert_allclose(_rollout([first, second], reader), [0.25, 0.25, 0.5])


def test_regions_keep_the_sum_and_means_keep_the_level() -> None:
    pixels = np.random.default_rng(0).normal(size=(50, 37))
    assert regions(pixels, 14).sum() == pytest.approx(pixels.sum())
    np.testing.assert_allclose(regions(np.full((50, 37), 3.0), 14, averaged=True), 3.0)
