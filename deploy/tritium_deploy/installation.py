"""Find a tritonserver, and say what it needs around it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tritium_builders.errors import MissingExtraError
from tritium_deploy.errors import TritonNotFoundError, UnsupportedError
from tritium_deploy.stubs import STUB

PYTHONS = ((3, 11), (3, 12))
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(4 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(16 * 2**20)}
"""What glibc does with freed memory, in bytes: see mallopt(3). Whoever sets them decides.

Left alone, it keeps what large pictures took for ever: an image decoder that was sent the tests'
bad requests went from 22 to 123 MB, in steps of 48. With these, large blocks go back at once, and
the small ones of every request stay."""


@dataclass(frozen=True)
class Installation:
    """One tritonserver with its backends."""

    binary: Path
    backends: Path
    stub: Path | None
    """The Python backend's stub for this interpreter; None where `backends` is complete."""
    libraries: tuple[Path, ...]
    """Folders that LD_LIBRARY_PATH needs."""

    @property
    def caches(self) -> Path:
        """Where its response caches lie."""
        return self.binary.parent.parent / "caches"

    def has_backend(self, name: str) -> bool:
        """Whether it can run models of a backend, for instance `tensorrt`."""
        return (self.backends / name).is_dir()

    def prepare_backends(self, folder: Path) -> Path:
        """Make a backend directory whose Python stub is this interpreter's.

        Args:
            folder: An empty folder that only this server uses.

        Returns:
            What to give to tritonserver as `--backend-directory`.
        """
        if self.stub is None:
            return self.backends
        backends = folder / "backends"
        shutil.copytree(self.backends, backends)
        shutil.copy2(self.stub, backends / "python" / STUB)
        return backends

    def environment(self) -> dict[str, str]:
        """The environment of tritonserver: ours, with its libraries and this interpreter first."""
        environment = {**MALLOC, **os.environ}
        paths = [*map(str, self.libraries), environment.get("LD_LIBRARY_PATH", "")]
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(path for path in paths if path)
        if self.stub is not None:
            # The stub takes its packages from the first python on PATH.
            interpreter = str(Path(sys.executable).parent)
            environment["PATH"] = os.pathsep.join([interpreter, environment.get("PATH", "")])
        return environment


def find_installation(explicit: Path | None = None) -> Installation:
    """Find a tritonserver: the given one, else the one on PATH, else nvidia-pytriton's.

    Args:
        explicit: The path of a tritonserver binary.

    Raises:
        TritonNotFoundError: when there is none, or it lacks its backends.
        MissingExtraError: when none was given and nvidia-pytriton is not installed.
        UnsupportedError: when this machine or Python cannot run it.
    """
    _require_platform()
    if explicit is not None:
        if not explicit.is_file() or not os.access(explicit, os.X_OK):
            raise TritonNotFoundError(
                f"{explicit} is not an executable file; give --tritonserver the path of the binary"
            )
        return _installation(explicit.resolve())
    on_path = shutil.which("tritonserver")
    if on_path is not None:
        return _installation(Path(on_path).resolve())
    package = importlib.util.find_spec("pytriton")
    if package is None or not package.submodule_search_locations:
        raise MissingExtraError("nvidia-pytriton", "serve")
    binary = Path(package.submodule_search_locations[0]) / "tritonserver" / "bin" / "tritonserver"
    if not binary.is_file():
        raise TritonNotFoundError(
            f"{binary} is missing; run: pip install --force-reinstall nvidia-pytriton"
        )
    return _installation(binary)


def _installation(binary: Path) -> Installation:
    root = binary.parent.parent
    backends = root / "backends"
    if not (backends / "python").is_dir():
        raise TritonNotFoundError(
            f"{backends} holds no Python backend; give --tritonserver the binary inside an "
            f"installation (bin/tritonserver beside backends/)"
        )
    stubs = root / "python_backend_stubs"
    if not stubs.is_dir():
        # NVIDIA's container: its backends are complete, with a stub for the container's Python.
        return Installation(binary, backends, stub=None, libraries=(root / "lib",))
    _require_python()
    stub = stubs / f"{sys.version_info.major}.{sys.version_info.minor}" / STUB
    if not stub.is_file():
        raise UnsupportedError(
            f"{root} has no stub for Python {platform.python_version()}; use Python 3.11 or 3.12"
        )
    # Without these libraries the stub hangs in place of failing.
    bundled = root.parent.parent / "nvidia_pytriton.libs"
    if not bundled.is_dir():
        raise TritonNotFoundError(
            f"{bundled} is missing; run: pip install --force-reinstall nvidia-pytriton"
        )
    return Installation(binary, backends, stub, libraries=(*_libpython_folder(), bundled))


def _require_platform() -> None:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise UnsupportedError(
            f"Triton runs on Linux x86-64, and this is {platform.system()} {platform.machine()}; "
            "use a Linux machine or container"
        )


def _require_python() -> None:
    if sys.version_info[:2] not in PYTHONS:
        raise UnsupportedError(
            f"serving needs Python 3.11 or 3.12, and this is {platform.python_version()}; "
            "make the environment with one of these"
        )
    try:
        numpy = metadata.version("numpy")
    except metadata.PackageNotFoundError as error:
        raise MissingExtraError("numpy", "serve") from error
    if int(numpy.split(".", 1)[0]) >= 2:
        raise UnsupportedError(
            f"Triton's Python stub needs numpy < 2, and {numpy} is installed; "
            "run: pip install 'tritium[serve]'"
        )


def _libpython_folder() -> tuple[Path, ...]:
    """Find the folder of libpython where the dynamic linker would not look by itself."""
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    candidates = [Path(sysconfig.get_config_var("LIBDIR") or ""), Path(sys.base_prefix) / "lib"]
    for folder in candidates:
        if (folder / name).is_file():
            return (folder,)
    from ctypes.util import find_library

    if find_library(f"python{sys.version_info.major}.{sys.version_info.minor}") is None:
        raise UnsupportedError(
            f"{name} is not found; install this Python's shared library "
            f"(Debian: libpython{sys.version_info.major}.{sys.version_info.minor})"
        )
    return ()
