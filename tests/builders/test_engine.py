"""The servable that runs engines, in a process that does other things as well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from tritium_builders.servables import engine

LET_GO_ELSEWHERE = """
import gc, pathlib, signal, subprocess, sys, threading
sys.path.insert(0, sys.argv[1])
import numpy as np
from engine import OpenVinoRuntime
spec = {"threads": 1, "streams": 1, "outputs": [{"name": "y"}]}
kept = [OpenVinoRuntime(pathlib.Path(sys.argv[2]), spec)]
print(kept[0]({"x": np.full((1, 2), 3, np.float32)})["y"].tolist(), flush=True)
def let_go():
    kept.clear()
    gc.collect()
thread = threading.Thread(target=let_go)
thread.start()
thread.join()
signal.signal(signal.SIGCHLD, lambda *_: None)
subprocess.run([sys.executable, "-c", ""])
"""


def test_a_signal_after_an_engine_was_let_go_ends_nothing(tmp_path: Path) -> None:
    """OpenVINO would unmap the stack on which the main thread's handlers run."""
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "one_step",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
    )
    opset = [helper.make_opsetid("", 18)]
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    done = subprocess.run(
        [sys.executable, "-c", LET_GO_ELSEWHERE, str(Path(engine.__file__).parent), str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "[[3.0, 3.0]]\n"), done.stderr
