"""Malformed gRPC requests, layer by layer: what each is, and how it is sent.

docs/hostile-inputs.md is the list for people. Every one is made of a seed, so a failure can be
made again.
"""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import ProtocolError
from tritonclient.grpc import service_pb2

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\x04\0\0\0\0\0"
SERVICE = "/inference.GRPCInferenceService"
TIMEOUT_S = 5.0
MODEL = "tiny_classify_text"


@dataclass(frozen=True)
class Malformed:
    """One request, or what passes for one."""

    kind: str
    send: Callable[[str], str]
    """Sends it to host:port; says what came of it."""


# --- bytes that are no HTTP/2 ------------------------------------------------------------------


def raw(content: bytes, *, waits: bool = False) -> Callable[[str], str]:
    """Send bytes, read what comes, and hang up."""

    def send(endpoint: str) -> str:
        host, _, port = endpoint.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as connection:
            try:
                connection.sendall(content)
                if not waits:
                    connection.shutdown(socket.SHUT_WR)
                connection.settimeout(0.05 if waits else TIMEOUT_S)
                return f"{len(connection.recv(65536))} bytes"
            except OSError as error:
                return type(error).__name__

    return send


def no_http2(seed: int) -> Malformed:
    """Another protocol, or none."""
    random_ = random.Random(seed)
    contents = (
        random_.randbytes(random_.randrange(1, 4000)),
        b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 1000,
        b"\x16\x03\x01" + random_.randbytes(random_.randrange(1, 600)),  # a TLS hello, or so
        PREFACE[: random_.randrange(1, len(PREFACE))],
        PREFACE + random_.randbytes(random_.randrange(1, 2000)),
        PREFACE[::-1],
        b"",
    )
    return Malformed("bytes that are no HTTP/2", raw(contents[seed % len(contents)]))


def frame(kind: int, flags: int, stream: int, payload: bytes, claimed: int | None = None) -> bytes:
    """One HTTP/2 frame (RFC 9113, section 4.1); its length may be a lie."""
    length = len(payload) if claimed is None else claimed
    return (
        struct.pack(">I", length)[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload
    )


def wrong_frames(seed: int) -> Malformed:
    """HTTP/2 whose frames break its rules."""
    random_ = random.Random(seed)
    noise = random_.randbytes(random_.randrange(0, 300))
    data, headers, priority, reset, settings, push, ping, goaway, window, continuation = range(10)
    frames = (
        frame(data, 1, 0, noise),  # DATA without a stream
        frame(data, 0, 1, noise),  # ... on one that nobody opened
        frame(headers, 4, 1, noise),  # no HPACK
        frame(headers, 4, 2, b"\x82\x84\x87"),  # an even stream
        frame(headers, 0x0C, 1, b"\xff" + noise),  # padding longer than the frame
        frame(headers, 4, 1, noise, claimed=0xFFFFFF),  # 16 MiB that never come
        frame(priority, 0, 1, b"\0\0\0\x01\x10"),  # depends on itself
        frame(reset, 0, 7, b"\0\0\0\x08"),
        frame(settings, 0, 0, noise[: len(noise) - len(noise) % 6 + 1]),
        frame(settings, 1, 0, b"\0" * 6),  # an acknowledgement with content
        frame(settings, 0, 0, struct.pack(">HI", 4, 0xFFFFFFFF)),  # a window that cannot be
        frame(push, 4, 1, noise),  # from a client
        frame(ping, 0, 0, noise[:5]),
        frame(ping, 0, 0, b"12345678") * 50,
        frame(goaway, 0, 0, noise[:3]),
        frame(window, 0, 0, b"\0\0\0\0"),
        frame(window, 0, 0, struct.pack(">I", 0x7FFFFFFF)) * 2,
        frame(continuation, 4, 1, noise),
        frame(headers, 0, 1, b"\x82") + frame(continuation, 0, 1, b"") * 200,  # never ends
        frame(random_.randrange(10, 255), random_.randrange(255), random_.randrange(99), noise),
        b"".join(frame(headers, 5, one, b"\x82\x84\x87") + frame(reset, 0, one, b"\0\0\0\x08")
                 for one in range(1, 200, 2)),  # opened and reset at once
    )  # fmt: skip
    chosen = frames[seed % len(frames)]
    return Malformed("wrong HTTP/2 frames", raw(PREFACE + SETTINGS + chosen, waits=True))


# --- HTTP/2 that is no gRPC --------------------------------------------------------------------


def calls(headers: list[tuple[str, str]], body: bytes, *, ends: bool) -> Callable[[str], str]:
    """Open a stream with these headers, send the body, and hang up half a second later."""

    def send(endpoint: str) -> str:
        host, _, port = endpoint.rpartition(":")
        settings = H2Configuration(
            client_side=True, validate_outbound_headers=False, normalize_outbound_headers=False
        )
        http2 = H2Connection(settings)
        http2.initiate_connection()
        http2.send_headers(1, headers)
        if body or ends:
            http2.send_data(1, body[:16000], end_stream=ends)
        with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as connection:
            try:
                connection.sendall(http2.data_to_send())
                connection.settimeout(0.5 if ends else 0.05)
                seen: list[str] = []
                while not any("Ended" in one or "Terminated" in one for one in seen):
                    received = connection.recv(65536)
                    if not received:
                        break
                    seen += [type(event).__name__ for event in http2.receive_data(received)]
                return seen[-1] if seen else "closed"
            except (OSError, ProtocolError) as error:
                return type(error).__name__

    return send


def wrong_calls(seed: int) -> Malformed:
    """Headers and messages that are no gRPC call (PROTOCOL-HTTP2.md of grpc/grpc)."""
    random_ = random.Random(seed)
    good = good_request().SerializeToString()
    message = b"\0" + struct.pack(">I", len(good)) + good
    headers = {
        ":method": "POST", ":scheme": "http", ":path": f"{SERVICE}/ModelInfer",
        ":authority": "localhost", "content-type": "application/grpc", "te": "trailers",
    }  # fmt: skip
    long = "x" * random_.randrange(1, 6000)
    cases: tuple[tuple[dict[str, str], bytes, bool], ...] = (
        ({"content-type": "application/json"}, b"{}", True),
        ({"content-type": "text/html" + long}, message, True),
        ({"content-type": ""}, message, True),
        ({":method": "GET"}, message, True),
        ({":method": long}, message, True),
        ({":path": "/"}, message, True),
        ({":path": f"{SERVICE}/Nothing"}, message, True),
        ({":path": f"{SERVICE}/../ModelInfer"}, message, True),
        ({":path": ""}, message, True),
        ({"grpc-encoding": "snappy"}, message, True),
        ({"grpc-encoding": "gzip"}, b"\x01" + message[1:], True),  # says that it is compressed
        ({"grpc-timeout": "99999999999S"}, message, True),
        ({"grpc-timeout": "-1S"}, message, True),
        ({"te": "gzip"}, message, True),
        ({"x-long": long * 3}, message, True),
        ({"x-bin": "\u00ff%%%"}, message, True),
        ({}, b"", True),  # no message at all
        ({}, b"\0\0", True),  # half a prefix
        ({}, b"\0\xff\xff\xff\xff" + good, True),  # 4 GiB are said to come
        ({}, b"\0\x7f\xff\xff\xff" + good, False),  # 2 GiB, and nothing ends
        ({}, b"\0\0\0\0\1" + good, True),  # shorter than what comes
        ({}, b"\x07" + message[1:], True),  # an unknown flag
        ({}, message * 3, True),  # three messages to a call that takes one
        ({}, message[: len(message) // 2], True),
    )
    changed, body, ends = cases[seed % len(cases)]
    return Malformed(
        "calls that are no gRPC", calls(list((headers | changed).items()), body, ends=ends)
    )


# --- gRPC whose messages are no requests -------------------------------------------------------


def sends(method: str, body: bytes) -> Callable[[str], str]:
    """Send bytes as the message of a call."""

    def send(endpoint: str) -> str:
        with grpc.insecure_channel(endpoint, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            call = channel.unary_unary(
                f"{SERVICE}/{method}",
                request_serializer=lambda content: content,
                response_deserializer=lambda content: content,
            )
            try:
                call(body, timeout=TIMEOUT_S)
            except grpc.RpcError as error:
                code: str = error.code().name
                return code
            return "answered"

    return send


METHODS = ("ModelInfer", "ModelMetadata", "ModelConfig", "ModelStatistics", "ModelReady",
           "ServerMetadata", "RepositoryIndex", "RepositoryModelLoad", "LogSettings",
           "SystemSharedMemoryRegister")  # fmt: skip


def fuzzed_protobuf(seed: int) -> Malformed:
    """A good request with bytes changed, cut, doubled or added; or nothing but noise."""
    random_ = random.Random(seed)
    body = bytearray(good_request().SerializeToString())
    for _ in range(random_.randrange(1, 8)):
        place = random_.randrange(len(body) or 1)
        match random_.randrange(6):
            case 0:
                body[place : place + 1] = random_.randbytes(1)
            case 1:
                del body[place:]
            case 2:
                body[place:place] = random_.randbytes(random_.randrange(1, 40))
            case 3:
                body += body[place:]
            case 4:
                body[place:place] = b"\xff" * 9 + b"\x7f"  # a varint as large as there is
            case _:
                body = bytearray(random_.randbytes(random_.randrange(1, 500)))
    if seed % 50 == 7:
        body = bytearray(b"\x2b" * 5000)  # groups within groups
    method = METHODS[seed % len(METHODS)] if seed % 3 == 0 else "ModelInfer"
    return Malformed("fuzzed protobuf", sends(method, bytes(body)))


# --- requests that lie -------------------------------------------------------------------------


def good_request(text: bytes = b"red apple") -> Any:
    """What the tiny app answers."""
    request = service_pb2.ModelInferRequest(model_name=MODEL)
    request.inputs.add(name="text", datatype="BYTES", shape=[1, 1])
    request.raw_input_contents.append(struct.pack("<I", len(text)) + text)
    return request


LARGEST = 2**63 - 1
LIES: dict[str, Callable[[Any, random.Random], object]] = {
    "an unknown model": lambda request, _: setattr(request, "model_name", "../../etc/passwd"),
    "no model": lambda request, _: request.ClearField("model_name"),
    "an unknown version": lambda request, _: setattr(request, "model_version", "-7"),
    "a version that is a path": lambda request, _: setattr(request, "model_version", "../1"),
    "an enormous name": lambda request, _: setattr(request, "model_name", "x" * 1_000_000),
    "an enormous id": lambda request, _: setattr(request, "id", "x" * 1_000_000),
    "another datatype": lambda request, random_: setattr(
        request.inputs[0], "datatype", random_.choice(["FP32", "INT64", "BOOL", "", "\0", "BYTE"])
    ),
    "a negative shape": lambda request, _: shape(request, [1, -1]),
    "an enormous shape": lambda request, _: shape(request, [1, LARGEST]),
    "a shape whose product is too large": lambda request, _: shape(request, [2**32, 2**32]),
    "a shape of a thousand dimensions": lambda request, _: shape(request, [1] * 1000),
    "an enormous batch": lambda request, _: shape(request, [2**31, 1]),
    "no shape": lambda request, _: shape(request, []),
    "a zero in the shape": lambda request, _: shape(request, [0, 1]),
    "an enormous shape of fixed size": lambda request, _: fixed_size(request, [2**61, 1]),
    "no content": lambda request, _: request.ClearField("raw_input_contents"),
    "content twice": lambda request, _: request.inputs[0].contents.bytes_contents.append(b"x"),
    "more contents than inputs": lambda request, _: request.raw_input_contents.extend([b"x"] * 99),
    "more inputs than contents": lambda request, _: request.inputs.add(name="image"),
    "typed contents of another type": lambda request, _: (
        request.ClearField("raw_input_contents"),
        request.inputs[0].contents.fp64_contents.extend([0.5] * 99),
    ),
    "a length beyond the content": lambda request, _: content(request, b"\xff\xff\xff\xffx"),
    "half a length": lambda request, _: content(request, b"\x01\0"),
    "two elements where one is": lambda request, _: content(request, b"\1\0\0\0a\1\0\0\0b"),
    "the same input a thousand times": lambda request, _: request.inputs.extend(
        [request.inputs[0]] * 1000
    ),
    "ten thousand outputs": lambda request, _: [
        request.outputs.add(name=f"o{number}") for number in range(10_000)
    ],
    "an unknown output": lambda request, _: request.outputs.add(name="nothing"),
    "the same output a hundred times": lambda request, _: [
        request.outputs.add(name="probabilities") for _ in range(100)
    ],
    "a region that nobody registered": lambda request, _: region(request, 0, 64),
    "a region before its beginning": lambda request, _: region(request, -8, 64),
    "a region beyond its end": lambda request, _: region(request, LARGEST, LARGEST),
    "an output into shared memory": lambda request, _: request.outputs.add(
        name="probabilities"
    ).parameters["shared_memory_region"].MergeFrom(parameter(string_param="none")),
    "as many classes as there are numbers": lambda request, _: request.outputs.add(
        name="probabilities"
    ).parameters["classification"].MergeFrom(parameter(int64_param=LARGEST)),
    "a negative number of classes": lambda request, _: request.outputs.add(
        name="probabilities"
    ).parameters["classification"].MergeFrom(parameter(int64_param=-1)),
    "a sequence that never began": lambda request, _: request.parameters["sequence_id"].MergeFrom(
        parameter(int64_param=LARGEST)
    ),
    "a timeout before the epoch": lambda request, _: request.parameters["timeout"].MergeFrom(
        parameter(int64_param=-1)
    ),
    "a priority of the wrong type": lambda request, _: request.parameters["priority"].MergeFrom(
        parameter(string_param="first")
    ),
    "parameters that Triton keeps to itself": lambda request, random_: request.parameters[
        random_.choice(["triton_enable_empty_final_response", "triton_", "headers", ""])
    ].MergeFrom(parameter(string_param="x" * 10_000)),
    "a thousand parameters": lambda request, _: [
        request.parameters[f"p{number}"].MergeFrom(parameter(bool_param=True))
        for number in range(1000)
    ],
}  # fmt: skip
"""What a well-formed message says that is not so."""


def parameter(**value: Any) -> Any:
    """A parameter of Triton's."""
    return service_pb2.InferParameter(**value)


def shape(request: Any, dimensions: list[int]) -> None:
    """Give the input another shape."""
    request.inputs[0].shape[:] = dimensions


def fixed_size(request: Any, dimensions: list[int]) -> None:
    """Give the input a datatype whose elements have one size, and a shape."""
    request.inputs[0].datatype = "FP64"
    shape(request, dimensions)


def content(request: Any, raw_content: bytes) -> None:
    """Give the input another content."""
    request.raw_input_contents[0] = raw_content


def region(request: Any, offset: int, size: int) -> None:
    """Say that the input lies in shared memory."""
    request.ClearField("raw_input_contents")
    parameters = request.inputs[0].parameters
    parameters["shared_memory_region"].string_param = "none"
    parameters["shared_memory_offset"].int64_param = offset
    parameters["shared_memory_byte_size"].int64_param = size


def lies(seed: int) -> Malformed:
    """A request whose parts contradict each other, or what is there."""
    name = list(LIES)[seed % len(LIES)]
    request = good_request()
    LIES[name](request, random.Random(seed))
    return Malformed("requests that lie", sends("ModelInfer", request.SerializeToString()))


def streams(seed: int) -> Malformed:
    """A stream of requests, among them malformed ones, that its caller leaves early."""
    random_ = random.Random(seed)
    bodies = []
    for number in range(random_.randrange(1, 6)):
        request = good_request()
        list(LIES.values())[(seed + number) % len(LIES)](request, random_)
        bodies.append(request.SerializeToString())

    def send(endpoint: str) -> str:
        with grpc.insecure_channel(endpoint, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            call = channel.stream_stream(
                f"{SERVICE}/ModelStreamInfer",
                request_serializer=lambda body: body,
                response_deserializer=lambda body: body,
            )(iter(bodies), timeout=TIMEOUT_S)
            try:
                if seed % 2:
                    next(call)
                call.cancel()
            except (grpc.RpcError, StopIteration) as error:
                return type(error).__name__
            return "left"

    return Malformed("streams that are left", send)


SHARES: tuple[tuple[Callable[[int], Malformed], float], ...] = (
    (no_http2, 0.1),
    (wrong_frames, 0.2),
    (wrong_calls, 0.15),
    (fuzzed_protobuf, 0.25),
    (lies, 0.25),
    (streams, 0.05),
)


def malformed(count: int) -> Iterator[Malformed]:
    """So many of them, of every kind."""
    for make, share in SHARES:
        for seed in range(round(count * share)):
            yield make(seed)
