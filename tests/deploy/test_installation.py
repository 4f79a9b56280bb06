"""Which tritonserver is found, and what is said where none can run."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tritium_builders.errors import MissingExtraError
from tritium_deploy.errors import TritonNotFoundError, UnsupportedError
from tritium_deploy.installation import find_installation


def _install(root: Path) -> Path:
    """Lay out what NVIDIA's container has: complete backends beside bin/."""
    binary = root / "bin" / "tritonserver"
    binary.parent.mkdir(parents=True)
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    (root / "backends" / "python").mkdir(parents=True)
    (root / "backends" / "tensorrt").mkdir()
    return binary


def test_the_given_path_then_path_then_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, on_path = _install(tmp_path / "given"), _install(tmp_path / "path")
    monkeypatch.setenv("PATH", os.pathsep.join([str(on_path.parent), os.environ["PATH"]]))
    assert find_installation(given).binary == given
    assert find_installation().binary == on_path
    on_path.unlink()
    packaged = find_installation()
    assert packaged.binary.parts[-4:] == ("pytriton", "tritonserver", "bin", "tritonserver")


def test_a_link_on_path_leads_to_its_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binary = _install(tmp_path / "opt")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tritonserver").symlink_to(binary)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    found = find_installation()
    assert found.binary == binary
    assert found.has_backend("tensorrt")
    assert not found.has_backend("openvino")


def test_complete_backends_are_used_as_they_are(tmp_path: Path) -> None:
    found = find_installation(_install(tmp_path / "opt"))
    private = tmp_path / "private"
    private.mkdir()
    assert found.prepare_backends(private) == tmp_path / "opt" / "backends"
    assert list(private.iterdir()) == []
    assert found.environment()["PATH"] == os.environ["PATH"]


def test_the_packaged_backends_get_this_interpreters_stub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/elsewhere")
    found = find_installation()
    backends = found.prepare_backends(tmp_path)
    stub = backends / "python" / "triton_python_backend_stub"
    assert backends.is_relative_to(tmp_path)
    assert os.access(stub, os.X_OK)
    assert (
        f"libpython{sys.version_info.major}.{sys.version_info.minor}".encode() in stub.read_bytes()
    )
    environment = found.environment()
    assert environment["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    libraries = environment["LD_LIBRARY_PATH"].split(os.pathsep)
    assert libraries[-1] == "/elsewhere"
    assert libraries[-2].endswith("nvidia_pytriton.libs")


def test_freed_memory_goes_back_unless_somebody_has_another_wish(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "131072")
    environment = find_installation().environment()
    assert environment["MALLOC_MMAP_THRESHOLD_"] == "131072"
    assert int(environment["MALLOC_TRIM_THRESHOLD_"]) == 16 * 2**20


@pytest.mark.parametrize("what", ["missing", "folder", "not_executable", "no_backends"])
def test_what_is_no_tritonserver_is_refused(what: str, tmp_path: Path) -> None:
    binary = tmp_path / "bin" / "tritonserver"
    binary.parent.mkdir()
    if what == "folder":
        binary.mkdir()
    elif what != "missing":
        binary.touch(mode=0o644 if what == "not_executable" else 0o755)
    problem = "no Python backend" if what == "no_backends" else "not an executable file"
    with pytest.raises(TritonNotFoundError, match=f"{problem}; give --tritonserver"):
        find_installation(binary)


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingExtraError, match=r"pip install 'tritium\[serve\]'"):
        find_installation()


def test_other_machines_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(UnsupportedError, match="Linux x86-64, and this is Linux aarch64"):
        find_installation()


def test_other_pythons_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    monkeypatch.setattr(platform, "python_version", lambda: "3.13.0")
    with pytest.raises(UnsupportedError, match=r"Python 3\.11 or 3\.12, and this is 3\.13\.0"):
        find_installation()


def test_numpy_2_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "2.1.0")
    with pytest.raises(UnsupportedError, match=r"needs numpy < 2, and 2\.1\.0 is installed"):
        find_installation()
