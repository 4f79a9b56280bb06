"""Manifests: what is read, and what is refused with which words."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.manifests import Pair, load, pairs, source, write_csv, write_jsonl
from tests.support.pictures import huge_png_header, jpeg, png
from tritium_builders.data.dataset import ImageFile
from tritium_builders.data.manifest import hash_manifest
from tritium_builders.data.problems import ManifestError
from tritium_builders.errors import MissingExtraError, RecipeError


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def write_parquet(path: Path, rows: list[Pair]) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


WRITERS: list[tuple[str, Callable[[Path, list[Pair]], Path]]] = [
    ("pairs.csv", write_csv),
    ("pairs.jsonl", write_jsonl),
    ("pairs.ndjson", write_jsonl),
    ("pairs.parquet", write_parquet),
]


@pytest.mark.parametrize(("name", "write"), WRITERS, ids=[name for name, _ in WRITERS])
def test_each_format_gives_the_same_items(
    name: str, write: Callable[[Path, list[Pair]], Path], tmp_path: Path
) -> None:
    rows = pairs(tmp_path)
    rows[2]["text"] = 'commas, "quotes",\nlines and ünïcödé 🦌'
    rows = [row | {"id": f"a{number}", "group": "g" + row["label"]} for number, row in
            enumerate(rows)]  # fmt: skip
    dataset = load(write(tmp_path / name, rows), least_groups=1).dataset
    assert [item.text for item in dataset.items] == [row["text"] for row in rows]
    assert [item.id for item in dataset.items] == [row["id"] for row in rows]
    assert [item.label for item in dataset.items] == [row["label"] for row in rows]
    assert [item.read_image() for item in dataset.items] == [
        (tmp_path / row["image"]).read_bytes() for row in rows
    ]
    assert len(set(dataset.groups)) == 3
    assert dataset.labels == ("cat", "dog", "elk")
    assert not dataset.has_sides


def test_ids_are_lines_where_there_is_no_column(tmp_path: Path) -> None:
    rows = pairs(tmp_path, 6)
    rows[0]["text"] = "two\nlines"
    ids = [item.id for item in load(write_csv(tmp_path / "p.csv", rows)).dataset.items]
    assert ids == ["2", "4", "5", "6", "7", "8"]
    assert len(set(load(tmp_path / "p.csv").dataset.groups)) == 6


def test_pictures_stay_on_disk(tmp_path: Path) -> None:
    dataset = load(write_csv(tmp_path / "p.csv", pairs(tmp_path))).dataset
    assert all(isinstance(item.image, ImageFile) for item in dataset.items)
    (tmp_path / "pictures" / "003.png").write_bytes(png(5, 5))
    with pytest.raises(RecipeError, match=r"003\.png: has changed since it was checked; run again"):
        dataset.items[3].read_image()
    (tmp_path / "pictures" / "003.png").unlink()
    with pytest.raises(RecipeError, match=r"003\.png: cannot be read any more"):
        dataset.items[3].read_image()


def test_columns_may_have_other_names_and_more_may_be_there(tmp_path: Path) -> None:
    rows = [
        {"kind": row["label"], "caption": row["text"], "image": row["image"], "label": "other"}
        for row in pairs(tmp_path)
    ]
    columns = {name: name for name in ("id", "image", "group", "split")}
    columns |= {"text": "caption", "label": "kind"}
    dataset = load(write_csv(tmp_path / "p.csv", rows), columns=columns).dataset
    assert dataset.labels == ("cat", "dog", "elk")
    assert dataset.items[0].text == "number 0, a cat"
    rows[1]["caption"] = ""
    write_csv(tmp_path / "p.csv", rows)
    with pytest.raises(ManifestError, match="column caption: is empty"):
        load(tmp_path / "p.csv", columns=columns)


def test_labels_keep_the_order_of_the_recipe(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "p.csv", pairs(tmp_path))
    dataset = load(path, labels=("elk", "cat", "dog")).dataset
    assert dataset.labels == ("elk", "cat", "dog")
    assert dataset.targets[:3] == (1, 2, 0)


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "p.csv", pairs(tmp_path))
    plain = load(path).dataset.items
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert b"\r\n" in path.read_bytes()
    assert load(path).dataset.items == plain
    path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n\n"))
    assert [item.text for item in load(path).dataset.items] == [item.text for item in plain]


def test_numbers_may_name_ids_labels_and_groups(tmp_path: Path) -> None:
    rows = [
        row | {"id": number, "label": number % 2, "group": number}
        for number, row in enumerate(pairs(tmp_path))
    ]
    dataset = load(write_jsonl(tmp_path / "p.jsonl", rows)).dataset
    assert dataset.labels == ("0", "1")
    assert dataset.items[3].id == "3"


def change(**values: Any) -> Callable[[list[Pair], Path], None]:
    """Change the fourth item, which is on line 4 of JSON lines."""

    def apply(rows: list[Pair], _: Path) -> None:
        rows[3] |= values

    return apply


def drop(name: str) -> Callable[[list[Pair], Path], None]:
    def apply(rows: list[Pair], _: Path) -> None:
        del rows[3][name]

    return apply


def picture(content: bytes) -> Callable[[list[Pair], Path], None]:
    def apply(rows: list[Pair], folder: Path) -> None:
        (folder / rows[3]["image"]).write_bytes(content)

    return apply


def linked_out(rows: list[Pair], folder: Path) -> None:
    outside = folder.parent / "outside.png"
    outside.write_bytes(png(9, 9))
    (folder / rows[3]["image"]).unlink()
    (folder / rows[3]["image"]).symlink_to(outside)


def fifo(rows: list[Pair], folder: Path) -> None:
    (folder / rows[3]["image"]).unlink()
    os.mkfifo(folder / rows[3]["image"])


def twice(rows: list[Pair], _: Path) -> None:
    for number, row in enumerate(rows):
        row["id"] = f"i{min(number, 3) if number < 5 else number}"


def numbered(rows: list[Pair], _: Path) -> None:
    for number, row in enumerate(rows):
        row["split"] = ("train", "validation", "test")[number // 4]


def one_bad_split(rows: list[Pair], folder: Path) -> None:
    numbered(rows, folder)
    rows[3]["split"] = "dev"


def no_split(rows: list[Pair], folder: Path) -> None:
    numbered(rows, folder)
    rows[3]["split"] = ""


def parted_group(rows: list[Pair], folder: Path) -> None:
    numbered(rows, folder)
    for number in (2, 9):
        rows[number]["group"] = "herd"


def parted_pair(rows: list[Pair], folder: Path) -> None:
    numbered(rows, folder)
    rows[9]["text"] = rows[2]["text"]
    (folder / rows[9]["image"]).write_bytes((folder / rows[2]["image"]).read_bytes())


def no_validation(rows: list[Pair], folder: Path) -> None:
    numbered(rows, folder)
    for row in rows:
        row["split"] = row["split"].replace("validation", "test")


def untrained_label(rows: list[Pair], folder: Path) -> None:
    numbered(rows, folder)
    rows[9]["label"] = "gnu"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change(text=""), "line 4: column text: is empty; an item needs text and image for now: "
         "write one or remove the line"),
        (change(text=" \t"), "line 4: column text: is empty; an item needs text and image"),
        (change(image=""), "line 4: column image: is empty; an item needs text and image"),
        (change(label=""), "line 4: column label: is empty; write one or remove the line"),
        (change(text=None), "line 4: column text: is null; fill it in or remove the item"),
        (change(label=None), "line 4: column label: is null"),
        (change(image=None), "line 4: column image: is null"),
        (change(text=7), "line 4: column text: is a number; write a text"),
        (change(label=True), "line 4: column label: is a boolean; write a text"),
        (change(label=["cat"]), "line 4: column label: is a list; write a text"),
        (change(image={"path": "x"}), "line 4: column image: is an object"),
        (change(text="\ud800"), "line 4: column text: holds half a character"),
        (change(text="x" * 70_000), "line 4: column text: more than 65536 bytes; shorten it"),
        (change(label="cat "), "line 4: column label: 'cat ' has blanks around it; remove them"),
        (drop("text"), "line 4: column text: is missing here; add it"),
        (change(image="pictures/no.png"), "line 4: column image: there is no file "
         "'pictures/no.png' in .*; correct it, or data.images"),
        (change(image="pictures\\000.png"), "there is no file .*; write / between folders"),
        (change(image="pictures"), "line 4: column image: 'pictures' is a directory; name a file"),
        (change(image="../outside.png"), "line 4: column image: '../outside.png' leads outside"),
        (change(image="/etc/passwd"), "line 4: column image: '/etc/passwd' leads outside"),
        (linked_out, "line 4: column image: 'pictures/003.png' leads outside the pictures' folder"),
        (fifo, "line 4: column image: there is no file 'pictures/003.png'"),
        (change(image="a\0b"), "line 4: column image: .* is no path"),
        (change(image="x" * 5000), "line 4: column image: .* is no path"),
        (picture(b"no picture"), "line 4: column image: picture 'pictures/003.png': not a picture "
         "in a format .*; replace it, remove the item, or set data.bad_images"),
        (picture(b""), r"line 4: column image: picture .*: the image is empty \(0 bytes\)"),
        (picture(png(90, 90)[:900]), "line 4: column image: picture .*: the PNG data is damaged"),
        (picture(huge_png_header(60_000, 60_000)), "picture .*: 60000x60000 is 3600000000 pixels"),
        (picture(b"x" * (20 * 1024 * 1024 + 1)), "picture .*: 20971521 bytes; at most 20971520"),
        (twice, "line 5: column id: 'i3' is also on line 4; make ids unique"),
        (change(id="x"), "line 1: column id: is missing here; add it"),
        (one_bad_split, "line 4: column split: 'dev' is no split; write one of train, validation"),
        (no_split, "line 4: column split: is empty; write one"),
        (parted_group, "line 10: column group: group 'herd' is in test here and in train on line "
         "3; put all of a group into one split"),
        (parted_pair, "line 10: the same text and picture as line 3, which is in train; this one "
         "is in test; keep one of them"),
        (no_validation, "p.jsonl: column split: has no item in validation; give each split"),
        (untrained_label, "p.jsonl: column label: label 'gnu' has no item in train"),
    ],
)  # fmt: skip
def test_problems_name_line_column_and_fix(
    spoil: Callable[[list[Pair], Path], None], message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    rows = pairs(folder)
    spoil(rows, folder)
    path = write_jsonl(folder / "p.jsonl", rows)
    with pytest.raises(ManifestError, match=message) as caught:
        load(path)
    assert all(line.startswith("p.jsonl") for line in str(caught.value).splitlines()[:10])


def test_a_spoilt_item_is_the_only_problem(tmp_path: Path) -> None:
    """One bad item among good ones is one problem: totals do not complain as well."""
    rows = pairs(tmp_path, 6)
    rows[3]["text"] = ""
    with pytest.raises(ManifestError) as caught:
        load(write_jsonl(tmp_path / "p.jsonl", rows))
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "p.csv: holds no items; write at least one item a label"),
        (b"text,image,label\n", "p.csv: holds no items"),
        (b"text,image\nx,y\n", "p.csv: column label: is missing; add it, or say data.columns"),
        (b"text;image;label\nx;y;z\n", "p.csv, line 1: has semicolons between its fields; save"),
        (b"text\timage\tlabel\n", "p.csv, line 1: has tabs between its fields"),
        (b"text,image,label,text\n", "p.csv, line 1: column text: is there twice"),
        (b"text,image,label\nx,y\n", "p.csv, line 2: has 2 fields where the header has 3"),
        (b"text,image,label\nx,y,z,a\n", "p.csv, line 2: has 4 fields where the header has 3"),
        (b'text,image,label\n"x"y,z,a\n', "p.csv, line 2: is malformed CSV"),
        (b'text,image,label\na,b,c\n"x,y,z\n', "p.csv, line 3: is malformed CSV"),
        (b"text,image,label\n\xff,y,z\n", "p.csv, line 2: byte 1 of the line is not UTF-8; save"),
        ("text,image,label\n".encode("utf-16"), "p.csv: is UTF-16; save it as UTF-8"),
        (b"\x00\x01\n\x02\n", "p.csv: column text: is missing"),
    ],
)
def test_files_that_are_no_csv_manifests(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=message):
        load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n\n", "p.jsonl: holds no items"),
        (b'{"text": "x"\n', r"p.jsonl, line 1: is not valid JSON \(.*\); write one JSON object"),
        (b"\n[1]\n", "p.jsonl, line 2: holds a list, not an object"),
        (b"null\n", "p.jsonl, line 1: holds null, not an object"),
        (b"[" * 100_000, "p.jsonl, line 1: is not valid JSON"),
        (b'{"text": "x", "image": "y"}\n', "p.jsonl: column label: is missing"),
        (b'{"text": "\xff"}\n', "p.jsonl, line 1: byte 11 of the line is not UTF-8"),
    ],
)
def test_files_that_are_no_json_manifests(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=message):
        load(path)


def test_files_that_are_no_manifests_at_all(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no\.csv: there is no such file .*relative to the reci"):
        load(tmp_path / "no.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(RecipeError, match=r"folder\.csv: is a directory; data\.path names a file"):
        load(tmp_path / "folder.csv")
    (tmp_path / "p.xlsx").write_bytes(b"PK")
    with pytest.raises(RecipeError, match=r"p\.xlsx: is of no kind that is known; give .*\.csv"):
        load(tmp_path / "p.xlsx")
    path = write_csv(tmp_path / "p.csv", pairs(tmp_path))
    with pytest.raises(RecipeError, match=r"nowhere: is no folder; data\.images is relative"):
        load(path, images=tmp_path / "nowhere")


def test_parquet_names_rows_and_damage(tmp_path: Path) -> None:
    rows = pairs(tmp_path)
    rows[3]["text"] = None
    path = write_parquet(tmp_path / "p.parquet", rows)
    with pytest.raises(ManifestError, match=r"p\.parquet, row 4: column text: is null"):
        load(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RecipeError, match=r"p\.parquet: cannot be read as Parquet"):
        load(path)
    path = write_parquet(tmp_path / "p.parquet", [{"text": "x", "label": "y"}])
    with pytest.raises(ManifestError, match=r"p\.parquet: column image: is missing"):
        load(path)


def test_parquet_without_pyarrow_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "p.parquet").write_bytes(b"PAR1")
    with pytest.raises(MissingExtraError, match=r"pyarrow is not installed.*tritium\[train\]"):
        load(tmp_path / "p.parquet")


def test_ten_problems_are_told_and_the_others_counted(tmp_path: Path) -> None:
    rows = pairs(tmp_path, 30)
    for row in rows[:13]:
        row["text"] = ""
    rows[20]["image"] = "no.png"
    (tmp_path / rows[21]["image"]).write_bytes(b"no picture")
    with pytest.raises(ManifestError) as caught:
        load(write_csv(tmp_path / "p.csv", rows))
    lines = str(caught.value).splitlines()
    assert len(lines) == 11
    assert lines[0].startswith("p.csv, line 2: column text")
    assert lines[-1] == "and 5 more problems"
    assert [problem.where for problem in caught.value.problems[-2:]] == [
        "p.csv, line 22", "p.csv, line 23",
    ]  # fmt: skip


def test_labels_are_held_against_the_list_and_the_folds(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "p.csv", pairs(tmp_path))
    with pytest.raises(
        ManifestError, match=r"line 4: column label: 'elk' is not one of data\.label"
    ):
        load(path, labels=("cat", "dog"))
    with pytest.raises(
        ManifestError, match="label 'gnu' has 0 items in 0 groups, and folds need 2"
    ):
        load(path, labels=("cat", "dog", "elk", "gnu"))
    with pytest.raises(
        ManifestError, match="label 'cat' has 4 items in 4 groups, and folds need 5"
    ):
        load(path, least_groups=5)
    write_csv(path, pairs(tmp_path, labels=("cat",)))
    with pytest.raises(ManifestError, match="column label: holds one label, 'cat'; add items of"):
        load(path)


def test_bad_pictures_are_left_out_when_asked(tmp_path: Path) -> None:
    rows = pairs(tmp_path)
    whole = jpeg(200, 200)
    (tmp_path / rows[3]["image"]).write_bytes(whole[: len(whole) // 2])
    (tmp_path / rows[4]["image"]).unlink()
    path = write_csv(tmp_path / "p.csv", rows)
    with pytest.raises(ManifestError) as caught:
        load(path)
    assert len(caught.value.problems) == 2
    loaded = load(path, skip_bad_images=True)
    assert [item.id for item in loaded.dataset.items] == [
        str(line) for line in range(2, 14) if line not in {5, 6}
    ]
    assert len(loaded.facts) == 10
    assert [(one.line, one.image) for one in loaded.skipped] == [
        (5, "pictures/003.png"), (6, "pictures/004.png"),
    ]  # fmt: skip
    assert "damaged or truncated" in loaded.skipped[0].reason
    assert loaded.skipped[1].reason == "there is no such file"


def test_skipping_most_of_the_pictures_is_an_error(tmp_path: Path) -> None:
    rows = pairs(tmp_path)
    for row in rows[:7]:
        (tmp_path / row["image"]).unlink()
    path = write_csv(tmp_path / "p.csv", rows)
    with pytest.raises(ManifestError, match=r"7 of 12 pictures cannot be used, the first one "
                       r"'pictures/000\.png' on line 2 .*check data\.images"):  # fmt: skip
        load(path, skip_bad_images=True)


def test_a_path_out_of_the_folder_is_never_skipped(tmp_path: Path) -> None:
    rows = pairs(tmp_path / "data")
    rows[3]["image"] = "../secret.png"
    path = write_csv(tmp_path / "data" / "p.csv", rows)
    with pytest.raises(ManifestError, match="leads outside"):
        load(path, skip_bad_images=True)


def test_equal_pairs_share_a_group(tmp_path: Path) -> None:
    """Whatever groups the manifest gives, no fold can part what is equal."""
    rows = [row | {"group": f"g{number}"} for number, row in enumerate(pairs(tmp_path))]
    for number in (5, 9):
        (tmp_path / rows[number]["image"]).write_bytes((tmp_path / rows[2]["image"]).read_bytes())
        rows[number]["text"] = rows[2]["text"]
    rows[7]["group"] = "g9"
    groups = load(write_csv(tmp_path / "p.csv", rows)).dataset.groups
    assert len({groups[number] for number in (2, 5, 7, 9)}) == 1
    assert len(set(groups)) == 12 - 3


def test_pictures_are_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tritium_builders.servables import image_decoder

    path = write_csv(tmp_path / "p.csv", pairs(tmp_path))
    tried: list[int] = []
    decode = image_decoder.decode

    def counted(data: bytes, spec: dict[str, Any]) -> Any:
        tried.append(len(data))
        return decode(data, spec)

    monkeypatch.setattr(image_decoder, "decode", counted)
    first = load(path)
    assert len(tried) == 12
    assert load(path) == first
    assert len(tried) == 12


def test_the_hash_follows_manifest_and_pictures(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "p.csv", pairs(tmp_path))
    first = hash_manifest(source(path))
    assert load(path).data_hash == first
    assert hash_manifest(source(path, name="elsewhere")) == first
    content = (tmp_path / "pictures" / "003.png").read_bytes()
    (tmp_path / "pictures" / "003.png").write_bytes(png(7, 7))
    assert hash_manifest(source(path)) != first
    (tmp_path / "pictures" / "003.png").write_bytes(content)
    assert hash_manifest(source(path)) == first
    path.write_text(path.read_text().replace("dog", "fox"))
    assert hash_manifest(source(path)) != first


def test_problems_as_json(tmp_path: Path) -> None:
    rows = pairs(tmp_path)
    rows[0]["text"] = ""
    with pytest.raises(ManifestError) as caught:
        load(write_csv(tmp_path / "p.csv", rows))
    (found,) = (problem.as_dict() for problem in caught.value.problems)
    assert json.loads(json.dumps(found)) == {
        "where": "p.csv, line 2",
        "column": "text",
        "problem": "is empty",
        "fix": "an item needs text and image for now: write one or remove the line",
    }
