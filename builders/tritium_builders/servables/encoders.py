"""Triton servable: from raw inputs to features, the readers and both encoders in one process.

Copied into a release as `model.py` of its component `encoders`. It runs the servables of the
components that read and encode, whose folders lie beside its own: what Triton would carry from
process to process between them stays where it is. Heads are models of their own, so that a new head
needs no encoder to be loaded again. Needs numpy only; what it runs brings its own libraries.

Every instance computes with few threads, and there are as many instances as the cores feed: no
thread waits for another one's share of a batch, and no two engines fight for a core. A request that
is alone has its text and its picture read side by side, where another instance's core is idle.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy.typing as npt

Tensors = dict[str, npt.NDArray[Any]]
Servable = Callable[[Sequence[Tensors]], list["Tensors | Exception"]]
BRANCHES = {
    "text": ("text_tokenizer", "text_encoder"),
    "image": ("image_decoder", "image_encoder"),
}
"""Modality -> the steps that read it, in order."""
COUNTS = "PROMETHEUS_MULTIPROC_DIR"
"""Names a folder of the server that started this process, for what its instances tell each other;
prometheus_client looks for it, too."""
REFUSED = "tritium.invalid_input "
"""How a step's refusal of an input starts; what the caller gets then is INVALID_ARGUMENT."""


@dataclass
class Work:
    """One request on its way."""

    tensors: Tensors
    failure: Exception | None = None


class Encoders:
    """Encodes the requests of one Triton batch, each with the modalities that it has.

    Args:
        folder: The component's version folder; the other components' folders lie beside its parent.
        spec: `threads` of each engine call, `streams` of them side by side, `max_batch` in each;
            `cores` that it shall compute on, where it shall keep to some: its `own`, those `beside`
            them that are another instance's, and a folder for `locks` that says who is at work;
            `steps`: step -> `model` (a component's name), `servable` (its class) and `spec` (its
            own specification).
        on_step: Told each step, how many requests it answered, how many seconds that took, and
            how many of the requests it refused.
    """

    def __init__(
        self,
        folder: Path,
        spec: dict[str, Any],
        on_step: Callable[[str, int, float, int], None] = lambda *_: None,
    ) -> None:
        repository = folder.parents[1]
        cores = spec.get("cores")
        if cores:
            # Before anything starts threads of its own: they inherit it.
            os.sched_setaffinity(0, cores["own"])
        how = {name: spec[name] for name in ("threads", "streams", "max_batch")}
        self._steps = {
            name: _load(repository / step["model"], step, how)
            for name, step in spec["steps"].items()
        }
        self._on_step = on_step
        self._beside = ThreadPoolExecutor(1, initializer=partial(_keep_to, cores))
        self._own_core, self._other_core = CoreAtWork(None), CoreAtWork(None)
        if cores and "locks" in cores:
            self._own_core = CoreAtWork(Path(cores["locks"]) / f"core-{cores['own'][0]}")
            self._other_core = CoreAtWork(Path(cores["locks"]) / f"core-{cores['beside'][0]}")

    def __call__(self, requests: Sequence[Tensors]) -> list[Tensors | Exception]:
        """Run the steps of every modality, on the requests that have it.

        Args:
            requests: Each with `text`, BYTES [N, 1], or `image`, BYTES [N, 1], or both.

        Returns:
            For each request what its steps gave, the features of its modalities among it; or why
            it was refused.
        """
        work = [Work(dict(request)) for request in requests]
        with self._own_core:
            self._read(work)
        return [one.failure or one.tensors for one in work]

    def _read(self, work: Sequence[Work]) -> None:
        text, image = ([one for one in work if name in one.tensors] for name in BRANCHES)
        if len(work) == 1 and text and image:
            with self._other_core as idle:
                if idle:
                    self._branch_both(work[0])
                    return
        self._branch("text", text)
        self._branch("image", image)

    def _branch_both(self, work: Work) -> None:
        """For a request alone: its text is encoded on another core while its picture is decoded."""
        other = Work(dict(work.tensors))
        reading = self._beside.submit(self._branch, "text", [other])
        self._branch("image", [work])
        reading.result()
        work.tensors.update(other.tensors)
        work.failure = other.failure or work.failure

    def _branch(self, modality: str, work: Sequence[Work]) -> None:
        for step in BRANCHES[modality]:
            self._run(step, work)

    def _run(self, step: str, work: Iterable[Work]) -> None:
        """Run one step on the requests that no step before has refused."""
        ready = [one for one in work if one.failure is None]
        if not ready:
            return
        refusals = 0
        began = time.perf_counter()
        answers = self._steps[step]([one.tensors for one in ready])
        for one, answer in zip(ready, answers, strict=True):
            if isinstance(answer, Exception):
                refused = str(answer).startswith(REFUSED)
                refusals += refused
                one.failure = answer if refused else RuntimeError(f"{step}: {answer!r}")
            else:
                one.tensors.update(answer)
        self._on_step(step, len(ready), time.perf_counter() - began, refusals)


class CoreAtWork:
    """Says to the other instances that a core is at work, with a lock that ends with its holder.

    Entering it tells whether nobody else had said so.

    Args:
        file: One for each core; None where nobody has to be told.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = None
        if file is not None:
            self._file = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            weakref.finalize(self, os.close, self._file)

    def __enter__(self) -> bool:
        if self._file is None:
            return True
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)


def _keep_to(cores: dict[str, Any] | None) -> None:
    """The thread beside an instance's own computes on another core than that."""
    if cores:
        os.sched_setaffinity(0, cores["beside"])


def share_cores(instance: str, threads: int) -> dict[str, Any] | None:
    """Which cores an instance keeps to: the next ones for each instance, all in turn.

    Args:
        instance: As Triton names it: its number comes last.
        threads: Of each engine call; 0 for all, which keeps to none.

    Returns:
        The cores of its own thread, and of the thread beside that; None where there is nothing to
        share out.
    """
    cores = sorted(os.sched_getaffinity(0))
    if not 0 < threads < len(cores):
        return None
    first = int(instance.rpartition("_")[2]) * threads
    own = [cores[(first + index) % len(cores)] for index in range(threads)]
    beside = [cores[(first + threads + index) % len(cores)] for index in range(threads)]
    return {"own": own, "beside": beside}


def _load(folder: Path, step: dict[str, Any], how: dict[str, int]) -> Servable:
    """Load a component's servable from its own folder."""
    version = folder / "1"
    found = importlib.util.spec_from_file_location(folder.name, version / "model.py")
    if found is None or found.loader is None:
        raise ImportError(f"{version / 'model.py'} cannot be loaded")
    module = importlib.util.module_from_spec(found)
    sys.modules[folder.name] = module  # dataclasses look their module up
    found.loader.exec_module(module)
    servable: Servable = getattr(module, step["servable"])(version, {**step["spec"], **how})
    return servable


class TritonPythonModel:
    """Triton's side: tensors in, tensors or errors out.

    Source: triton-inference-server/python_backend, README, "Usage".
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Load the components that the config's `spec` parameter names."""
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        spec = json.loads(config["parameters"]["spec"]["string_value"])
        if spec["pin"]:
            spec["cores"] = share_cores(args["model_instance_name"], spec["threads"])
            if spec["cores"] and COUNTS in os.environ:
                spec["cores"]["locks"] = os.environ[COUNTS]
        self._servable = Encoders(folder, spec, step_metrics(spec["steps"]))
        self._inputs = [tensor["name"] for tensor in config["input"]]
        self._outputs = [tensor["name"] for tensor in config["output"]]

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer one batch of requests, each on its own."""
        import triton_python_backend_utils as pb

        def read(request: Any) -> Tensors:
            tensors = ((name, pb.get_input_tensor_by_name(request, name)) for name in self._inputs)
            return {name: tensor.as_numpy() for name, tensor in tensors if tensor is not None}

        def write(answer: Tensors | Exception) -> Any:
            if isinstance(answer, Exception):
                refused = str(answer).startswith(REFUSED)
                code = pb.TritonError.INVALID_ARG if refused else pb.TritonError.INTERNAL
                return pb.InferenceResponse(error=pb.TritonError(str(answer), code))
            found = [pb.Tensor(name, answer[name]) for name in self._outputs if name in answer]
            return pb.InferenceResponse(found)

        return [write(answer) for answer in self._servable([read(request) for request in requests])]


class StepMetrics:
    """Counts what every step does, for the server that started this process.

    In files (prometheus_client's multiprocess mode). Triton's own custom metrics travel under a
    lock; an instance that is killed while it holds that lock takes tritonserver down with it.

    Args:
        steps: Step -> its description, whose `model` becomes a label.
    """

    def __init__(self, steps: dict[str, Any]) -> None:
        from prometheus_client import Counter

        self._counters: dict[str, list[Any]] = {step: [] for step in steps}
        for name, documentation in (
            ("requests", "Requests that a step of the graph has answered or refused"),
            ("executions", "Batches that a step of the graph has computed"),
            ("seconds", "Time that a step of the graph has computed"),
            ("refused", "Requests whose input a step of the graph has refused"),
        ):
            counter = Counter(f"tritium_step_{name}", documentation, ["step", "model"])
            for step, described in steps.items():
                self._counters[step].append(counter.labels(step, described["model"]))

    def __call__(self, step: str, requests: int, seconds: float, refused: int) -> None:
        """Count one execution of a step."""
        for counter, value in zip(
            self._counters[step], (requests, 1, seconds, refused), strict=True
        ):
            counter.inc(value)


def step_metrics(steps: dict[str, Any]) -> Callable[[str, int, float, int], None]:
    """What counts the steps: nothing where no server reads the counts."""
    if COUNTS in os.environ:
        return StepMetrics(steps)
    return lambda *_: None
