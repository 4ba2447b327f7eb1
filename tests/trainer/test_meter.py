from __future__ import annotations

import subprocess
import sys

import numpy

SMALL = "from ftcli.trainer.meter import peak_memory_gb; print(peak_memory_gb())"


def test_peak_memory_of_a_program_is_not_its_parents():
    ballast = numpy.ones(250_000_000)  # 2 GB, touched; the child needs a quarter of that
    done = subprocess.run([sys.executable, "-c", SMALL], capture_output=True, text=True, check=True)
    assert 0.05 < float(done.stdout) < 1.5 < ballast.nbytes / 1e9
