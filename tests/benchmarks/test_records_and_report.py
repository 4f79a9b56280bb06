"""What a run leaves: a record that is always whole, and a report that can be read."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.benchmarks.records import record

from tritium_benchmarks.contenders import LIMIT, TRITIUM
from tritium_benchmarks.errors import RecordError
from tritium_benchmarks.records import Fairness, read_record, write_record
from tritium_benchmarks.report.tables import breakdown, outside
from tritium_benchmarks.report.write import to_html, to_markdown, verdict, write_report

EVERYTHING = record(
    {TRITIUM: [80, 84, 82, 81], "fastapi-pytorch": [20, 21, 20, 20], LIMIT: [100, 99, 98, 97]},
    fairness=(Fairness(contender=TRITIUM, items=200, differ=0, accuracy=0.81),),
)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = write_record(EVERYTHING, tmp_path / "new" / "folder")
    assert read_record(path) == read_record(path.parent) == EVERYTHING
    assert [file.name for file in path.parent.iterdir()] == ["run.json"], "nothing half-written"


def test_what_is_no_record_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="cannot be read"):
        read_record(tmp_path)
    (tmp_path / "run.json").write_text('{"app": "demo"}')
    with pytest.raises(RecordError, match="workload: Field required; measure again") as caught:
        read_record(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_one_line_and_keeps_the_last_record(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.benchmarks.records import record\n"
        "from tritium_benchmarks.records import write_record, read_record\n"
        "from tritium_benchmarks.report.write import write_report\n"
        "folder = Path(sys.argv[1])\n"
        "write_record(record(), folder)\n"
        "(folder / 'ballast').open('wb', buffering=0).write(b'x' * 10_000_000)\n"
        "for act in (write_record, write_report):\n"
        "    try:\n"
        "        act(record({'tritium': [1.0] * 500}), folder)\n"
        "    except Exception as error:\n"
        "        print(type(error).__name__, error)\n"
        "print(len(read_record(folder).measurements))\n"
    )
    mount = 'mount -t tmpfs -o size=256k none "$1" && exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, "sh", str(tmp_path), sys.executable, script],
        check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("this user may not mount a small disk")
    first, second, count = done.stdout.strip().splitlines()
    assert first.startswith("RecordError")
    assert "No space left on device" in first
    assert "another --out" in first
    assert second.startswith("RecordError the report cannot be written")
    assert count == "16"


def test_the_report_says_what_was_measured_and_what_it_holds_for() -> None:
    page = to_markdown(EVERYTHING)
    assert "- 4.04 (3.96 to 4.11) times the throughput of FastAPI + PyTorch" in page
    assert "of the in-process limit" in page
    assert "| Tritium | 200 | 0 | 81.0% |" in page
    assert "A <fast> one, 2 cores" in page
    for heading in (
        "Tritium's throughput over", "Answers per second", "Latency in milliseconds",
        "Where the time goes", "The same answers", "Cores kept busy", "What it holds for",
    ):  # fmt: skip
        assert f"## {heading}" in page


def test_a_noisy_run_has_no_headline() -> None:
    noisy = record({TRITIUM: [80, 80, 95, 95], "fastapi-pytorch": [20] * 4})
    (line,) = verdict(noisy)
    assert line.startswith("Too noisy for a headline")
    assert "times the throughput" not in to_markdown(noisy)
    assert 'class="verdict warning"' in to_html(noisy)


def test_an_app_measured_alone_has_no_headline_and_needs_none() -> None:
    assert verdict(record({TRITIUM: [80, 95]})) == []


def test_an_interrupted_run_can_be_read() -> None:
    first_only = record({TRITIUM: [80]}, ended="interrupted")
    for count in (0, 1, 2):
        cut = first_only.model_copy(update={"measurements": first_only.measurements[:count]})
        for page in (to_markdown(cut), to_html(cut)):
            assert "Not complete: interrupted" in page


def test_the_page_needs_nothing_else_and_escapes_what_it_shows() -> None:
    page = to_html(EVERYTHING)
    assert "A &lt;fast&gt; one" in page
    assert page.count("data:image/svg+xml;base64,") == 4
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "<script" not in page
    assert to_html(EVERYTHING) == page, "the same figures give the same page"


def test_time_outside_of_triton_is_what_the_steps_do_not_explain() -> None:
    # Means of 10 to 30 ms at 50/s: 12.2 ms at 82/s; Triton says 14 ms of it were its own.
    assert outside(EVERYTHING, 1) == 0
    slow = record({TRITIUM: [25, 25]})
    assert outside(slow, 1) == pytest.approx(40 - 14.2, abs=0.1)
    rows = breakdown(slow).rows
    assert ("1", "client and network", "", "", "", "", "25.80", "") in rows


@pytest.mark.parametrize("width", [400, 1280])
def test_a_browser_shows_the_page_without_scrolling_sideways(width: int, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("chromium is not installed")
    page = write_report(EVERYTHING, tmp_path)[1]
    probe = tmp_path / "probe.html"
    # A page in a frame of the width: headless windows are not narrower than 500 pixels.
    probe.write_text(
        f'<iframe id="page" src="report.html" width="{width}" height="900" '
        'style="border:0"></iframe><script>onload = () => {'
        "const root = document.getElementById('page').contentDocument.documentElement;"
        "document.title = root.scrollWidth + ' ' + root.querySelectorAll('img').length + ' ' +"
        "[...root.querySelectorAll('img')].every(image => image.naturalWidth > 100);"
        "}</script>"
    )
    assert page.is_file()
    done = subprocess.run(
        [chromium, "--headless=new", "--no-sandbox", "--disable-gpu",
         "--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}",
         "--virtual-time-budget=5000", "--dump-dom", probe.as_uri()],
        check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    title = re.search(r"<title>(\d+) (\d+) (\w+)</title>", done.stdout)
    assert title is not None, done.stderr[-500:]
    assert int(title[1]) <= width
    assert title[2] == "4"
    assert title[3] == "true"
