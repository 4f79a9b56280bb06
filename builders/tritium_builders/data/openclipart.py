"""A second packaged data set: Debian's Open Clip Art, to be sorted by the folder it lies in.

Pictures and titles: Open Clip Art Library 0.18, public domain (Debian's package openclipart-svg,
which `tools/install-openclipart.sh` installs). Rendering: resvg (package resvg-py).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import json
import os
import re
import xml.etree.ElementTree as ET  # nosec B405 # see ET.parse below
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from tritium_builders.data.cache import cache_folder, cached_files, content_key
from tritium_builders.data.dataset import Dataset, Item
from tritium_builders.data.groups import Joined, near_duplicates
from tritium_builders.data.progress import track
from tritium_builders.errors import MissingExtraError, RecipeError

LICENCE = "public domain (Open Clip Art Library)"
PACKAGE = "openclipart-svg"
RENDERER = "resvg-py"
BELOW = Path("usr/share/openclipart/svg")
"""Where Debian's package lays its pictures."""
LEFT_OUT = (
    "buttons", "decorations", "logos", "shapes", "signs_and_symbols/flags", "special", "unsorted",
)  # fmt: skip
"""Folders that do not say what is shown; flags are told apart by country, not by folder."""
LEAST = 60
"""A folder with fewer titled clip-arts is left out."""
COLLECTION = 8
"""A title that more clip-arts have is a collection's and not theirs."""
RULES = 1
"""Raised when what is taken, or how it is drawn, changes: what was kept is then made again."""

_BY = re.compile(r"^(clip ?art|image) by .*? - ", re.IGNORECASE)
_TITLE = "{http://purl.org/dc/elements/1.1/}title"
_DOTS_PER_INCH = 96
"""What CSS says; resvg-py's default makes nothing of sizes in millimetres."""
_AT_ONCE = 64


@dataclass(frozen=True)
class _ClipArt:
    path: str
    """Below the folder of all; also the item's id."""
    title: str
    label: str
    group: str


def load_openclipart(*, size: int = 256, labels: Sequence[str] = ()) -> Dataset:
    """Make the data set, about two thousand pairs in 11 folders.

    Text is the clip-art's title in plain lower-case words, label the top folder. Left out are
    folders that do not say what is shown, clip-arts without a title of their own, links, and
    pictures that lie in several of the folders. What has the same title, or looks the same but for
    colour, is one group. Pictures are rendered once, cut to what is drawn, and kept in the user's
    cache folder.

    Args:
        size: The longer side of a picture in pixels; PNG with transparency.
        labels: Only these folders, for a quick try: pictures that lie in others as well are then
            taken. Default: all.

    Raises:
        RecipeError: when Debian's package is not there.
        MissingExtraError: when resvg-py is not installed.
    """
    if importlib.util.find_spec("resvg_py") is None:
        raise MissingExtraError(RENDERER, "demo")
    folder = find_openclipart()
    version = f"{RENDERER} {importlib.metadata.version(RENDERER)}"
    files = sorted(_files(folder))
    # Times and sizes stand for the contents, 200 MB that would be read at every start.
    listed = "\n".join(f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in files)
    described = f"rules {RULES} {version} size {size} labels {sorted(labels)}"
    key = content_key([described.encode(), listed.encode()])
    paths = [path for path, _ in files]
    kept = cached_files("openclipart", key, lambda: _make(folder, paths, labels, size))
    items = (
        Item(id=one.path, text=one.title, image=kept[one.path], label=one.label, group=one.group)
        for one in (_ClipArt(**fields) for fields in json.loads(kept["items.json"]))
    )
    origin = f"Debian's {PACKAGE}, {version}"
    return Dataset("openclipart", tuple(items), origin=origin, licence=LICENCE)


def find_openclipart() -> Path:
    """The folder of the pictures: of the installed package, or of the unpacked one.

    Raises:
        RecipeError: when neither is there.
    """
    places = (Path("/") / BELOW, cache_folder() / PACKAGE / BELOW)
    for place in places:
        if place.is_dir():
            return place
    raise RecipeError(
        f"openclipart: Debian's package {PACKAGE} is not there ({places[0]}); run: "
        f"tools/install-openclipart.sh, or as root: apt-get install {PACKAGE}"
    )


def _files(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Paths below the folder, links left out: those are pictures of another folder."""
    waiting = [""]
    while waiting:
        below = waiting.pop()
        with os.scandir(folder / below) as entries:
            for entry in entries:
                path = f"{below}/{entry.name}".lstrip("/")
                if entry.is_symlink() or path in LEFT_OUT:
                    continue
                if entry.is_dir():
                    waiting.append(path)
                elif below and path.endswith(".svg"):
                    yield path, entry.stat()


def _make(folder: Path, paths: Sequence[str], labels: Sequence[str], size: int) -> dict[str, bytes]:
    """Choose, draw and group: `items.json`, and a picture for each of them by its path."""
    named = [
        (path, title)
        for path in track(paths, "Reading titles", total=len(paths))
        if (title := _title(folder / path))
    ]
    often = Counter(title for _, title in named)
    named = [(path, title) for path, title in named if often[title] <= COLLECTION]
    size_of = Counter(_label(path) for path, _ in named)
    titles = {
        path: title
        for path, title in named
        if size_of[_label(path)] >= LEAST and (not labels or _label(path) in labels)
    }
    pictures = dict(_draw_all(folder, list(titles), size))
    drawn = [path for path in titles if path in pictures]
    groups = Joined()
    for path in drawn:
        groups.join(f"clip-art {path}", f"title {titles[path]}")
    for one, other in near_duplicates([pictures[path] for path in drawn]):
        groups.join(f"clip-art {drawn[one]}", f"clip-art {drawn[other]}")
    items = [
        _ClipArt(path, titles[path], _label(path), groups.name(f"clip-art {path}"))
        for path in _without_copies(drawn, pictures)  # only now: copies join what is like them
    ]
    content = json.dumps([asdict(item) for item in items], ensure_ascii=False)
    return {"items.json": content.encode(), **{item.path: pictures[item.path] for item in items}}


def _without_copies(paths: Sequence[str], pictures: Mapping[str, bytes]) -> list[str]:
    """Keep one of equal pictures; none where they lie in several top folders, without one label."""
    copies: dict[bytes, list[str]] = defaultdict(list)
    for path in paths:
        copies[pictures[path]].append(path)
    return [own[0] for own in copies.values() if len({_label(path) for path in own}) == 1]


def _label(path: str) -> str:
    return path.partition("/")[0].replace("_", " ")


def _title(path: Path) -> str:
    """The title in the picture's own description, in plain words; empty where there is none."""
    try:
        tree = ET.parse(path)  # noqa: S314 # nosec B314 # Debian's files; expat stops bombs
    except ET.ParseError:
        return ""
    # Authors and publishers have titles, too: only the work's own counts. Creative Commons has
    # had two namespaces for it.
    titles = (work.findtext(_TITLE, "") for work in tree.iter() if str(work.tag).endswith("}Work"))
    return plain_title(next((title for title in titles if title.strip()), ""))


def plain_title(title: str) -> str:
    """Reduce a title to lower-case words: no author, no number, no CamelCase.

    Args:
        title: As it stands in the picture.
    """
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", _BY.sub("", title))
    return re.sub(r"[\W\d_]+", " ", words).strip().lower()


def _draw_all(folder: Path, paths: Sequence[str], size: int) -> Iterator[tuple[str, bytes]]:
    """Draw on all cores (resvg releases the GIL), a few at a time; leave out what shows nothing."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        parts = [paths[at : at + _AT_ONCE] for at in range(0, len(paths), _AT_ONCE)]
        for part in track(parts, "Rendering clip-arts", total=len(parts)):
            drawings = pool.map(lambda path: _draw(folder / path, size), part)
            for path, drawing in zip(part, drawings, strict=True):
                if drawing is not None:
                    yield path, drawing


def _draw(path: Path, size: int) -> bytes | None:
    """Draw a clip-art and cut it to what is drawn; None where that is nothing."""
    svg = path.read_text(encoding="utf-8", errors="replace")
    image = _render(svg, size)
    box = image.getchannel("A").getbbox()
    if box is not None and max(box[2] - box[0], box[3] - box[1]) < size / 2:
        # A small drawing on a large sheet; once is enough, smaller ones stay coarse.
        image = _render(svg, 2 * size)
        box = image.getchannel("A").getbbox()
    if box is None:
        return None
    image = image.crop(box)
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _render(svg: str, size: int) -> Image.Image:
    import resvg_py

    # Without system fonts the pictures are the same on every machine.
    png = resvg_py.svg_to_bytes(
        svg_string=svg, width=size, height=size, dpi=_DOTS_PER_INCH, skip_system_fonts=True
    )
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")
