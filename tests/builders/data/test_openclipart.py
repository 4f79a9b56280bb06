"""Debian's clip-arts: what is taken of a folder like the package's, and of the package itself."""

from __future__ import annotations

import io
from collections import defaultdict
from pathlib import Path

import pytest
from PIL import Image

from tritium_builders.data import Dataset, load_openclipart, openclipart
from tritium_builders.data.groups import near_duplicates
from tritium_builders.data.openclipart import find_openclipart, plain_title
from tritium_builders.errors import RecipeError

SHAPES = {
    "circle": '<circle cx="50" cy="50" r="40" fill="{}"/>',
    "bar": '<rect x="5" y="40" width="90" height="20" fill="{}"/>',
    "corner": '<path d="M5 5 H95 L5 95 Z" fill="{}"/>',
    "small": '<rect x="2" y="2" width="12" height="9" fill="{}"/>',
    "nothing": "<g/>",
}


def svg(title: str, shape: str, colour: str = "black") -> str:
    """As Inkscape wrote them: the publisher has a title, too; sizes in millimetres."""
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="100mm" height="100mm" '
        'viewBox="0 0 100 100"><metadata><rdf:RDF xmlns:cc="http://web.resource.org/cc/" '
        'xmlns:dc="http://purl.org/dc/elements/1.1/" '
        'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><cc:Work rdf:about="">'
        f"<dc:title>{title}</dc:title><dc:publisher><cc:Agent><dc:title>Open Clip Art Library"
        "</dc:title></cc:Agent></dc:publisher></cc:Work></rdf:RDF></metadata>"
        f"{SHAPES[shape].format(colour)}</svg>"
    )


@pytest.fixture
def clip_arts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    files = {
        "animals/round_cat_01.svg": svg("Clipart by Nicu Buculei - Round_Cat 01", "circle"),
        "animals/fish/ball.svg": svg("blow fish", "circle", "red"),  # the cat in red
        "animals/snake.svg": svg("Snake", "bar"),
        "animals/snake_copy.svg": svg("Snake 2", "bar"),  # the very same picture
        "animals/nothing.svg": svg("a picture of nothing", "nothing"),
        "animals/untitled.svg": svg("", "corner"),
        "food/cheese.svg": svg("cheese", "corner", "yellow"),
        "food/crumb.svg": svg("crumb", "small"),
        "food/theme_1.svg": svg("Dinner theme", "bar", "blue"),
        "food/theme_2.svg": svg("Dinner theme 2", "bar", "green"),
        "food/theme_3.svg": svg("Dinner theme 3", "bar", "grey"),
        "food/moon.svg": svg("half moon", "corner", "grey"),
        "animals/moon.svg": svg("half moon", "corner", "grey"),  # in two folders: no one label
        "tools/saw.svg": svg("saw", "bar", "brown"),
        "shapes/star.svg": svg("star", "corner"),
    }
    for name, content in files.items():
        path = tmp_path / "svg" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (tmp_path / "svg" / "food" / "link.svg").symlink_to(tmp_path / "svg" / "tools" / "saw.svg")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(openclipart, "find_openclipart", lambda: tmp_path / "svg")
    monkeypatch.setattr(openclipart, "LEAST", 2)
    monkeypatch.setattr(openclipart, "COLLECTION", 2)
    return load_openclipart(size=64)


def test_what_has_a_title_a_picture_and_one_label_is_taken(clip_arts: Dataset) -> None:
    assert {item.id: (item.text, item.label) for item in clip_arts.items} == {
        "animals/fish/ball.svg": ("blow fish", "animals"),
        "animals/round_cat_01.svg": ("round cat", "animals"),
        "animals/snake.svg": ("snake", "animals"),
        "food/cheese.svg": ("cheese", "food"),
        "food/crumb.svg": ("crumb", "food"),
    }
    again = load_openclipart(size=64)
    assert again.content_hash == clip_arts.content_hash


def test_pictures_are_cut_to_what_is_drawn(clip_arts: Dataset) -> None:
    sizes = {item.text: Image.open(io.BytesIO(item.read_image())).size for item in clip_arts.items}
    assert sizes["round cat"] == (52, 52)
    assert sizes["snake"][0] > 4 * sizes["snake"][1]
    assert sizes["crumb"][0] == 16  # drawn on a sheet of twice the size


def test_what_looks_alike_is_one_group(clip_arts: Dataset) -> None:
    groups = {item.text: item.group for item in clip_arts.items}
    assert groups["round cat"] == groups["blow fish"]
    assert len(set(groups.values())) == 4


def test_a_changed_drawing_is_made_again(clip_arts: Dataset, tmp_path: Path) -> None:
    (tmp_path / "svg" / "food" / "cheese.svg").write_text(svg("old cheese", "corner", "green"))
    texts = {item.text for item in load_openclipart(size=64).items}
    assert texts == {item.text for item in clip_arts.items} - {"cheese"} | {"old cheese"}


@pytest.mark.parametrize(
    ("title", "plain"),
    [
        ("Clipart by Nicu Buculei - smiley111", "smiley"),
        ("xbox-controller_01", "xbox controller"),
        ("BlueMan", "blue man"),
        ("École n° 5", "école n"),
        (" 42 ", ""),
    ],
)
def test_titles_are_plain_words(title: str, plain: str) -> None:
    assert plain_title(title) == plain


def test_near_duplicates_need_the_same_shape() -> None:
    def picture(box: tuple[int, int, int, int], colour: str) -> bytes:
        image = Image.new("RGB", (64, 64), "white")
        image.paste(colour, box)
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()

    left, right = (4, 4, 24, 60), (40, 4, 60, 60)
    pictures = [picture(left, "black"), picture(right, "black"), picture(left, "red")]
    assert list(near_duplicates(pictures)) == [(0, 2)]
    assert list(near_duplicates([])) == []


def test_a_missing_package_is_named_with_the_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(openclipart, "BELOW", Path("no/such/folder"))
    with pytest.raises(RecipeError, match=r"openclipart-svg.*tools/install-openclipart\.sh"):
        find_openclipart()


def test_the_package_itself() -> None:
    try:
        find_openclipart()
    except RecipeError as missing:
        pytest.skip(str(missing))
    dataset = load_openclipart(size=64, labels=("plants", "office"))
    assert dataset.labels == ("office", "plants")
    assert len(dataset.items) == 182
    assert {item.text for item in dataset.items} >= {"acorn", "postage stamp"}
    groups = defaultdict(set)
    for item in dataset.items:
        groups[item.image_hash].add(item.group)
        assert item.text == plain_title(item.text)
    assert max(map(len, groups.values())) == 1
