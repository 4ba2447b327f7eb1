"""The clock of training and the peak memory of a process."""

from __future__ import annotations

import subprocess
import sys

import numpy

from ftcli.trainer import meter

SMALL = "from ftcli.trainer.meter import peak_memory_gb; print(peak_memory_gb())"


def test_peak_memory_of_a_program_is_not_its_parents():
    ballast = numpy.ones(250_000_000)  # 2 GB, touched; the child needs a quarter of that
    done = subprocess.run([sys.executable, "-c", SMALL], capture_output=True, text=True, check=True)
    assert 0.05 < float(done.stdout) < 1.5 < ballast.nbytes / 1e9


def test_time_between_a_pause_and_the_next_start_is_no_training(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(meter.time, "perf_counter", lambda: float(next(clock)))
    measured = meter.Meter()
    measured.pause()  # setup before the first start
    assert measured.train_seconds == 0
    measured.begin()
    measured.pause()
    saved = measured.state_dict()  # while the checkpoint is written
    measured.pause()
    assert measured.train_seconds == 1 and saved["busy"] == 1
    measured.begin()
    assert measured.state_dict()["busy"] == 2
