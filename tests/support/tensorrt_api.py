"""Which of TensorRT's Python API a build uses, and whether a TensorRT that cannot run here has it.

TensorRT needs a GPU; TensorRT-RTX, which has nearly the same Python API, builds engines without
one. So a build runs on TensorRT-RTX and what it uses is recorded:

    python tests/support/tensorrt_api.py record OUT.json script.py arguments...
    python tests/support/tensorrt_api.py record OUT.json -m package.module arguments...

The recording is then held against the bindings of a real TensorRT. They are a small wheel of their
own, and import when libraries that do nothing stand in for the gigabytes that they link to:

    LD_LIBRARY_PATH=STUBS python -S tests/support/tensorrt_api.py check OUT.json BINDINGS

What this cannot see is how TensorRT behaves, which values it takes, and calls that Polygraphy makes
only where TensorRT-RTX lacks something. Stays free of imports beyond Python's own: it runs as a
script under `-S`, where there are no other packages.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import inspect
import json
import os
import re
import runpy
import subprocess
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RTX = "tensorrt_rtx"
BINDINGS = "tensorrt_bindings"
"""What `tensorrt` is made of: its __init__ is `from tensorrt_bindings import *`."""
TIMEOUT_S = 120.0

PYBIND11 = ("__del__", "__getstate__", "__setstate__", "__members__", "_pybind11_conduit_v1_")
"""Attributes that are pybind11's own, or that Python alone uses."""

Call = tuple[int, tuple[str, ...]]
"""How many arguments were given by position, without self, and which by keyword."""


@dataclass(frozen=True)
class Recording:
    """What of TensorRT's API was used. Attributes are written `Class.attribute`."""

    names: set[str] = field(default_factory=set)
    """Taken from the module: classes, functions, constants."""
    members: set[str] = field(default_factory=set)
    """Enum members and other constants of classes."""
    methods: set[str] = field(default_factory=set)
    """Taken from an object or a class, called or not."""
    reads: set[str] = field(default_factory=set)
    """Properties that were read."""
    writes: set[str] = field(default_factory=set)
    """Properties that were written."""
    calls: dict[str, set[Call]] = field(default_factory=dict)
    """Of methods and functions: the ways in which each was called, without refused ones."""

    @property
    def everything(self) -> set[str]:
        """Every name and attribute that was used in any way, and the attributes' classes."""
        used = self.names | self.members | self.methods | self.reads | self.writes | {*self.calls}
        return used | {name.rpartition(".")[0] for name in used if "." in name}

    def called(self, name: str, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> None:
        """Add a call."""
        call = (len(arguments), tuple(sorted(keywords)))
        self.calls.setdefault(name, set()).add(call)

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self), default=sorted, indent=1))

    @classmethod
    def read(cls, path: Path) -> Recording:
        """Read what `write` wrote."""
        values = json.loads(path.read_text())
        calls = {
            name: {(count, tuple(keywords)) for count, keywords in ways}
            for name, ways in values.pop("calls").items()
        }
        return cls(**{kind: set(names) for kind, names in values.items()}, calls=calls)


def record(out: Path, *command: str, folder: Path | None = None) -> Recording:
    """Run a script, or `-m` and a module, in a process of its own, and record what it uses.

    Args:
        out: The JSON file to write.
        command: What would follow `python` on the command line.
        folder: Where it runs.
    """
    _run(sys.executable, __file__, "record", str(out.absolute()), *command, folder=folder)
    return Recording.read(out)


def missing(recording: Path, bindings: Path, stubs: Path) -> dict[str, str]:
    """What a recording uses and these bindings do not have, each with what is wrong with it.

    Of a class that is missing, the class alone is named.
    """
    libraries = os.pathsep.join(filter(None, [str(stubs), os.environ.get("LD_LIBRARY_PATH")]))
    # Without -S, packages of this environment could stand in for TensorRT's own.
    command = (sys.executable, "-S", __file__, "check", str(recording), str(bindings))
    found: dict[str, str] = json.loads(_run(*command, LD_LIBRARY_PATH=libraries))
    return found


def download_bindings(version: str, folder: Path) -> Path:
    """Download the bindings of a TensorRT for this Python into a folder, and nowhere else.

    Returns:
        The folder to import from.
    """
    target = folder / f"bindings-{version}"
    # --no-deps leaves out the gigabytes of libraries.
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:")
    package = f"tensorrt-cu12-bindings=={version}"
    _run(sys.executable, "-m", "pip", "install", *options, "--target", str(target), package)
    return target


def stub_libraries(bindings: Path, folder: Path) -> Path:
    """Compile libraries that let the bindings be imported: every function returns 0.

    Returns:
        The folder for LD_LIBRARY_PATH.
    """
    extension = str(bindings / BINDINGS / "tensorrt.so")
    folder.mkdir(parents=True, exist_ok=True)
    dynamic = _run("readelf", "--dynamic", "--wide", extension)
    libraries = re.findall(r"\(NEEDED\).*\[(libnv[^]]+)\]", dynamic)
    symbols = _run("nm", "--dynamic", "--undefined-only", extension)
    # The C and C++ libraries' symbols carry a version; Python's and a few more are in this process.
    here = ctypes.CDLL(None)
    functions = [
        name for name in re.findall(r"^\s+U ([^@\s]+)$", symbols, re.M) if not hasattr(here, name)
    ]
    source = folder / "stubs.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in functions))
    for library in libraries:
        options = ("-shared", "-fPIC", f"-Wl,-soname,{library}")
        _run("gcc", *options, "-o", str(folder / library), str(source))
    return folder


def _run(*command: str, folder: Path | None = None, **environment: str) -> str:
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, **environment},
        timeout=TIMEOUT_S,
    )
    if done.returncode != 0:
        output = f"{done.stdout}\n{done.stderr}"[-4000:]
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{output}")
    return done.stdout


# Recording, in the process of the build. Classes are changed in place, and objects are left as they
# are: bindings get the objects that they expect, and Polygraphy may subclass, compare and copy.


def _record_here(out: Path, command: Sequence[str]) -> None:
    """Run a script or a module in this process with a recorded TensorRT-RTX."""
    os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1"
    recording = Recording()
    module = importlib.import_module(RTX)
    _record_classes(module, recording)
    sys.modules[RTX] = _RecordedModule(module, recording)
    try:
        # sys.path began with this file's folder, whose modules are named as others' packages are.
        if command[0] == "-m":
            sys.path[0], sys.argv = str(Path.cwd()), [*command[1:]]
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.path[0], sys.argv = str(Path(command[0]).parent), [*command]
            runpy.run_path(command[0], run_name="__main__")
    finally:
        recording.write(out)


class _RecordedModule(types.ModuleType):
    """Stands in for the module, and records what is taken from it."""

    def __init__(self, module: types.ModuleType, recording: Recording) -> None:
        super().__init__(module.__name__, module.__doc__)
        imported = ("__file__", "__loader__", "__package__", "__path__", "__spec__")
        self.__dict__.update({name: getattr(module, name) for name in imported})
        self._module = module
        self._recording = recording

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._module, name)  # an AttributeError was a probe, and is not recorded
        self._recording.names.add(name)
        if not inspect.isroutine(value):
            return value

        @functools.wraps(value)
        def call(*arguments: Any, **keywords: Any) -> Any:
            result = value(*arguments, **keywords)
            self._recording.called(name, arguments, keywords)
            return result

        return call

    def __dir__(self) -> list[str]:
        return dir(self._module)


def _record_classes(module: types.ModuleType, recording: Recording) -> None:
    """Have every class of the module record the use of its attributes."""
    paths: dict[type, str] = {}
    for path, class_ in _classes(module):
        paths.setdefault(class_, path)
    for class_ in paths:
        for name, use in _recorded(class_).items():
            setattr(class_, name, use(recording, paths, name, vars(class_)[name]))


def _classes(namespace: Any, prefix: str = "") -> Iterator[tuple[str, type]]:
    for name, value in vars(namespace).items():
        if _is_bound(value):
            yield f"{prefix}{name}", value
            yield from _classes(value, f"{prefix}{name}.")


def _recorded(class_: type) -> dict[str, type[_Attribute]]:
    """The attributes of a class whose use is recorded, and how."""
    # Classes with a constructor of no arguments are there to be subclassed. pybind11 would take a
    # method of Python in them for an override, and the method would call itself without end.
    constructor = str(getattr(vars(class_).get("__init__"), "__doc__", None))
    is_base = re.match(r"__init__\(self: [\w.]+\) -> None", constructor)
    found: dict[str, type[_Attribute]] = {}
    for name, value in vars(class_).items():
        kind = type(value).__name__
        if name != "__init__" and (hasattr(object, name) or name in PYBIND11):
            continue  # what every object of Python has cannot be missing
        if kind in ("instancemethod", "function", "staticmethod"):
            if name == "__init__" or not is_base:
                found[name] = _Method
        elif kind == "property":
            found[name] = _Property
        elif _is_bound(value) or _is_bound(type(value)):
            found[name] = _Constant
    return found  # without static properties, which pybind11 does not let go


def _is_bound(class_: type) -> bool:
    """Whether pybind11 made a class."""
    return type(class_).__name__ == "pybind11_type"


class _Attribute:
    """Takes an attribute's place in its class."""

    def __init__(
        self, recording: Recording, paths: Mapping[type, str], name: str, original: Any
    ) -> None:
        self._recording = recording
        self._paths = paths
        self._name = name
        self._original = original

    def _path(self, owner: type) -> str:
        """`Class.attribute`, with TensorRT's class where Polygraphy derived its own."""
        class_ = next(base for base in owner.__mro__ if base in self._paths)
        return f"{self._paths[class_]}.{self._name}"


class _Method(_Attribute):
    def __get__(self, instance: Any, owner: type) -> Callable[..., Any]:
        bound = self._original.__get__(instance, owner)
        path = self._path(owner)
        self._recording.methods.add(path)
        selves = int(instance is None and not isinstance(self._original, staticmethod))

        def call(*arguments: Any, **keywords: Any) -> Any:
            try:
                result = bound(*arguments, **keywords)
            except TypeError:  # no overload takes these: Polygraphy tries another way
                raise
            except Exception:
                self._recording.called(path, arguments[selves:], keywords)
                raise
            self._recording.called(path, arguments[selves:], keywords)
            return result

        return call


class _Property(_Attribute):
    def __get__(self, instance: Any, owner: type) -> Any:
        value = self._original.__get__(instance, owner)
        self._recording.reads.add(self._path(owner))
        return value

    def __set__(self, instance: Any, value: Any) -> None:
        self._original.__set__(instance, value)
        self._recording.writes.add(self._path(type(instance)))


class _Constant(_Attribute):
    def __get__(self, instance: Any, owner: type) -> Any:
        self._recording.members.add(self._path(owner))
        return self._original


# Checking, in a process that imports the bindings to hold the recording against.


def _check_here(recording: Recording, bindings: Path) -> dict[str, str]:
    """What the recording uses and the bindings in a folder do not have."""
    sys.path.insert(0, str(bindings))
    module = importlib.import_module(BINDINGS)
    found = {name: "is missing" for name in recording.names if not _exported(module, name)}
    for name in recording.everything - recording.names:
        class_path, _, attribute = name.rpartition(".")
        class_ = _look_up(module, class_path)
        if not class_path or class_ is None:
            if not _exported(module, name.partition(".")[0]):
                found[name.partition(".")[0]] = "is missing"
        elif (complaint := _complaint(recording, name, class_, attribute)) is not None:
            found[name] = complaint
    for name, calls in recording.calls.items():
        if name in found or _look_up(module, name) is None:
            continue
        refused = [_describe(call) for call in sorted(calls) if not _accepts(module, name, call)]
        if refused:
            found[name] = f"does not take {' or '.join(refused)}"
    return dict(sorted(found.items()))


def _exported(module: types.ModuleType, name: str) -> bool:
    """Whether `from bindings import *` and `import __version__`, as in tensorrt, pass it on."""
    return hasattr(module, name) and (not name.startswith("_") or name == "__version__")


def _look_up(module: types.ModuleType, path: str) -> Any:
    """What a dotted path leads to. None: to nothing."""
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part, None)
    return found


def _complaint(recording: Recording, name: str, class_: Any, attribute: str) -> str | None:
    """What is wrong with a class's attribute, beyond the calls of it."""
    if not hasattr(class_, attribute):
        return "is missing"
    value = getattr(class_, attribute)
    is_property = isinstance(value, property)
    if name in recording.reads | recording.writes:
        if not is_property:
            return "is no property"
        return "is read-only" if name in recording.writes and value.fset is None else None
    if name in recording.members:
        return "is no constant" if is_property or inspect.isroutine(value) else None
    return None if callable(value) else "is no method"


def _accepts(module: types.ModuleType, name: str, call: Call) -> bool:
    """Whether any overload of a function, or of a class's method, takes a call."""
    count, keywords = call
    class_path, _, attribute = name.rpartition(".")
    if class_path:
        method = inspect.getattr_static(_look_up(module, class_path), attribute)
        count += not isinstance(method, staticmethod)
    for overload in overloads(_look_up(module, name)):
        by_keyword = overload[count:]
        if (
            count <= len(overload)
            and {*keywords} <= {name for name, _ in by_keyword}
            and {*keywords} >= {name for name, required in by_keyword if required}
        ):
            return True
    return False


def overloads(function: Any) -> list[list[tuple[str, bool]]]:
    """The parameters of each overload, and which are required.

    pybind11 says them in the docstring alone.
    """
    if inspect.isfunction(function):
        parameters = inspect.signature(function).parameters.values()
        return [[(each.name, each.default is each.empty) for each in parameters]]
    found = re.findall(r"^(?:\d+\. )?\w+\((.*)\) -> ", function.__doc__ or "", re.M)
    return [_parameters(text) for text in found]


def _parameters(text: str) -> list[tuple[str, bool]]:
    """Read `self: tensorrt.Builder, flags: int = 0`."""
    parameters: list[tuple[str, bool]] = []
    for part in _split(text):
        name, typed, rest = part.partition(": ")
        if part == "/":  # those before it take no keyword
            parameters = [("", required) for _, required in parameters]
        elif not typed or not name.isidentifier():
            raise ValueError(f"no parameter that can be read: {part} in {text}")
        else:
            # pybind11 calls what has no name arg0 and so on, and takes no keyword for it.
            unnamed = re.fullmatch(r"arg\d+", name)
            parameters.append(("" if unnamed else name, " = " not in rest))
    return parameters


def _split(text: str) -> list[str]:
    """Split at the commas that stand outside of brackets."""
    parts = [""]
    depth = 0
    for character in text:
        depth += (character in "[({<") - (character in "])}>")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def _describe(call: Call) -> str:
    count, keywords = call
    return f"({', '.join([*['...'] * count, *(f'{name}=' for name in keywords)])})"


if __name__ == "__main__":
    verb, path, *rest = sys.argv[1:]
    if verb == "record":
        _record_here(Path(path), rest)
    else:
        print(json.dumps(_check_here(Recording.read(Path(path)), Path(rest[0]))))
