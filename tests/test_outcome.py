"""What `cwm tune` says of a search that is over."""

import io
from argparse import Namespace
from pathlib import Path

import pytest
from rich.console import Console

from cwm_jax.cli.outcome import finish
from cwm_jax.records.record import Record, TaskDetails
from cwm_jax.tvm_bridge.search_loop import SearchResult

CPU = "llvm -mcpu=core-avx2 -num-cores=2"
OPTIONS = Namespace(
    workload="matmul:64,64,64",
    engine="ansor",
    cost_model="random",
    search="evolutionary",
    seed=0,
    reference_every=None,
    rpc=None,
    json=None,
)


def said(options: Namespace, target: str, costs: tuple[float, ...]) -> str:
    best = Record("[]", target, TaskDetails(None, ()), (), costs, 0, 1.0, 0, "v0.6")
    result = SearchResult("[]", target, 1e9, costs, (), best, "", stopped_early=False)
    shown = io.StringIO()
    finish(options, Console(file=shown, width=200), result, best, "", Path("log.jsonl"))
    return shown.getvalue()


def test_a_search_that_noise_may_have_misled_says_what_helps():
    text = said(OPTIONS, CPU, (1.0e-3, 1.5e-3))
    assert "mean of 2 measurements" in text
    assert "50% apart" in text
    assert "--reference-every 1" in text


@pytest.mark.parametrize(
    ("changed", "target", "costs"),
    [
        ({}, CPU, (1.0e-3, 1.1e-3)),
        ({}, CPU, (1.0e-3,)),
        ({}, "cuda -arch=sm_80", (1.0e-3, 1.5e-3)),
        ({"rpc": "host:9190:key"}, CPU, (1.0e-3, 1.5e-3)),
        ({"reference_every": 1}, CPU, (1.0e-3, 1.5e-3)),
    ],
)
def test_nothing_is_said_where_it_would_not_help(changed, target, costs):
    options = Namespace(**{**vars(OPTIONS), **changed})
    assert "apart" not in said(options, target, costs)
