"""`cwm tune --engine metaschedule`: an operator, searched by today's TVM."""

import argparse
from typing import TYPE_CHECKING

from cwm_jax.cli.common import open_console, say
from cwm_jax.cli.outcome import finish, say_none_succeeded
from cwm_jax.cli.searching import load_scorer, search_folder, shared_settings, shown_search
from cwm_jax.workloads.parse import parse_workload

if TYPE_CHECKING:
    from cwm_jax.tuning.loop import Round
    from cwm_jax.tuning.metaschedule.settings import SearchConfig


def run_metaschedule(options: argparse.Namespace) -> int:
    """Runs the search and prints the outcome."""
    workload = parse_workload(options.workload)
    folder = search_folder(options, options.workload)
    scorer = load_scorer(options)

    from cwm_jax.tuning.metaschedule.targets import create_module, resolve_target
    from cwm_jax.tuning.metaschedule.tuning import tune_module
    from cwm_jax.tuning.metaschedule.work_dir import line_of, tuning_record_of
    from cwm_jax.tvm_bridge.runtime import use

    tvm = use("metaschedule")
    target = resolve_target(tvm, options.target, remote=bool(options.rpc))
    module = create_module(tvm, workload, target)
    config = search_config(options)
    console = open_console()
    say(console, f"{options.workload} on {target}, folder {folder}")
    with shown_search(console, config.trials, folder, "best") as show:

        def report(done: "Round") -> None:
            show(done.trials, done.best_latency)

        result = tune_module(tvm, module, target, config, folder, scorer=scorer, report=report)
    if result.best is None:
        say_none_succeeded(console, result, folder)
        return 1
    best = tuning_record_of(tvm, folder, line_of(folder, result.best)).as_measure_candidate()
    finish(options, console, result, result.best, best.sch.mod.script(), folder)
    return 0


def search_config(options: argparse.Namespace, tasks: int = 1) -> "SearchConfig":
    """Returns the settings that the options ask for, for so many tasks."""
    from cwm_jax.tuning.metaschedule.settings import SearchConfig

    return SearchConfig(**shared_settings(options, tasks), cost_model=options.cost_model)
