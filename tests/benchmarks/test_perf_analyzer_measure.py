"""perf_analyzer against a real server: what it is given, what it says, how it fails."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.demo_repository import write_repository
from tests.support.triton import TritonServer, free_port, triton_server

from tritium_benchmarks.errors import PerfAnalyzerError
from tritium_benchmarks.inputs import Request
from tritium_benchmarks.perf_analyzer.input_data import write_input_data
from tritium_benchmarks.perf_analyzer.install import PerfAnalyzer, install_perf_analyzer
from tritium_benchmarks.perf_analyzer.measure import measure

pytestmark = pytest.mark.e2e

BOTH = [Request("a" * length, bytes([length])) for length in range(1, 9)]


@pytest.fixture(scope="module")
def program() -> PerfAnalyzer:
    return install_perf_analyzer()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    repository = write_repository(tmp_path_factory.mktemp("measured") / "repository")
    with triton_server(repository) as running:
        yield running


def test_a_load_is_measured(program: PerfAnalyzer, server: TritonServer, tmp_path: Path) -> None:
    data = write_input_data(BOTH, tmp_path / "data.json")
    found = measure("demo_classify", server.url, data, in_flight=2, seconds=2, program=program)
    assert found.per_second > 10
    assert 0 < found.p50_ms <= found.p90_ms <= found.p95_ms <= found.p99_ms
    assert found.p50_ms == pytest.approx(1000 * 2 / found.per_second, rel=0.7), "two in flight"
    assert {"server queue", "server compute infer"} <= set(found.average_ms)
    assert 0 < found.generator_cpu < 2


def test_what_it_is_given_is_what_the_client_sends(tmp_path: Path) -> None:
    requests = [Request("häuser", b"\x89PNG"), Request("b", b"")]
    document = json.loads(write_input_data(requests, tmp_path / "data.json").read_text())
    first = document["data"][0]
    assert base64.b64decode(first["text"]["content"]["b64"]) == b"\x07\0\0\0h\xc3\xa4user"
    assert base64.b64decode(first["image"]["content"]["b64"]) == b"\x04\0\0\0\x89PNG"
    assert first["text"]["shape"] == [1]
    with pytest.raises(ValueError, match="one entry point at a time"):
        write_input_data([Request("a", None), Request("a", b"b")], tmp_path / "data.json")


@pytest.mark.parametrize(
    ("entry_point", "text", "words"),
    [
        ("demo_classify_text", "bad", "cannot be read"),
        ("nothing_classify_text", "good", "nothing_classify_text"),
    ],
)
def test_a_request_that_fails_ends_the_measurement_with_its_reason(
    program: PerfAnalyzer, server: TritonServer, tmp_path: Path, entry_point: str, text: str,
    words: str,
) -> None:  # fmt: skip
    data = write_input_data([Request(text, None)], tmp_path / "data.json")
    with pytest.raises(PerfAnalyzerError, match=words) as caught:
        measure(entry_point, server.url, data, in_flight=1, seconds=1, program=program)
    assert "\n" not in str(caught.value)


def test_a_server_that_is_not_there_is_one_line(program: PerfAnalyzer, tmp_path: Path) -> None:
    data = write_input_data([Request("a", None)], tmp_path / "data.json")
    url = f"127.0.0.1:{free_port()}"
    with pytest.raises(PerfAnalyzerError) as caught:
        measure("demo_classify_text", url, data, in_flight=1, seconds=1, program=program)
    assert "\n" not in str(caught.value)
