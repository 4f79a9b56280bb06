"""The labelling queue: a sample of what is asked becomes a manifest, and no call notices."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.pictures import jpeg, png

from tritium_client import (
    AsyncClient,
    AsyncMockTransport,
    Client,
    LabellingCounts,
    LabellingQueue,
    MockApp,
    MockTransport,
    _labelling,
)
from tritium_client._labelling_files import Row, Store

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12

LABELS = ("cat", "dog")
PETS = MockApp(labels=LABELS, answer=lambda text, _: [0.9, 0.1] if text else [0.4, 0.6], release=3)


def rows_of(folder: Path, app: str = "pets") -> list[dict[str, Any]]:
    lines = (folder / f"{app}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def offer(queue: LabellingQueue, number: int, probability: float = 0.9, **changes: Any) -> None:
    image = changes.get("image", png(20, 20, seed=number))
    probabilities = np.array([1 - probability, probability], dtype=np.float32)
    queue.offer("pets", {"text": f"n {number}".encode(), "image": image}, LABELS, probabilities, 7)


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[LabellingQueue]:
    with LabellingQueue(tmp_path / "queue", percent=100) as made:
        yield made


def test_what_is_asked_becomes_rows_of_a_manifest(queue: LabellingQueue) -> None:
    with Client(
        app="pets", transport=MockTransport({"pets": PETS}), labelling_queue=queue
    ) as client:
        client.classify(text="miäow", image=png(30, 20, 1))
        client.classify(text="wúff", image=jpeg(2))
        client.classify(text="no picture")  # training needs both
        client.classify(image=png(30, 20, 1))
    assert queue.flush()
    first, second = rows_of(queue.folder)
    assert first["text"] == "miäow"
    assert (queue.folder / first["image"]).read_bytes() == png(30, 20, 1)
    assert (queue.folder / second["image"]).read_bytes() == jpeg(2)
    assert [Path(row["image"]).suffix for row in (first, second)] == [".png", ".jpg"]
    shown = {name: first[name] for name in ("label", "answer", "probability", "release", "app")}
    assert shown == {
        "label": "", "answer": "cat", "probability": 0.9, "release": 3, "app": "pets"
    }  # fmt: skip
    assert queue.counts == LabellingCounts(sampled=2, written=2)


def test_the_async_client_has_one_too(queue: LabellingQueue) -> None:
    async def ask() -> None:
        transport = AsyncMockTransport({"pets": PETS})
        async with AsyncClient(app="pets", transport=transport, labelling_queue=queue) as client:
            await client.classify(text="miaow", image=png(30, 20, 1))

    asyncio.run(ask())
    assert queue.flush()
    assert [row["text"] for row in rows_of(queue.folder)] == ["miaow"]


def test_equal_requests_are_written_once_in_this_life_and_the_next(tmp_path: Path) -> None:
    for _ in range(2):
        with LabellingQueue(tmp_path, percent=100) as queue:
            for number in (1, 2, 1):
                offer(queue, number)
        # What somebody is labelling still counts: the folder's rows are all known.
        if (tmp_path / "pets.jsonl").exists():
            (tmp_path / "pets.jsonl").rename(tmp_path / "round-1.jsonl")
    assert queue.counts == LabellingCounts(sampled=3, duplicates=3)
    assert len(rows_of(tmp_path, "round-1")) == 2


def test_a_share_is_sampled_and_a_larger_one_of_uncertain_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = iter([0.009, 0.011, 0.19, 0.21])
    monkeypatch.setattr(random, "random", lambda: next(drawn))
    with LabellingQueue(tmp_path, percent=1, uncertain_below=0.6, uncertain_percent=20) as queue:
        for number, probability in enumerate((0.9, 0.9, 0.55, 0.55)):
            offer(queue, number, probability)
    assert [row["text"] for row in rows_of(tmp_path)] == ["n 0", "n 2"]


def test_the_folder_never_grows_beyond_its_limit(tmp_path: Path) -> None:
    with LabellingQueue(tmp_path, percent=100, max_bytes=20_000) as queue:
        for number in range(60):
            offer(queue, number)
            if number % 20 == 19:
                assert queue.flush()
    found = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert 15_000 < found <= 20_000
    assert queue.counts.full == 60 - queue.counts.written > 0
    # Room that somebody made is used again.
    (tmp_path / "pets.jsonl").unlink()
    with LabellingQueue(tmp_path, percent=100, max_bytes=20_000) as queue:
        offer(queue, 1000)
    assert queue.counts.written == 1


def test_a_slow_disk_delays_no_call_and_what_it_cannot_take_is_counted(
    queue: LabellingQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()
    add = Store.add
    monkeypatch.setattr(Store, "add", lambda self, row: goes_on.wait(30) and add(self, row))
    began = time.monotonic()
    picture = png(20, 20, 1)
    for number in range(_labelling.PENDING_ROWS + 60):
        offer(queue, number, image=picture)
    assert time.monotonic() - began < 5  # a slow machine's; the disk would take half a minute
    assert 0 < queue.counts.dropped <= 60
    goes_on.set()
    assert queue.flush(30)
    assert queue.counts.written + queue.counts.dropped == queue.counts.sampled
    monkeypatch.setattr(_labelling, "PENDING_BYTES", 100)
    offer(queue, 9999)
    assert queue.counts.dropped == queue.counts.sampled - queue.counts.written


def test_a_disk_that_fails_is_logged_and_fails_no_call(
    queue: LabellingQueue, caplog: pytest.LogCaptureFixture
) -> None:
    (queue.folder / "pets.jsonl").mkdir()  # root writes through missing rights
    for number in range(3):
        offer(queue, number)
    assert queue.flush()
    assert queue.counts.failed == 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "cannot be written" in caplog.text
    (queue.folder / "pets.jsonl").rmdir()
    offer(queue, 3)
    assert queue.flush()
    assert queue.counts.written == 1


def test_half_a_row_of_a_crash_is_taken_away(queue: LabellingQueue) -> None:
    offer(queue, 1)
    assert queue.flush()
    with (queue.folder / "pets.jsonl").open("a") as file:
        file.write('{"id": "half of a ro')
    offer(queue, 2)
    assert queue.flush()
    assert [row["text"] for row in rows_of(queue.folder)] == ["n 1", "n 2"]


def _write_many(folder: str, start: int, count: int) -> None:
    store = Store(Path(folder), 10_000_000)
    for number in range(start, start + count):
        text = f"row {number} ".encode() * 500  # longer than what a pipe or a page holds
        store.add(Row("pets", text, png(8, 8, number % 50), "cat", 0.5, 1, "now"))


def test_several_processes_share_a_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [
        context.Process(target=_write_many, args=(str(tmp_path), start, 60))
        for start in (0, 30, 60)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    rows = rows_of(tmp_path)
    assert len({row["id"] for row in rows}) == len(rows) == 120
    assert all((tmp_path / row["image"]).is_file() for row in rows)
    assert not [path for path in (tmp_path / "images").iterdir() if path.name.startswith(".")]


def test_a_process_that_is_killed_leaves_whole_rows_or_half_a_last_one(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for start in (0, 1000):
        worker = context.Process(target=_write_many, args=(str(tmp_path), start, 900))
        worker.start()
        while not (tmp_path / "pets.jsonl").exists() or not (start or rows_of_whole(tmp_path)):
            time.sleep(0.01)
        time.sleep(0.1)
        os.kill(worker.pid or 0, signal.SIGKILL)
        worker.join(10)
    before = rows_of_whole(tmp_path)
    _write_many(str(tmp_path), 5000, 1)
    rows = rows_of(tmp_path)  # each line can be read
    assert len(rows) == before + 1
    assert all((tmp_path / row["image"]).is_file() for row in rows)


def rows_of_whole(folder: Path) -> int:
    return (folder / "pets.jsonl").read_bytes().count(b"\n")


def test_a_forked_process_has_a_thread_of_its_own(queue: LabellingQueue) -> None:
    offer(queue, 1)
    assert queue.flush()

    def child() -> None:
        offer(queue, 2)
        os._exit(0 if queue.flush() and queue.counts.written == 1 else 1)

    worker = multiprocessing.get_context("fork").Process(target=child)
    worker.start()
    worker.join(30)
    assert worker.exitcode == 0
    assert [row["text"] for row in rows_of(queue.folder)] == ["n 1", "n 2"]


def test_only_its_owner_may_read_what_callers_sent(queue: LabellingQueue) -> None:
    offer(queue, 1)
    assert queue.flush()
    files = [path for path in queue.folder.rglob("*") if path.is_file()]
    assert len(files) == 3
    assert {path.stat().st_mode & 0o077 for path in files} == {0}


def test_after_closing_nothing_is_sampled(queue: LabellingQueue) -> None:
    queue.close()
    queue.close()
    offer(queue, 1)
    assert queue.counts == LabellingCounts()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"percent": 101}, "percent must be between 0 and 100: 101"),
        ({"percent": float("nan")}, "percent must be between 0 and 100: nan"),
        ({"uncertain_below": 2}, "uncertain_below must be between 0 and 1: 2"),
        ({"max_bytes": 0}, "max_bytes must be at least 1: 0"),
    ],
)
def test_settings_that_could_never_be_right(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        LabellingQueue(tmp_path, **changes)


def test_a_folder_that_cannot_be_one_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"the labelling queue .*file cannot be written"):
        LabellingQueue(tmp_path / "file")
