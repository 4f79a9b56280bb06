"""The verb `tritium build`, and with `--check` all of a TensorRT build that needs no GPU."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tritium_builders.errors import TritiumError, needs

if TYPE_CHECKING:
    from rich.console import Console

    from tritium_builders.tensorrt.options import TensorRTOptions


class BuildTarget(str, Enum):
    """What can be built for; auto is the CPU's faster one; tensorrt needs a GPU, or --check."""

    auto = "auto"
    openvino = "openvino"
    onnxruntime = "onnxruntime"
    tensorrt = "tensorrt"


class BuildPrecision(str, Enum):
    """Of the engines; fp16 is for tensorrt, auto for CPUs."""

    auto = "auto"
    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"
    int8 = "int8"


class HardwareCompatibility(str, Enum):
    """Which other GPUs a plan runs on."""

    none = "none"
    same_compute_capability = "same_compute_capability"
    ampere_plus = "ampere_plus"


TENSORRT = "TensorRT"
"""The panel of options that only this target has."""


def build_command(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.", show_default=False)],
    target: Annotated[BuildTarget, typer.Option(help="What to compile for.")] = BuildTarget.auto,
    precision: Annotated[
        BuildPrecision,
        typer.Option(
            help="Of the engines: auto is the fastest on this CPU that passes its gates; fp16 is "
            "for tensorrt only."
        ),
    ] = (BuildPrecision.fp32),
    repository: Annotated[Path, typer.Option(help="The Triton model repository.")] = Path(
        "model_repository"
    ),
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build even when this release is already there.")
    ] = False,
    sign_key: Annotated[
        Path | None,
        typer.Option(help="Sign the release with this key, from `tritium keygen`."),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Do all that needs no GPU, build ahead of time with TensorRT for RTX, publish "
            "nothing.",
            rich_help_panel=TENSORRT,
        ),
    ] = False,
    compute_capability: Annotated[
        list[str] | None,
        typer.Option(
            help="With --check: build ahead of time for these GPUs; may be repeated "
            "(default: 8.0, 8.6, 8.9).",
            rich_help_panel=TENSORRT,
            show_default=False,
        ),
    ] = None,
    buckets: Annotated[
        str | None,
        typer.Option(
            help="Text lengths with a profile each, such as 16,32,64,128 (default: powers of two "
            "up to the bundle's max_length).",
            rich_help_panel=TENSORRT,
            show_default=False,
        ),
    ] = None,
    max_batch: Annotated[
        int, typer.Option(min=1, help="Largest batch.", rich_help_panel=TENSORRT)
    ] = 32,
    workspace_mib: Annotated[
        int | None,
        typer.Option(min=1, help="Scratch memory of a layer.", rich_help_panel=TENSORRT),
    ] = None,
    timing_cache: Annotated[
        Path | None,
        typer.Option(help="Read, and written for the next build.", rich_help_panel=TENSORRT),
    ] = None,
    hardware_compatibility: Annotated[
        HardwareCompatibility,
        typer.Option(help="Other GPUs that run the plans.", rich_help_panel=TENSORRT),
    ] = HardwareCompatibility.none,
    version_compatible: Annotated[
        bool,
        typer.Option(
            "--version-compatible",
            help="Later TensorRT releases run the plans, too.",
            rich_help_panel=TENSORRT,
        ),
    ] = False,
    cuda_graphs: Annotated[
        bool,
        typer.Option("--cuda-graphs", help="Launch CUDA graphs.", rich_help_panel=TENSORRT),
    ] = False,
    output_copy_stream: Annotated[
        bool,
        typer.Option(
            "--output-copy-stream",
            help="Copy outputs in their own stream.",
            rich_help_panel=TENSORRT,
        ),
    ] = False,
    instances: Annotated[
        int, typer.Option(min=1, help="Execution contexts a GPU.", rich_help_panel=TENSORRT)
    ] = 1,
    optimisation_level: Annotated[
        int | None,
        typer.Option(min=0, max=5, help="Builder effort.", rich_help_panel=TENSORRT),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print release.json, or what --check found.")
    ] = False,
) -> None:
    """Build a bundle: export, compile, verify against PyTorch, publish as a release.

    Nothing is published unless every stage answers what PyTorch answers.

    Examples:

        tritium build bundles/openmoji

        tritium build bundles/openmoji --target onnxruntime --repository /srv/models

        tritium build bundles/openmoji --precision auto

        tritium build bundles/openmoji --target tensorrt --precision fp16 --buckets 16,32,64,128

        tritium build bundles/openmoji --target tensorrt --precision int8 --check

    Exit codes: 0 built, or already there; 1 refused or failed, and nothing was published;
    2 wrong usage.
    """  # fmt: skip
    _require_platform()
    chosen = _tensorrt_options(
        target,
        {
            "buckets": buckets,
            "max_batch": max_batch,
            "workspace_mib": workspace_mib,
            "timing_cache": timing_cache,
            "hardware_compatibility": hardware_compatibility.value,
            "version_compatible": version_compatible,
            "cuda_graphs": cuda_graphs,
            "output_copy_stream": output_copy_stream,
            "instances": instances,
            "optimisation_level": optimisation_level,
        },
    )
    if check or compute_capability:
        if not (check and target is BuildTarget.tensorrt):
            raise typer.BadParameter(
                "--check is for --target tensorrt, and --compute-capability for --check"
            )
        if precision is BuildPrecision.auto:
            raise typer.BadParameter("--precision auto is for CPUs; --check takes one by its name")
        _check_tensorrt(bundle, precision.value, chosen, compute_capability, as_json)
    else:
        arguments = {
            "target": target.value, "precision": precision.value, "repository": repository,
            "tensorrt": chosen, "rebuild": rebuild,
        }  # fmt: skip
        _build(bundle, arguments, sign_key, as_json)


def _tensorrt_options(target: BuildTarget, given: dict[str, Any]) -> TensorRTOptions | None:
    """The options of the target tensorrt; None, and none given, for the others."""
    from tritium_builders.tensorrt.options import TensorRTOptions, parse_buckets

    if given["buckets"] is not None:
        given["buckets"] = parse_buckets(given["buckets"])
    options = TensorRTOptions(**given)
    if target is BuildTarget.tensorrt:
        return options
    if options != TensorRTOptions():
        raise typer.BadParameter(f"{options.arguments()[0]} is for --target tensorrt")
    return None


def _build(bundle: Path, arguments: dict[str, Any], sign_key: Path | None, as_json: bool) -> None:
    from rich.console import Console

    from tritium_builders.inspect import accuracy_line, casts_table, choice_line, parity_table

    console = Console(stderr=as_json)
    with needs("build"):
        from tritium_builders.builder import build
        from tritium_builders.signing import read_private_key, sign_release
    if sign_key is not None:
        read_private_key(sign_key)  # before the work, not after it
    with _Progress(console) as progress:
        release = build(bundle, progress=progress, **arguments)
    if sign_key is not None:
        sign_release(arguments["repository"], release.app, release.number, sign_key)
    folder = arguments["repository"] / release.alias(release.entry_points[0])
    if as_json:
        sys.stdout.write(release.model_dump_json(indent=2) + "\n")
        return
    if not progress.steps:
        number = release.number
        console.print(f"{release.app} release {number} is already built: {folder / str(number)}")
        return
    if release.choice is not None:
        console.print(choice_line(release.choice))
    console.print(parity_table(release.parity))
    if release.accuracy is not None:
        if release.casts:
            console.print(casts_table(release.casts))
        console.print(accuracy_line(release.precision, release.accuracy))
    console.print(progress.spent())
    place = f"{release.app} release {release.number}: {folder / str(release.number)}"
    console.print(f"published {place}", style="bold")


def _check_tensorrt(
    bundle: Path,
    precision: str,
    options: TensorRTOptions | None,
    compute_capability: list[str] | None,
    as_json: bool,
) -> None:
    from rich.console import Console

    console = Console(stderr=as_json)
    with needs("tensorrt"):
        from tritium_builders.bundle import Bundle
        from tritium_builders.tensorrt.check import (
            COMPUTE_CAPABILITIES,
            check_tensorrt,
            parse_capability,
        )
        from tritium_builders.tensorrt.report import check_report
    capabilities: Sequence[tuple[int, int]] = COMPUTE_CAPABILITIES
    if compute_capability:
        capabilities = [parse_capability(text) for text in compute_capability]
    with _Progress(console) as progress:
        report = check_tensorrt(
            Bundle.load(bundle),
            precision=precision,  # type: ignore[arg-type]  # BuildPrecision has them, but for auto
            options=options,
            compute_capabilities=capabilities,
            progress=progress,
        )
    if as_json:
        sys.stdout.write(report.model_dump_json(indent=2) + "\n")
        return
    console.print(check_report(report))
    console.print(progress.spent())
    console.print(
        "NVIDIA's parser and builder take every graph and profile. Not shown here: that the plans "
        "run on a GPU, and how fast; nothing was published.",
    )


class _Progress:
    """Shows which step is under way, and remembers how long each took."""

    def __init__(self, console: Console) -> None:
        self.steps: dict[str, float] = {}
        self._status = console.status("loading the bundle")
        self._began = self._ended = time.perf_counter()

    def __enter__(self) -> _Progress:
        self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()
        self._ended = time.perf_counter()

    def __call__(self, step: str, item: str) -> None:
        self.steps.setdefault(step, time.perf_counter())
        self._status.update(f"{step} {item}")

    def spent(self) -> str:
        """Seconds of each step."""
        marks = [self._began, *self.steps.values(), self._ended]
        spent = zip(["load", *self.steps], marks, marks[1:], strict=False)
        return ", ".join(f"{name} {end - begin:.1f} s" for name, begin, end in spent)


def _require_platform() -> None:
    """Refuse machines that the builders do not run on, in one line.

    Raises:
        TritiumError: naming what was found and what is needed.
    """
    found = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    supported = sys.platform == "linux" and platform.machine() == "x86_64"
    if not (supported and sys.version_info[:2] in {(3, 11), (3, 12)}):
        raise TritiumError(f"needs Linux x86-64 and Python 3.11 or 3.12; this is {found}")
