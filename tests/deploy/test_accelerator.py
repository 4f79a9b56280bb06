"""A plan runs on the TensorRT and the kind of GPU that it was built with, and nowhere else."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.deploy.tiny_repository import tiny_release

from tritium_builders.release import Release, TensorRTRecord
from tritium_client import contract
from tritium_deploy.accelerator import Accelerator, find_accelerator, require_plans_fit
from tritium_deploy.errors import PlanMismatchError
from tritium_deploy.installation import Installation, find_installation


def release(version: str = "10.13.2.6", capability: str = "8.6", **options: Any) -> Release:
    """A release with plans."""
    defaults = {"version_compatible": False, "hardware_compatibility": "none"}
    record = TensorRTRecord(
        version=version, compute_capability=capability, options=defaults | options, plans={}
    )
    return tiny_release().model_copy(update={"tensorrt": record, "target": "tensorrt"})


A10 = Accelerator("10.13.2.6", "8.6")


@pytest.mark.parametrize(
    ("built", "server"),
    [
        pytest.param(release(), A10, id="the same"),
        pytest.param(release(), Accelerator("10.13.2", "8.6"), id="the build is not known"),
        pytest.param(
            release("10.9.0.34", version_compatible=True), A10, id="newer, and compatible"
        ),
        pytest.param(
            release(capability="8.0", hardware_compatibility="ampere_plus"),
            Accelerator("10.13.2.6", "9.0"),
            id="a later GPU, and compatible",
        ),
        pytest.param(tiny_release(), Accelerator(), id="no plans"),
    ],
)
def test_what_fits_is_loaded(built: Release, server: Accelerator) -> None:
    require_plans_fit(built, server)


@pytest.mark.parametrize(
    ("built", "server", "message"),
    [
        pytest.param(
            release("10.9.0.34"), A10,
            r"tiny release 1 was built with TensorRT 10\.9\.0\.34, and this server has TensorRT "
            r"10\.13\.2\.6",
            id="another TensorRT",
        ),
        pytest.param(
            release("10.13.2.5"), A10, r"10\.13\.2\.5.*10\.13\.2\.6", id="another build",
        ),
        pytest.param(
            release("10.14.1.48", version_compatible=True), A10,
            r"10\.14\.1\.48.*10\.13\.2\.6", id="an older server, though compatible",
        ),
        pytest.param(
            release(capability="8.9"), A10,
            r"built for compute capability 8\.9, and this server's GPU has 8\.6",
            id="another GPU",
        ),
        pytest.param(
            release(hardware_compatibility="ampere_plus"), Accelerator("10.13.2.6", "7.5"),
            r"8\.6, and this server's GPU has 7\.5", id="a GPU before Ampere",
        ),
        pytest.param(
            release(capability="8.0", hardware_compatibility="same_compute_capability"), A10,
            r"8\.0.*8\.6", id="the same capability was asked for",
        ),
        pytest.param(
            release(), Accelerator("10.13.2.6", None), r"sees no GPU", id="no GPU",
        ),
        pytest.param(
            release(), Accelerator(), r"this server has no TensorRT", id="no TensorRT",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_both_values(
    built: Release, server: Accelerator, message: str
) -> None:
    with pytest.raises(PlanMismatchError, match=message):
        require_plans_fit(built, server)


def test_a_server_without_the_backend_has_no_tensorrt() -> None:
    accelerator = find_accelerator(find_installation())
    assert accelerator == Accelerator()
    assert accelerator.parameters() == {
        contract.PARAM_SERVER_TENSORRT: "none",
        contract.PARAM_SERVER_COMPUTE_CAPABILITY: "none",
    }


NEW = """
int getInferLibMajorVersion(void) { return 10; }
int getInferLibMinorVersion(void) { return 13; }
int getInferLibPatchVersion(void) { return 2; }
int getInferLibBuildVersion(void) { return 6; }
"""
OLD = "int getInferLibVersion(void) { return 100900; }"


@pytest.mark.parametrize(
    ("source", "version"),
    [
        pytest.param(NEW, "10.13.2.6", id="four numbers"),
        pytest.param(OLD, "10.9.0", id="packed"),
        pytest.param("", None, id="a library that says nothing"),
    ],
)
def test_the_library_that_the_backend_is_linked_with_is_asked(
    source: str, version: str | None, tmp_path: Path
) -> None:
    installation = with_backend(tmp_path)
    (tmp_path / "nvinfer.c").write_text(source)
    subprocess.run(
        ["gcc", "-shared", "-o", tmp_path / "lib" / "libnvinfer.so.10", tmp_path / "nvinfer.c"],
        check=True,
    )
    assert find_accelerator(installation).tensorrt_version == version


def test_a_backend_without_its_library_has_no_tensorrt(tmp_path: Path) -> None:
    assert find_accelerator(with_backend(tmp_path)).tensorrt_version is None


def with_backend(folder: Path) -> Installation:
    """An installation whose tensorrt backend names the library that it is linked with."""
    (folder / "backends" / "tensorrt").mkdir(parents=True)
    (folder / "lib").mkdir()
    backend = folder / "backends" / "tensorrt" / "libtriton_tensorrt.so"
    backend.write_bytes(b"\x7fELF ... libcudart.so.12 libnvinfer.so.10 libc.so.6")
    assert shutil.which("gcc")
    return replace(
        find_installation(), backends=folder / "backends", libraries=(folder / "lib",), stub=None
    )
