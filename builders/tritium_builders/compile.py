"""ONNX graph -> engine, one function per target."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from tritium_builders.errors import CompileError, needs
from tritium_builders.release import Target


def compile_openvino(graph: Path, folder: Path) -> str:
    """Convert a graph to OpenVINO IR with its weights in fp32.

    Args:
        graph: The .onnx file.
        folder: Where model.xml and model.bin go.

    Returns:
        The file that the engine servable opens.

    Raises:
        CompileError: what OpenVINO refused.
        OSError: when the disk is full.
    """
    with needs("build"):
        import openvino

    try:
        model = openvino.Core().read_model(str(graph))
        # OpenVINO numbers nameless nodes by a counter of the process; a component is named by its
        # content, so the same graph must give the same bytes.
        for index, node in enumerate(model.get_ordered_ops()):
            if node.get_type_name() not in ("Parameter", "Result"):
                node.set_friendly_name(f"{node.get_type_name()}_{index}")
        # save_model rounds weights to fp16 unless told not to.
        openvino.save_model(model, str(folder / "model.xml"), compress_to_fp16=False)
    except RuntimeError as error:
        # OpenVINO says "iostream error" and keeps the reason to itself.
        if shutil.disk_usage(folder).free < graph.stat().st_size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
        raise CompileError(f"{graph.stem}: OpenVINO refused the graph: {error}") from error
    return "model.xml"


def compile_onnxruntime(graph: Path, folder: Path) -> str:
    """Take the graph as it is: ONNX Runtime optimises it when it is loaded.

    Args:
        graph: The .onnx file.
        folder: Where model.onnx goes.

    Returns:
        The file that the engine servable opens.
    """
    shutil.copyfile(graph, folder / "model.onnx")
    return "model.onnx"


COMPILERS: dict[Target, Callable[[Path, Path], str]] = {
    "openvino": compile_openvino,
    "onnxruntime": compile_onnxruntime,
}
