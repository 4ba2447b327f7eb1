"""Unusual numbers give a warning; usual ones of any optimizer and the packaged jobs do not."""

from __future__ import annotations

import pytest

from ftcli.config import compose, paths
from ftcli.config.value_ranges import find_unusual_values, find_usual_rate


@pytest.mark.parametrize(
    ("words", "usual"),
    [(["optimizer=sgd", "optimizer.lr=1"], 0.01), (["optimizer=mezo", "optimizer.lr=1e-7"], 1e-6),
     (["optimizer=kseed", "optimizer.lr=2e-3"], 3e-7), (["optimizer=lion", "optimizer.lr=1e-6"], 2e-5), (["optimizer.lr=0.06"], 2e-4),
     (["optimizer.optimizer_class=torch.optim.SGD", "optimizer.lr=1"], 0.01)],
)  # fmt: skip
def test_a_rate_is_compared_with_that_of_its_own_optimizer(words, usual):
    composed = compose("qlora_mini", words)
    assert find_usual_rate(composed) == usual and list(find_unusual_values(composed)) == []


@pytest.mark.slow
def test_no_packaged_job_or_recipe_has_unusual_values():
    jobs = [*paths.list_jobs(paths.configs_dir()), *paths.list_recipes()]
    assert len(jobs) > 30
    assert {job: [d.what for d in find_unusual_values(compose(job))] for job in jobs} == {
        job: [] for job in jobs
    }
