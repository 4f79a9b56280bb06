"""Requests and answers as Triton's messages."""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tritonclient.grpc import InferInput, model_config_pb2, service_pb2

from tritium_client import IncompatibleRelease, ServerError, contract
from tritium_client._wire import (
    infer_request,
    rank,
    read_config,
    read_probabilities,
    read_release,
    set_timeout,
)


@given(st.binary(max_size=300))
def test_an_element_is_packed_as_triton_s_own_client_packs_it(data: bytes) -> None:
    theirs = InferInput("image", [1, 1], "BYTES")
    theirs.set_data_from_numpy(np.array([[data]], dtype=object))
    ours = infer_request("demo_classify_image", {"image": data}, request_id="a")
    assert ours.raw_input_contents[0] == theirs._get_content()
    assert ours.inputs[0] == theirs._get_tensor()


def test_the_deadline_travels_in_microseconds() -> None:
    request = infer_request("demo_classify_text", {"text": b"a"}, request_id="a")
    set_timeout(request, 0.25)
    assert request.parameters["timeout"].int64_param == 250_000
    # 0 would mean no timeout at all.
    for none_left in (1e-9, 0, -3):
        set_timeout(request, none_left)
        assert request.parameters["timeout"].int64_param == 1


@given(
    hnp.arrays(np.float32, st.integers(1, 30), elements=st.floats(0, 1, width=32)),
    st.integers(1, 40),
)
def test_the_ranking_is_what_sorting_by_probability_gives(
    probabilities: npt.NDArray[np.float32], top_k: int
) -> None:
    labels = tuple(f"label {index}" for index in range(len(probabilities)))
    expected = sorted(zip(labels, probabilities.tolist(), strict=True), key=lambda pair: -pair[1])
    ranking = rank(labels, probabilities, top_k)
    assert [(item.label, item.probability) for item in ranking] == expected[:top_k]


def answer(probabilities: list[float], version: str = "1") -> service_pb2.ModelInferResponse:
    response = service_pb2.ModelInferResponse(model_name="demo_classify", model_version=version)
    response.outputs.add(name="probabilities", datatype="FP32", shape=(1, len(probabilities)))
    response.raw_output_contents.append(np.array(probabilities, np.float32).tobytes())
    return response


def test_probabilities_cannot_be_changed_behind_the_answer_s_back() -> None:
    probabilities = read_probabilities(answer([0.25, 0.75]), 2)
    assert probabilities.tolist() == [0.25, 0.75]
    with pytest.raises(ValueError, match="read-only"):
        probabilities[0] = 1


def test_an_answer_that_does_not_fit_the_labels_is_an_error() -> None:
    with pytest.raises(ServerError, match="2 probabilities for 3 labels"):
        read_probabilities(answer([0.25, 0.75]), 3)
    with pytest.raises(ServerError, match="without 'probabilities'"):
        read_probabilities(service_pb2.ModelInferResponse(model_name="x"), 3)
    with pytest.raises(ServerError, match="no release number"):
        read_release(answer([1.0], version="latest"))


def config(**changes: str | None) -> model_config_pb2.ModelConfig:
    message = model_config_pb2.ModelConfig(name="demo_classify")
    values: dict[str, str | None] = {
        contract.PARAM_APP: "demo",
        contract.PARAM_RELEASE: "3",
        contract.PARAM_TASK: "classification",
        contract.PARAM_MODALITIES: "text,image",
        contract.PARAM_LABELS: json.dumps(["a", "b"]),
        contract.PARAM_WIRE_VERSION: contract.WIRE_VERSION,
        contract.PARAM_TARGET: "openvino",
        contract.PARAM_PRECISION: "fp32",
    }
    for key, value in (
        values | {f"tritium.{key}": value for key, value in changes.items()}
    ).items():
        if value is not None:
            message.parameters[key].string_value = value
    return message


def test_a_config_says_what_the_release_is() -> None:
    read = read_config(config())
    assert (read.app, read.release, read.labels) == ("demo", 3, ("a", "b"))
    assert read.modalities == ("text", "image")
    assert read.rollout == ""
    assert read_config(config(rollout="as it stands")).rollout == "as it stands"


MAJOR, MINOR = contract.WIRE_VERSION.split(".")


@pytest.mark.parametrize("version", [f"{int(MAJOR) + 1}.0", f"{int(MAJOR) - 1}.9"])
def test_another_major_version_is_said_plainly(version: str) -> None:
    # Read before anything else: another major version may have renamed every other parameter.
    with pytest.raises(IncompatibleRelease, match=rf"speaks version {version}.*this package"):
        read_config(config(wire_version=version, labels=None))


def test_a_newer_minor_version_and_modalities_that_we_do_not_know_are_fine() -> None:
    read = read_config(config(wire_version=f"{MAJOR}.{int(MINOR) + 7}", modalities="text,audio"))
    assert read.modalities == ("text",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "no entry point of Tritium.*tritium.labels"),
        ({"wire_version": None}, "no entry point of Tritium.*tritium.wire_version"),
        ({"labels": "[1, 2]"}, "not a JSON list of strings"),
        ({"labels": "nonsense"}, "cannot be read"),
        ({"release": "three"}, "cannot be read"),
    ],
)
def test_a_config_that_is_not_ours_is_said_plainly(
    changes: dict[str, str | None], message: str
) -> None:
    with pytest.raises(ServerError, match=message):
        read_config(config(**changes))
