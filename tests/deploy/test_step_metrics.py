"""Counters of several processes, the dead ones among them, become one sum."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tritium_builders.servables import encoders
from tritium_deploy.step_metrics import VARIABLE, exposition

COUNT = """
import sys
sys.path.insert(0, sys.argv[1])
from encoders import step_metrics
count = step_metrics({"text_encoder": {"model": "pets_text_encoder_1"}})
for _ in range(3):
    count("text_encoder", 2, 0.5, 1)
"""


def count_in_another_process(folder: Path | None) -> None:
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    if folder is not None:
        environment[VARIABLE] = str(folder)
    servables = str(Path(encoders.__file__).parent)
    subprocess.run([sys.executable, "-c", COUNT, servables], env=environment, check=True)


def test_what_processes_counted_before_they_ended_is_summed_up(tmp_path: Path) -> None:
    for _ in range(2):
        count_in_another_process(tmp_path)
    text = exposition(tmp_path).decode()
    labels = '{model="pets_text_encoder_1",step="text_encoder"}'
    for line in (
        f"tritium_step_requests_total{labels} 12.0",
        f"tritium_step_executions_total{labels} 6.0",
        f"tritium_step_seconds_total{labels} 3.0",
        f"tritium_step_refused_total{labels} 6.0",
    ):
        assert line in text.splitlines()


def test_nothing_is_counted_where_nobody_reads_it(tmp_path: Path) -> None:
    count_in_another_process(None)
    assert exposition(tmp_path) == b""
    assert exposition(tmp_path / "gone") == b""
