"""The tokenizer servable: ids of true length, words where they are tagged, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import models
from tritium_builders import TextPreprocessing
from tritium_builders.servables import text_tokenizer

TEXT = TextPreprocessing(max_length=12).servable_spec()


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    models.tokenizer().save(str(folder / "tokenizer.json"))
    return folder


class TestTextTokenizer:
    @pytest.fixture
    def tokenize(self, tokenizer_folder: Path) -> text_tokenizer.TextTokenizer:
        return text_tokenizer.TextTokenizer(tokenizer_folder, TEXT)

    def test_ids_equal_hugging_faces(self, tokenize: text_tokenizer.TextTokenizer) -> None:
        from transformers import BertTokenizer

        theirs = BertTokenizer(tokenizer_object=models.tokenizer())
        texts = ["red apple", "café naïve", "x" * 3, "the quick brown fox " * 5]
        for text in texts:
            (ours,) = tokenize([{"text": np.array([[text.encode()]], object)}])
            assert isinstance(ours, dict)
            ids = theirs(text, truncation=True, max_length=12)["input_ids"]
            assert ours["input_ids"][0].tolist() == ids
            assert ours["attention_mask"].tolist() == [[1] * len(ids)]

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_a_request_of_several_texts_is_padded(self, tokenizer_folder: Path, side: str) -> None:
        spec = {**TEXT, "padding_side": side, "pad_id": 7}
        tokenize = text_tokenizer.TextTokenizer(tokenizer_folder, spec)
        (answer,) = tokenize([{"text": np.array([[b"red apple"], [b"apple"]], object)}])
        assert isinstance(answer, dict)
        ids, mask = answer["input_ids"][1], answer["attention_mask"][1]
        padding = 0 if side == "left" else -1
        assert (ids[padding], mask[padding]) == (7, 0)
        assert mask.sum() == 3

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            (b"", "the text is empty"),
            (b"  \n\t ", "the text is empty"),
            (b"abc\xff", "not valid UTF-8 at byte 3"),
            (b"a" * 1_000_000, "1000000 bytes; at most 65536 are accepted"),
        ],
    )
    def test_what_is_refused_says_why(
        self, tokenize: text_tokenizer.TextTokenizer, text: bytes, reason: str
    ) -> None:
        (answer,) = tokenize([{"text": np.array([[text]], object)}])
        assert isinstance(answer, text_tokenizer.InvalidInputError)
        assert reason in str(answer)

    def test_words_are_where_the_text_has_them(self, tokenizer_folder: Path) -> None:
        tokenize = text_tokenizer.TextTokenizer(tokenizer_folder, {**TEXT, "words": True})
        texts = ["a naïve  elephants' café", "unbelievableness 🙂"]
        data = np.array([[text.encode()] for text in texts], object)
        (answer,) = tokenize([{"text": data}])
        assert isinstance(answer, dict)
        found = [
            [
                text[begin:end]
                for start, (begin, end) in zip(starts, places, strict=True)
                if start >= 0
            ]
            for text, starts, places in zip(
                texts, answer["word_starts"], answer["offsets"].tolist(), strict=True
            )
        ]
        assert found == [["a", "naïve", "elephants", "'", "café"], ["unbelievableness", "🙂"]]
        first, second = answer["word_starts"].tolist()
        assert first == [1, 2, 3, 4, 5]
        assert second[0] == 1
        assert second[1] > 2, "a word of several tokens"
        assert second[2:] == [-1, -1, -1], "padded"

    def test_words_of_a_text_that_is_padded_on_the_left(self, tokenizer_folder: Path) -> None:
        spec = {**TEXT, "words": True, "padding_side": "left"}
        tokenize = text_tokenizer.TextTokenizer(tokenizer_folder, spec)
        (answer,) = tokenize([{"text": np.array([[b"red apple pie"], [b"apple"]], object)}])
        assert isinstance(answer, dict)
        start = answer["word_starts"][1][0]
        apple = answer["input_ids"][0][answer["word_starts"][0][1]]
        assert answer["input_ids"][1][start] == apple

    def test_a_null_byte_is_dropped_as_the_tokenizer_does(
        self, tokenize: text_tokenizer.TextTokenizer
    ) -> None:
        with_null, without = tokenize(
            [{"text": np.array([[text]], object)} for text in (b"red\0 apple", b"red apple")]
        )
        assert isinstance(with_null, dict)
        assert isinstance(without, dict)
        np.testing.assert_array_equal(with_null["input_ids"], without["input_ids"])

    @settings(max_examples=100, deadline=None)
    @given(st.text(max_size=80))
    def test_any_text_is_answered_or_refused(self, tokenizer_folder: Path, text: str) -> None:
        tokenize = text_tokenizer.TextTokenizer(tokenizer_folder, TEXT)
        data = text.encode("utf-8", "surrogatepass")
        (answer,) = tokenize([{"text": np.array([[data]], object)}])
        if isinstance(answer, dict):
            assert 2 <= answer["input_ids"].shape[1] <= 12
