"""A static linter for a model repository: configs that do not fit each other, or their files.

Triton reads a config only when it loads the model, and says what it dislikes one model at a time;
much of it, such as a text length that no TensorRT profile covers, it notices at the first request.
This reads every config and plan record, starts nothing, and names both sides of each mismatch.

Source: https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_configuration.md
and ValidateEnsembleConfig in https://github.com/triton-inference-server/core
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations, pairwise, product
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from pydantic import ValidationError
from tritonclient.grpc import model_config_pb2 as pb

from tritium_builders.components import CONFIG, VERSION
from tritium_builders.errors import CompileError, TritiumError
from tritium_builders.inner_ensembles import inner_ensembles
from tritium_builders.release import PlanRecord
from tritium_builders.tensorrt.configs import PLAN, RECORD
from tritium_builders.tensorrt.profiles import Profile, check_profiles, covers
from tritium_client import contract

MODEL_FILES = {"python": "model.py", "tensorrt": PLAN}
"""Backend -> what it opens in a version folder when the config names nothing else."""
_GROUP = pb.ModelInstanceGroup
KINDS = {"python": _GROUP.KIND_CPU, "tensorrt": _GROUP.KIND_GPU}
"""Backend -> where its instances run."""


@dataclass(frozen=True)
class Finding:
    """One thing in a repository that does not fit."""

    code: str
    model: str
    what: str
    """Both sides, with their values."""
    fix: str

    def as_dict(self) -> dict[str, str]:
        """The finding as a JSON object."""
        return asdict(self)

    def __str__(self) -> str:
        return " ".join(f"{self.model}: {self.code}: {self.what}; {self.fix}".split())


@dataclass(frozen=True)
class Lint:
    """What was found in a repository."""

    findings: tuple[Finding, ...]
    models: int
    """How many models there are."""


@dataclass(frozen=True)
class _Model:
    """One model whose config could be read."""

    name: str
    config: Any
    """pb.ModelConfig"""
    versions: Mapping[int, Sequence[str]]
    """Version folder -> what lies in it, ascending."""
    profiles: Sequence[Profile] = ()
    """Of its TensorRT plan: each with every input, of the config's ranks and fixed sizes."""
    plan_problem: str = ""
    """Why there are no such profiles."""

    @property
    def is_ensemble(self) -> bool:
        return bool(self.config.platform == "ensemble" or self.config.ensemble_scheduling.step)


_Models = Mapping[str, _Model | None]
"""Name -> model; None for one whose config cannot be read."""
_Check = Callable[[_Model, _Models], Iterator[str]]
"""Says, for one model, what does not fit."""


def lint_repository(repository: Path) -> Lint:
    """Find what does not fit in a model repository. Nothing is started, and nothing changed.

    Args:
        repository: A Triton model repository.

    Raises:
        TritiumError: when it is no folder, or holds no model.
    """
    try:
        folders = sorted(path for path in repository.iterdir() if path.is_dir())
    except OSError as error:
        raise TritiumError(
            f"{repository}: cannot be read as a folder ({error.strerror}); give a model repository"
        ) from error
    findings: list[Finding] = []
    models: dict[str, _Model | None] = {}
    for folder in folders:
        try:
            models[folder.name] = _read(folder)
        except (FileNotFoundError, NotADirectoryError):
            continue  # an interrupted build left it behind; `_missing_steps` finds who names it
        except (OSError, ValueError, text_format.ParseError) as error:
            models[folder.name] = None
            what = f"{CONFIG} cannot be read: {_problem(error)}"
            findings.append(Finding("unreadable-config", folder.name, what, "publish it again"))
    if not models:
        raise TritiumError(f"{repository}: holds no model's {CONFIG}; give a model repository")
    for model in filter(None, models.values()):
        checked = (model, *_inside(model, models))
        for code, check, fix in RULES:
            found = dict.fromkeys(what for one in checked for what in check(one, models))
            findings += [Finding(code, model.name, what, fix) for what in found]
    return Lint(tuple(findings), len(models))


def _inside(model: _Model, models: _Models) -> list[_Model]:
    """The steps inside a component of encoders have to fit each other as an ensemble's."""
    configs = {name: one.config for name, one in models.items() if one is not None}
    return [
        replace(model, config=inner, profiles=(), plan_problem="")
        for inner in inner_ensembles(model.config, configs)
    ]


def _read(folder: Path) -> _Model:
    config = text_format.Parse((folder / CONFIG).read_text(encoding="utf-8"), pb.ModelConfig())
    names = [path.name for path in folder.iterdir() if path.is_dir()]
    numbers = sorted(int(name) for name in names if re.fullmatch(r"[1-9][0-9]{0,17}", name))
    inside = {number: (folder / str(number)).iterdir() for number in numbers}
    versions = {number: [path.name for path in paths] for number, paths in inside.items()}
    model = _Model(folder.name, config, versions)
    if config.backend != "tensorrt" or int(VERSION) not in versions:
        return model
    try:
        record = (folder / VERSION / RECORD).read_bytes()
        profiles = PlanRecord.model_validate_json(record).profiles
        check_profiles({tensor.name: (-1, *tensor.dims) for tensor in config.input}, profiles)
    except (OSError, ValueError, CompileError) as error:
        return replace(model, plan_problem=f"{VERSION}/{RECORD}: {_problem(error)}")
    return replace(model, profiles=profiles)


def _problem(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(getattr(error, "strerror", None) or error)


def _steps(model: _Model, models: _Models) -> list[tuple[str, Any, _Model | None]]:
    """An ensemble's steps: in words, its pb.Step, and its model if that can be read."""
    steps = enumerate(model.config.ensemble_scheduling.step, start=1)
    return [(f"step {n} ({one.model_name})", one, models.get(one.model_name)) for n, one in steps]


@dataclass(frozen=True)
class _End:
    """One end of an ensemble's tensor."""

    where: str
    step: int | None
    """None for the ensemble's own inputs and outputs."""
    tensor: Any
    """pb.ModelInput or pb.ModelOutput; None when the step's model has no such tensor."""


_Ends = Mapping[str, Sequence[_End]]
"""Ensemble tensor -> who gives it, or who reads it."""


def _flow(model: _Model, models: _Models) -> tuple[_Ends, _Ends]:
    """Who gives each tensor of an ensemble, and who reads it."""
    gives: defaultdict[str, list[_End]] = defaultdict(list)
    reads: defaultdict[str, list[_End]] = defaultdict(list)
    if not model.is_ensemble:
        return gives, reads
    for tensor in model.config.input:
        gives[tensor.name].append(_End("the ensemble's input", None, tensor))
    for index, (where, step, inner) in enumerate(_steps(model, models)):
        inputs = {tensor.name: tensor for tensor in inner.config.input} if inner else {}
        outputs = {tensor.name: tensor for tensor in inner.config.output} if inner else {}
        for name, source in sorted(step.input_map.items()):
            reads[source].append(_End(f"{where} input {name}", index, inputs.get(name)))
        for name, target in sorted(step.output_map.items()):
            gives[target].append(_End(f"{where} output {name}", index, outputs.get(name)))
    for tensor in model.config.output:
        reads[tensor.name].append(_End("the ensemble's output", None, tensor))
    return gives, reads


def _missing_steps(model: _Model, models: _Models) -> Iterator[str]:
    for where, step, _ in _steps(model, models):
        if step.model_name not in models:
            yield f"{where}: the repository holds no {step.model_name}/{CONFIG}"


def _names(model: _Model, models: _Models) -> Iterator[str]:
    named = model.config.name
    if named and named != model.name:
        yield f"{CONFIG} names the model {named}, and its folder {model.name}"
    for where, step, inner in _steps(model, models):
        if inner is None:
            continue
        inputs = {tensor.name: tensor.optional for tensor in inner.config.input}
        outputs = [tensor.name for tensor in inner.config.output]
        for name in sorted(set(step.input_map) - set(inputs)):
            yield f"{where}: input_map names {name}, and the model's inputs are {_join(inputs)}"
        for name in sorted(set(step.output_map) - set(outputs)):
            yield f"{where}: output_map names {name}, and the model's outputs are {_join(outputs)}"
        for name, optional in inputs.items():
            if not optional and name not in step.input_map:
                mapped = _join(sorted(step.input_map))
                yield f"{where}: input_map has {mapped}, and the model needs {name}"


def _givers_and_readers(model: _Model, models: _Models) -> Iterator[str]:
    gives, reads = _flow(model, models)
    for name in sorted({*gives, *reads}):
        givers = [end.where for end in gives.get(name, ())]
        readers = [end.where for end in reads.get(name, ())]
        if not givers:
            yield f"tensor {name} is read by {_join(readers)}, and given by none of {_join(gives)}"
        if len(givers) > 1:
            yield f"tensor {name} is given {len(givers)} times, by {_join(givers)}"
        if not readers:  # Triton refuses it
            yield f"tensor {name} is given by {_join(givers)}, and read by none of {_join(reads)}"


def _joints(model: _Model, models: _Models) -> Iterator[tuple[str, _End, _End]]:
    """Every tensor with a giver and a reader that are both known."""
    gives, reads = _flow(model, models)
    for name, givers in gives.items():
        for giver in givers:
            for reader in reads.get(name, ()):
                if giver.tensor is not None and reader.tensor is not None:
                    yield name, giver, reader


def _types(model: _Model, models: _Models) -> Iterator[str]:
    for name, giver, reader in _joints(model, models):
        one, other = giver.tensor.data_type, reader.tensor.data_type
        if one != other:
            given, read = _word(pb.DataType, one), _word(pb.DataType, other)
            yield f"tensor {name}: {giver.where} is {given}, and {reader.where} is {read}"


def _shapes(model: _Model, models: _Models) -> Iterator[str]:
    for name, giver, reader in _joints(model, models):
        given, read = list(giver.tensor.dims), list(reader.tensor.dims)
        if not _agree(given, read):
            yield f"tensor {name}: {giver.where} has dims {given}, and {reader.where} has {read}"


def _agree(one: Sequence[int], other: Sequence[int]) -> bool:
    """Equal ranks and sizes; -1 stands for any size."""
    return len(one) == len(other) and all(
        size == wanted or -1 in (size, wanted) for size, wanted in zip(one, other, strict=True)
    )


def _ancestors(gives: _Ends, reads: _Ends, count: int) -> list[set[int]]:
    """For each step the steps that it waits for, directly or not."""
    before: list[set[int]] = [set() for _ in range(count)]
    for name, readers in reads.items():
        givers = {end.step for end in gives.get(name, ()) if end.step is not None}
        for reader in readers:
            if reader.step is not None:
                before[reader.step] |= givers
    for middle, index in product(range(count), repeat=2):
        if middle in before[index]:
            before[index] |= before[middle]
    return before


def _cycles(model: _Model, models: _Models) -> Iterator[str]:
    steps = [where for where, _, _ in _steps(model, models)]
    before = _ancestors(*_flow(model, models), len(steps))
    circles = {
        tuple(sorted(other for other in waits if index in before[other]))
        for index, waits in enumerate(before)
        if index in waits
    }
    for circle in sorted(circles):
        yield f"{' and '.join(steps[index] for index in circle)} wait for their own output"
    ways, seen = [[model.name]], set[str]()
    while ways:  # through the ensembles within ensembles
        way = ways.pop()
        last = models.get(way[-1])
        for _, step, _ in _steps(last, models) if last else ():
            if step.model_name == model.name == min(way):
                yield f"the ensemble contains itself: {' -> '.join([*way, model.name])}"
            elif step.model_name not in seen:
                seen.add(step.model_name)
                ways.append([*way, step.model_name])


def _parallel_steps(model: _Model, models: _Models) -> Iterator[str]:
    """Finds what docs/decisions/steps-come-one-after-the-other.md rules out."""
    steps = [where for where, _, _ in _steps(model, models)]
    gives, reads = _flow(model, models)
    before = _ancestors(gives, reads, len(steps))
    # Steps that wait for ever are found by other rules; they are in flight with nobody.
    stuck = {index for index, waits in enumerate(before) if index in waits}
    ends = [end for name in set(reads) - set(gives) for end in reads[name]]
    stuck |= {end.step for end in ends if end.step is not None}
    running = [index for index, waits in enumerate(before) if not stuck & {index, *waits}]
    for one, other in combinations(running, 2):
        if one not in before[other] and other not in before[one]:
            yield f"{steps[one]} and {steps[other]} may be in flight at once: neither waits"


def _unpinned(model: _Model, models: _Models) -> Iterator[str]:
    steps = _steps(model, models)
    for where, step, _ in steps:
        if step.model_version < 1:
            yield f"{where} has model_version {step.model_version}, whichever is the latest"
    if len(steps) == 1 and steps[0][2] is not None and steps[0][2].is_ensemble:
        versions = model.config.version_policy.specific.versions
        if len(versions) != 1:
            yield f"the alias of {steps[0][2].name} names {_join(versions)} as its specific version"


def _missing_versions(model: _Model, models: _Models) -> Iterator[str]:
    lacking = sorted(set(model.config.version_policy.specific.versions) - set(model.versions))
    if lacking:
        yield f"version_policy names {_join(lacking)}, and the folders are {_join(model.versions)}"
    elif not model.versions:
        yield "there is no version folder"
    file = model.config.default_model_filename or MODEL_FILES.get(model.config.backend)
    for version, files in model.versions.items():
        if file and not model.is_ensemble and file not in files:
            yield f"version folder {version} has no {file}, which its backend opens"
    for where, step, inner in _steps(model, models):
        pinned = step.model_version
        if inner and inner.versions and pinned > 0 and pinned not in _served(inner):
            served = f"{_join(_served(inner))} of the folders {_join(inner.versions)}"
            yield f"{where} is pinned to version {pinned}, and the model serves {served}"


def _served(model: _Model) -> Sequence[int]:
    policy = model.config.version_policy
    if policy.HasField("specific"):
        return sorted(set(model.versions) & set(policy.specific.versions))
    if policy.HasField("all"):
        return list(model.versions)
    return list(model.versions)[-(policy.latest.num_versions or 1) :]


def _batches(model: _Model, models: _Models) -> Iterator[str]:
    most = model.config.max_batch_size
    if most < 0:
        yield f"max_batch_size is {most}, and the least is 0"
    for size in model.config.dynamic_batching.preferred_batch_size:
        if not 0 < size <= most:
            yield f"dynamic_batching prefers batches of {size}, and max_batch_size is {most}"
    for where, _, inner in _steps(model, models):
        takes = inner.config.max_batch_size if inner else most
        if most > takes or (most == 0) != (takes == 0):
            yield f"max_batch_size is {most}, and that of {where} is {takes}"


def _instances(model: _Model, _: _Models) -> Iterator[str]:
    groups, backend = model.config.instance_group, model.config.backend
    if not groups and not model.is_ensemble:
        yield "there is no instance group, and so KIND_AUTO"
    for index, group in enumerate(groups):
        if group.kind == _GROUP.KIND_AUTO or group.kind != KINDS.get(backend, group.kind):
            kind = _word(_GROUP.Kind, group.kind)
            yield f"instance group {index} is {kind}, and the backend {backend}"


def _profiles(model: _Model, _: _Models) -> Iterator[str]:
    if model.plan_problem:
        yield model.plan_problem
    has = [str(index) for index in range(len(model.profiles))]
    for index, group in enumerate(model.config.instance_group):
        named = set(group.profile) or {"0"}  # what the backend takes when none is named
        if has and named != set(has):
            shown = _join(sorted(named))
            yield f"instance group {index} names profiles {shown}, and the plan has {_join(has)}"
    most = model.config.max_batch_size
    for index, profile in enumerate(model.profiles):
        for name, shape in profile.items():
            low, high = shape.min[0], shape.max[0]
            if low > 1 or high < most:
                where = f"profile {index}, input {name}"
                yield f"{where} takes batches of {low} to {high}, and max_batch_size is {most}"


def _lengths(model: _Model, models: _Models) -> Iterator[str]:
    """Finds text lengths that a tokenizer gives and no profile covers."""
    over_tokens = [tensor.name for tensor in model.config.input if -1 in tensor.dims[:1]]
    shapes = [profile[name] for profile in model.profiles for name in over_tokens]
    spans = dict.fromkeys((shape.min[1], shape.max[1]) for shape in shapes)
    covered = _join(f"{low}" if low == high else f"{low} to {high}" for low, high in spans)
    for ensemble in filter(None, models.values()) if spans else ():
        beside = [inner for _, _, inner in _steps(ensemble, models) if inner]
        for tokenizer in beside if model.name in [inner.name for inner in beside] else ():
            if contract.INPUT_IDS not in [tensor.name for tensor in tokenizer.config.output]:
                continue
            lengths = _token_lengths(tokenizer.config)
            lacking = [size for size in lengths if not any(a <= size <= b for a, b in spans)]
            if lacking or not lengths:
                given = f"gives {_join(lacking)} tokens" if lacking else "has no buckets"
                yield f"{tokenizer.name} {given}, and the profiles cover {covered} tokens"


def _token_lengths(tokenizer: Any) -> list[int]:
    """The lengths that a tokenizer gives; none when no buckets bound them."""
    spec = tokenizer.parameters.get("spec")
    try:
        fields = json.loads(spec.string_value) if spec else {}
        buckets = sorted(fields.get("buckets", ()))
        longest = fields.get("max_length", max(buckets, default=0))
        given = [size for below, size in pairwise([0, *buckets]) if below < longest]
        # Texts that no bucket holds keep their lengths: the shortest of them, and the longest.
        return [*given, given[-1] + 1, longest] if given and given[-1] < longest else given
    except (ValueError, TypeError, AttributeError, RecursionError):
        return []


def _trials(model: _Model, _: _Models) -> Iterator[str]:
    """Finds shapes to be tried before the first request that no request may have."""
    trials: list[tuple[str, int, dict[str, list[int]], dict[str, int]]] = []
    for warmup in model.config.model_warmup:
        shapes = {name: list(tensor.dims) for name, tensor in warmup.inputs.items()}
        types = {name: tensor.data_type for name, tensor in warmup.inputs.items()}
        trials.append((f"model_warmup {warmup.name}", warmup.batch_size, shapes, types))
    for index, graph in enumerate(model.config.optimization.cuda.graph_spec):
        shapes = {name: list(shape.dim) for name, shape in graph.input.items()}
        trials.append((f"graph_spec {index}", graph.batch_size, shapes, {}))
    for where, batch, shapes, types in trials:
        misfits = [*_misfits(model.config, batch, shapes, types)]
        yield from (f"{where} {misfit}" for misfit in misfits)
        profiles = [] if misfits else model.profiles
        batched = {name: [batch, *dims] for name, dims in shapes.items()}
        if profiles and not any(covers(profile, batched) for profile in profiles):
            shown = _join(f"{name} {shape}" for name, shape in sorted(batched.items()))
            yield f"{where} is {shown}, and none of the {len(profiles)} profiles covers it"


def _misfits(
    config: Any, batch: int, shapes: Mapping[str, list[int]], types: Mapping[str, int]
) -> Iterator[str]:
    inputs = {tensor.name: tensor for tensor in config.input}
    required = {name for name, tensor in inputs.items() if not tensor.optional}
    if not required <= set(shapes) <= set(inputs):
        yield f"gives inputs {_join(sorted(shapes))}, and the model has {_join(sorted(inputs))}"
    for name in sorted(set(shapes) & set(inputs)):
        tensor = inputs[name]
        given, wanted = types.get(name, tensor.data_type), tensor.data_type
        if given != wanted:
            one, other = _word(pb.DataType, given), _word(pb.DataType, wanted)
            yield f"gives input {name} as {one}, and the model takes {other}"
        if min(shapes[name], default=1) < 1 or not _agree(shapes[name], tensor.dims):
            yield f"gives input {name} dims {shapes[name]}, and the model has {list(tensor.dims)}"
    most = config.max_batch_size
    if not (0 < batch <= most or (most == 0 and batch <= 1)):
        yield f"has batch_size {batch}, and max_batch_size is {most}"


def _join(values: Iterable[object]) -> str:
    return ", ".join(map(str, values)) or "none"


def _word(kind: Any, value: int) -> str:
    """The name of an enum's value; a config may hold a number that has none."""
    return str(kind.Name(value) if value in kind.values() else value)


RULES: tuple[tuple[str, _Check, str], ...] = (
    ("missing-step", _missing_steps, "publish that model, or the release again"),
    ("name-mismatch", _names, "use the name that the other side has"),
    ("name-mismatch", _givers_and_readers, "give every tensor once, and read it"),
    ("type-mismatch", _types, "give both ends one data type"),
    ("shape-mismatch", _shapes, "give both ends the same dims"),
    ("cycle", _cycles, "let no step need what a later one gives"),
    ("parallel-steps", _parallel_steps, "let one read what the other gives"),
    ("unpinned-version", _unpinned, "name one version"),
    ("missing-version", _missing_versions, "name a version that is there, or build it again"),
    ("batch-mismatch", _batches, "use a batch size that all of them take"),
    ("instance-kind", _instances, "python runs on KIND_CPU, tensorrt on KIND_GPU"),
    ("profile-coverage", _profiles, "build the component again"),
    ("profile-coverage", _lengths, "build tokenizer and plan with the same buckets"),
    ("warmup-shape", _trials, "build the component again"),
)
"""Code, what is checked for every model, fix."""
