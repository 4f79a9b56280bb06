"""The page on other languages: its program is compiled and run, and answers as the SDK does."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from tests.docs.conftest import Site
from tests.docs.pages import DEFAULT_URL, ROOT, Block, page
from tests.support.grpc_service import served
from tritium_client import Client, InvalidInput, _wire, contract
from tritium_client._translation import Failure, translate

PAGE = page("docs/other-languages.md")
STUBS, PROGRAM, COMPILE, CLASSIFY, REFUSED = PAGE.blocks
INSTALL = "tools/install-java-stubs.sh"
TIMEOUT_S = 120.0


@dataclass
class Shell:
    """A reader's terminal: one folder, and a CLASSPATH that stays from block to block."""

    folder: Path
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))

    def run(self, code: str) -> subprocess.CompletedProcess[str]:
        remember = "trap 'printf %s \"${CLASSPATH-}\" > .classpath' EXIT\n"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", remember + code],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        self.environment["CLASSPATH"] = (self.folder / ".classpath").read_text(encoding="utf-8")
        return done

    def succeed(self, code: str) -> str:
        done = self.run(code)
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Somebody who has followed the page as far as the compiled program."""
    found = subprocess.run(
        [ROOT / INSTALL, "--check"], capture_output=True, text=True, timeout=30, check=False
    )
    if found.returncode != 0:
        pytest.skip(f"no Java toolchain, {found.stdout.strip()}; {INSTALL} installs it on Debian")
    shell = Shell(tmp_path_factory.mktemp("java"))
    # Java reads its arguments in the locale's encoding. It starts and compiles faster without its
    # second compiler, which pays off in programs that run for long.
    shell.environment["LC_ALL"] = "C.UTF-8"
    shell.environment["JAVA_TOOL_OPTIONS"] = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
    protos = "-I protos"
    assert protos in STUBS.code
    (shell.folder / "protos.pb").write_bytes(descriptors())
    shell.succeed(STUBS.code.replace(protos, "--descriptor_set_in=protos.pb"))
    name = re.search(r"public final class (\w+)", PROGRAM.code)
    assert name is not None
    (shell.folder / f"{name[1]}.java").write_text(PROGRAM.code, encoding="utf-8")
    shell.succeed(COMPILE.code)
    return shell


def descriptors() -> bytes:
    """Triton's protos as tritonclient has them: compiled, each after those that it imports."""
    files = FileDescriptorSet()
    for module in (model_config_pb2, service_pb2):
        files.file.add().ParseFromString(module.DESCRIPTOR.serialized_pb)
    written: bytes = files.SerializeToString()
    return written


def test_these_are_the_blocks_of_the_page() -> None:
    languages = [block.language for block in PAGE.blocks]
    assert languages == ["bash", "java", "bash", "bash", "bash"]


@pytest.mark.e2e
def test_java_gets_the_answer_that_python_gets(reader: Shell, site: Site) -> None:
    picture = reader.folder / "apple.png"
    shutil.copyfile(site.reader.folder / "picture.png", picture)
    printed = reader.succeed(at(CLASSIFY, site.reader.url))
    with Client(site.reader.url, app="openmoji") as client:
        answer = client.classify(text="red apple", image=picture)
    read = re.fullmatch(
        r"(?P<label>.+) (?P<probability>\S+) \(release (?P<release>\d+)\)\n", printed
    )
    assert read is not None, printed
    assert read["label"] == answer.label
    assert float(read["probability"]) == pytest.approx(answer.probability, abs=1e-6)
    assert int(read["release"]) == answer.release


@pytest.mark.e2e
def test_java_gets_the_refusal_that_python_gets(reader: Shell, site: Site) -> None:
    broken = reader.folder / "broken.png"
    broken.write_bytes(b"this is no picture")
    done = reader.run(at(REFUSED, site.reader.url))
    assert done.returncode == 1
    assert done.stdout == ""
    status = re.search(r"^INVALID_ARGUMENT: .*", done.stderr, re.MULTILINE)
    assert status is not None, done.stderr
    refused = contract.parse_error(status[0])
    shown = " ".join(PAGE.path.read_text(encoding="utf-8").split())
    assert status[0] in shown
    with (
        Client(site.reader.url, app="openmoji") as client,
        pytest.raises(InvalidInput) as caught,
    ):
        client.classify(text="red apple", image=broken)
    assert refused == contract.WireError("image_decoder", 0, caught.value.reason)
    assert caught.value.stage == "image_decoder"


def at(block: Block, url: str) -> str:
    assert DEFAULT_URL in block.code
    return block.code.replace(DEFAULT_URL, url)


class Recorder(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """A server that remembers what was asked, and whose release is of another wire version."""

    def __init__(self) -> None:
        self.infer: Any = None
        self.left_s = 0.0
        self.config_of = ""

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.infer, self.left_s = request, context.time_remaining()
        return service_pb2.ModelInferResponse(model_name=request.model_name, model_version="7")

    def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.config_of = request.name
        response = service_pb2.ModelConfigResponse()
        response.config.parameters[contract.PARAM_WIRE_VERSION].string_value = "2.0"
        response.config.parameters[contract.PARAM_LABELS].string_value = '["cat"]'
        return response


@pytest.fixture
def recorder() -> Iterator[tuple[Recorder, str]]:
    service = Recorder()
    with served(service) as url:
        yield service, url


@pytest.mark.e2e
def test_java_sends_what_python_sends(reader: Shell, recorder: tuple[Recorder, str]) -> None:
    service, url = recorder
    text, image = "rotes Äpfelchen 🍎", bytes(range(256)) * 3
    (reader.folder / "bytes.png").write_bytes(image)
    done = reader.run(f"java Classify {url} pets '{text}' bytes.png")

    sent = service.infer
    assert sent is not None, done.stderr
    microseconds = sent.parameters["timeout"].int64_param
    assert 4_000_000 < microseconds <= 5_000_000
    assert 3 < service.left_s <= 5
    assert len(sent.id) > 20
    ours = _wire.infer_request(
        "pets_classify",
        {"text": text.encode(), "image": image},
        request_id=sent.id,
    )
    ours.parameters["timeout"].int64_param = microseconds
    assert sent == ours

    assert service.config_of == contract.release_entry_point(
        "pets", "classify", ("text", "image"), 7
    )
    assert done.returncode != 0
    assert "pets_classify_r7 speaks wire version 2.0, not 1.x" in done.stderr
    assert done.stdout == ""


def test_the_table_of_errors_says_what_the_sdk_does() -> None:
    row = re.compile(
        r"^\| (?P<status>[A-Z_]+|any other) \|(?P<message>.*?)\|.*?"
        r"\| `(?P<exception>\w+)` \| (?P<again>yes|no) \|$",
        re.MULTILINE,
    )
    rows = list(row.finditer(PAGE.path.read_text(encoding="utf-8")))
    assert len(rows) == 9
    for found in rows:
        code = found["status"] if found["status"] != "any other" else "UNKNOWN"
        error = translate(Failure(code, found["message"].strip(" `"), "host:8001", "m", 1))
        assert (type(error).__name__, error.retryable) == (
            found["exception"],
            found["again"] == "yes",
        ), found[0]
