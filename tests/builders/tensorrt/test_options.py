"""What a user may say, and what is refused before anything is built."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders.test_configs import SEQUENCE, manifest
from tritium_builders.configs import component_graphs
from tritium_builders.errors import CompileError, TargetMissingError
from tritium_builders.tensorrt.check import parse_capability
from tritium_builders.tensorrt.configs import batch_sizes
from tritium_builders.tensorrt.machine import (
    BUILD_IMAGE,
    BuildMachine,
    Gpu,
    docker_command,
    find_build_machine,
)
from tritium_builders.tensorrt.make import require_capable
from tritium_builders.tensorrt.options import (
    TensorRTOptions,
    default_buckets,
    parse_buckets,
)
from tritium_builders.tensorrt.profiles import check_profiles, component_profiles
from tritium_builders.tensorrt.runtime import choose_profile

buckets = st.lists(st.integers(1, 512), min_size=1, max_size=6, unique=True).map(sorted)


@given(st.integers(2, 2048))
def test_default_buckets_cover_every_length(max_length: int) -> None:
    found = default_buckets(max_length)
    assert found[-1] == max_length
    assert list(found) == sorted(set(found))


@given(buckets)
def test_buckets_are_read_as_they_are_written(lengths: list[int]) -> None:
    assert parse_buckets(",".join(map(str, lengths))) == tuple(lengths)


@pytest.mark.parametrize("text", ["", "16,", "a", "32,16", "16,16", "0,16", "-4,8", "1.5"])
def test_other_buckets_are_refused(text: str) -> None:
    with pytest.raises(CompileError, match="buckets"):
        parse_buckets(text)


def test_buckets_that_end_too_early_are_refused() -> None:
    with pytest.raises(CompileError, match=r"16,32 end below .* max_length of 64 tokens.*add 64"):
        TensorRTOptions(buckets=(16, 32)).buckets_for(64)


@pytest.mark.parametrize(
    ("option", "value"),
    [("max_batch", 0), ("instances", 0), ("workspace_mib", 0), ("optimisation_level", 6)],
)
def test_what_can_never_be_right_is_refused(option: str, value: int) -> None:
    with pytest.raises(CompileError, match=option):
        TensorRTOptions(**{option: value})  # type: ignore[arg-type]


def test_options_become_the_arguments_that_give_them() -> None:
    options = TensorRTOptions(
        buckets=(16, 32), max_batch=8, timing_cache=Path("t.cache"), cuda_graphs=True,
        hardware_compatibility="ampere_plus",
    )  # fmt: skip
    assert options.arguments() == [
        "--buckets", "16,32", "--max-batch", "8", "--timing-cache", "t.cache",
        "--hardware-compatibility", "ampere_plus", "--cuda-graphs",
    ]  # fmt: skip
    assert TensorRTOptions().arguments() == []


@pytest.mark.parametrize(("text", "found"), [("8.6", (8, 6)), ("12.0", (12, 0))])
def test_compute_capabilities_are_read(text: str, found: tuple[int, int]) -> None:
    assert parse_capability(text) == found


@pytest.mark.parametrize("text", ["86", "8", "8.", "sm_86", ""])
def test_other_compute_capabilities_are_refused(text: str) -> None:
    with pytest.raises(CompileError, match=r"8\.6"):
        parse_capability(text)


def turing() -> BuildMachine:
    return BuildMachine("10.13.2.6", Gpu("Tesla T4", (7, 5)))


def test_a_gpu_before_ampere_cannot_build_for_ampere_and_later() -> None:
    with pytest.raises(CompileError, match=r"ampere_plus needs .*Tesla T4 has .* 7\.5"):
        require_capable(turing(), "fp16", TensorRTOptions(hardware_compatibility="ampere_plus"))


def test_a_gpu_before_ampere_has_no_bfloat16() -> None:
    with pytest.raises(CompileError, match=r"bf16 needs .*Tesla T4 has .* 7\.5.*use fp16"):
        require_capable(turing(), "bf16", TensorRTOptions())
    require_capable(turing(), "int8", TensorRTOptions())


def test_without_a_gpu_everything_that_is_missing_is_named() -> None:
    with pytest.raises(TargetMissingError) as caught:
        find_build_machine(["build", "bundles/my app", "--target", "tensorrt"])
    message = str(caught.value)
    assert "an NVIDIA GPU" in message
    assert "the Python package tensorrt" in message
    assert "docker run --rm --gpus all" in message
    assert "--check" in message


def test_the_docker_command_runs_the_same_build() -> None:
    command = docker_command(["build", "bundles/my app", "--target", "tensorrt"])
    assert command == (
        f'docker run --rm --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/work" {BUILD_IMAGE} '
        "build "
        "'bundles/my app' --target tensorrt"
    )


@given(buckets, st.integers(1, 64), st.booleans())
def test_profiles_take_every_batch_of_every_bucket(
    lengths: list[int], max_batch: int, sequence: bool
) -> None:
    for role, graph in component_graphs(SEQUENCE if sequence else manifest()).items():
        if role in ("text_tokenizer", "image_decoder"):
            continue
        profiles = component_profiles(graph, lengths, max_batch)
        inputs = {tensor.name: (-1, *tensor.dims) for tensor in graph.inputs}
        check_profiles(inputs, profiles)
        over_tokens = any(tensor.ragged for tensor in graph.inputs)
        assert len(profiles) == (len(lengths) if over_tokens else 1)
        for index, length in enumerate(lengths if over_tokens else [0]):
            for batch in (1, max_batch):
                shapes = {
                    tensor.name: [batch, *(length if size == -1 else size for size in tensor.dims)]
                    for tensor in graph.inputs
                }
                assert choose_profile(profiles, shapes) == index


def test_a_shape_without_a_profile_is_refused() -> None:
    graph = component_graphs(manifest())["text_encoder"]
    profiles = component_profiles(graph, (16,), 4)
    with pytest.raises(CompileError, match="no profile takes"):
        choose_profile(profiles, {"input_ids": [1, 17], "attention_mask": [1, 17]})
    with pytest.raises(CompileError, match="no profile takes"):
        choose_profile(profiles, {"input_ids": [5, 16], "attention_mask": [5, 16]})


@given(st.integers(1, 512))
def test_batch_sizes_reach_from_one_to_the_largest(most: int) -> None:
    sizes = batch_sizes(most)
    assert (sizes[0], sizes[-1]) == (1, most)
    assert all(one < following <= 2 * one for one, following in pairwise(sizes))
