"""Workload files, and the requests that are made from them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tritium_benchmarks.errors import WorkloadError
from tritium_benchmarks.inputs import make_requests
from tritium_benchmarks.workload import (
    Closed,
    Mix,
    PictureKind,
    Words,
    Workload,
    load_workload,
    workload_names,
)

NAMES = (
    "large-images",
    "mixed-length",
    "offline",
    "overload",
    "poisson",
    "repeats",
    "saturate",
    "single",
    "text-only",
)
SMALL = PictureKind(format="jpeg", width=32, height=24)


def workload(mix: Mix, words: Words | None = None, *kinds: PictureKind) -> Workload:
    return Workload(
        name="test",
        about="a test",
        mix=mix,
        texts=words or Words(),
        pictures=kinds or (SMALL,),
        arrivals=Closed(kind="closed", in_flight=(1,)),
    )


def test_every_workload_that_the_project_ships_can_be_read() -> None:
    assert workload_names() == NAMES
    for name in NAMES:
        loaded = load_workload(name)
        assert loaded.name == name
        assert loaded.about.endswith((".", "?"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("in_flight = [1]", "in_flight = []"), "arrivals.closed.in_flight"),
        (('kind = "closed"', 'kind = "sometimes"'), "arrivals"),
        (("width = 640", "width = -640"), "pictures.0.width"),
        (("median = 9", "median = 900"), "least, median and most must be in this order"),
        (("[texts]", "[texts]\nfont = 'Arial'"), "texts.font"),
        (("[texts]", "[mix]\ntext_only = 0.7\nimage_only = 0.6\n[texts]"), "more than 1 together"),
        (("[texts]", "[texts"), "no TOML"),
        (('format = "jpeg"', 'format = "gif"'), "pictures.0.format"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line_that_names_the_field(
    tmp_path: Path, change: tuple[str, str], words: str
) -> None:
    good = (Path(__file__).parents[2] / "benchmarks/workloads/single.toml").read_text()
    assert change[0] in good
    file = tmp_path / "mine.toml"
    file.write_text(good.replace(*change))
    with pytest.raises(WorkloadError) as caught:
        load_workload(str(file))
    assert str(caught.value).startswith(f"{file}: ")
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["mine.toml", "mine"])
def test_a_file_of_something_else_is_one_line_that_names_it(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(b"\xcb\x00\xff")
    with pytest.raises(WorkloadError) as caught:
        load_workload(str(file))
    assert str(caught.value).startswith(f"{file}: no TOML")


def test_a_workload_that_there_is_not_names_those_that_there_are() -> None:
    with pytest.raises(WorkloadError, match="there are: large-images, mixed-length"):
        load_workload("nothing")


def test_the_same_seed_gives_the_same_requests() -> None:
    mix = Mix(text_only=0.2, image_only=0.3, repeats=0.1, distinct=20)
    assert make_requests(workload(mix), 50) == make_requests(workload(mix), 50)
    other = workload(mix).model_copy(update={"seed": 1})
    assert make_requests(other, 50) != make_requests(workload(mix), 50)


@settings(deadline=None, max_examples=30)
@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 60))
def test_shares_are_kept_exactly(text_only: float, image_only: float, distinct: int) -> None:
    total = max(1.0, text_only + image_only)
    mix = Mix(text_only=text_only / total, image_only=image_only / total, distinct=distinct)
    requests = make_requests(workload(mix), distinct)
    texts = sum(request.image is None for request in requests)
    images = sum(request.text is None for request in requests)
    assert abs(texts - mix.text_only * distinct) <= 1
    assert abs(images - mix.image_only * distinct) <= 1
    assert all(request.text or request.image for request in requests)


@given(st.integers(1, 50), st.floats(0, 2), st.integers(0, 49), st.integers(0, 300))
def test_texts_keep_to_their_bounds(median: int, sigma: float, below: int, above: int) -> None:
    words = Words(median=median, sigma=sigma, least=max(1, median - below), most=median + above)
    requests = make_requests(workload(Mix(text_only=1, distinct=40), words), 40)
    lengths = [len((request.text or "").split()) for request in requests]
    assert words.least <= min(lengths)
    assert max(lengths) <= words.most
    if sigma == 0:
        assert set(lengths) == {median}


def test_half_of_the_texts_are_shorter_than_the_median() -> None:
    words = Words(median=20, sigma=0.8, least=1, most=2000)
    requests = make_requests(workload(Mix(text_only=1, distinct=2000), words), 2000)
    lengths = [len((request.text or "").split()) for request in requests]
    assert np.median(lengths) == pytest.approx(20, abs=2)
    assert max(lengths) > 100


def test_pictures_are_what_the_mix_says_and_each_is_another() -> None:
    kinds = (
        PictureKind(format="jpeg", width=640, height=427, weight=3),
        PictureKind(format="png", width=64, height=48, weight=1),
    )
    requests = make_requests(workload(Mix(image_only=1, distinct=16), None, *kinds), 16)
    images = [request.image or b"" for request in requests]
    opened = [Image.open(io.BytesIO(data)) for data in images]
    found = [(str(picture.format), *picture.size) for picture in opened]
    assert found.count(("JPEG", 640, 427)) == 12
    assert found.count(("PNG", 64, 48)) == 4
    assert len(set(images)) == 16
    jpegs = [len(data) for data in images if data[:2] == b"\xff\xd8"]
    assert 30_000 < np.mean(jpegs) < 120_000, "as large as real ones of this size"


def test_a_photograph_of_a_telephone_is_as_large_as_one() -> None:
    kind = PictureKind(format="jpeg", width=4000, height=3000)
    (request,) = make_requests(workload(Mix(image_only=1, distinct=1), None, kind), 1)
    assert 1.5e6 < len(request.image or b"") < 8e6


def test_repeats_are_requests_that_came_before() -> None:
    requests = make_requests(workload(Mix(repeats=0.9, distinct=200)), 1000)
    seen = set()
    again = 0
    for request in requests:
        again += request in seen
        seen.add(request)
    assert 870 <= again <= 930
