"""Memory and disk of the machine that a job has to fit."""

import pytest

from ftcli.planning.machine import find_machine, free_disk, free_memory


def test_a_gpu_that_is_named_is_taken_at_its_word():
    gpu = find_machine(24)
    assert (gpu.kind, gpu.memory, gpu.assumed) == ("cuda", 24_000_000_000, True)


def test_free_memory_is_between_what_this_process_could_see():
    import os

    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < free_memory() <= whole


def test_disk_of_a_folder_that_is_not_there_yet(tmp_path):
    assert free_disk(tmp_path / "a" / "b") == pytest.approx(free_disk(tmp_path), rel=0.01)
