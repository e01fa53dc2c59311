"""What `cwm tune` says of a search that is over."""

import io
from argparse import Namespace
from pathlib import Path

import pytest
from rich.console import Console

from cwm_jax.bench.search_summary import Found
from cwm_jax.cli import evaluate, info
from cwm_jax.cli.common import open_console, say
from cwm_jax.cli.main import main
from cwm_jax.cli.search_table import print_table
from cwm_jax.cli.searching import finish, print_tasks, say_none_succeeded, shown_search
from cwm_jax.ranking.metrics import RankingMetrics
from cwm_jax.records.graph import shape_only_graph
from cwm_jax.records.record import Record, TaskDetails
from cwm_jax.tuning.engine import Task
from cwm_jax.tuning.loop import TuningResult
from cwm_jax.tuning.network import NetworkTuningResult

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
    result = TuningResult("[]", target, 1e9, costs, (), best, "", stopped_early=False)
    shown = io.StringIO()
    finish(options, Console(file=shown, width=200), result, "evolutionary")
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


ODD = "[bold]a[/] [/] :smile: 'cwm-jax[ansor]' [red]"
"""What rich would take for markup and an emoji."""


def test_names_and_errors_are_printed_as_they_are(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    console = open_console()
    say(console, ODD)
    say_none_succeeded(console, TuningResult(ODD, CPU, 0, (), (), None, ODD, False, "", Path(ODD)))
    result = NetworkTuningResult((1,), (1e-3,), 1e-3, (), ODD)
    print_tasks(console, [Task(ODD, ODD, 1.0, "", shape_only_graph(ODD), None)], result)
    monkeypatch.setattr(info, "_facts", lambda: {ODD: ODD, "checkpoints": {ODD: ODD}})
    assert main(["info"]) == 0
    metrics = RankingMetrics(1, 1.0, 1.0, 1.0, 1.0, 1.0)
    evaluate._print_table(console, {ODD: metrics}, metrics, metrics)
    options = Namespace(trials=[1], workloads=[ODD], variants=[ODD])
    found = [Found(ODD, ODD, 0, 1, 1e-3, 1.0)]
    print_table(console, found, {}, options, "xgboost")
    with shown_search(console, 1, Path(ODD), ODD) as show:
        show(1, 1e-3)
    text = capsys.readouterr().out
    assert text.count(ODD) == 12
    assert "\x1b" not in text
