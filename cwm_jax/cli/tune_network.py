"""`cwm tune --network`: all tasks of a network, then the compiled network itself."""

import argparse
from typing import TYPE_CHECKING

from cwm_jax.cli.common import open_console, say
from cwm_jax.cli.network_outcome import (
    NetworkTask,
    check_export,
    check_trials,
    finish,
    print_tasks,
)
from cwm_jax.cli.searching import load_scorer, log_path, shown_search
from cwm_jax.cli.tune import tuning_config
from cwm_jax.records.graph import add_graphs, graphs_path

if TYPE_CHECKING:
    from cwm_jax.tuning.network import NetworkRound

TIMINGS = 5
"""How often a compiled network is timed."""


def run_network(options: argparse.Namespace) -> int:
    """Tunes, compiles, times and exports a network."""
    from cwm_jax.tuning.ansor.network_tuning import tunable_tasks, tune_network
    from cwm_jax.tuning.ansor.relay import (
        compile_network,
        extract_tasks,
        is_users_own,
        load_network,
        random_inputs,
        time_network,
    )
    from cwm_jax.tuning.ansor.targets import resolve_target
    from cwm_jax.tuning.ansor.tuning import resumable_records
    from cwm_jax.tvm_bridge.ansor.graphs import graph_of_task
    from cwm_jax.tvm_bridge.runtime import use

    check_export(options.export)
    log = log_path(options, options.network)
    tvm = use("ansor")
    source = load_network(tvm, options.network, options.seed)
    scorer = load_scorer(options)
    target = resolve_target(tvm, options.target, remote=bool(options.rpc))
    console = open_console()
    tasks = extract_tasks(tvm, source.module, source.params, target)
    if is_users_own(options.network):
        tasks = tunable_tasks(tvm, tasks, source.name)
    check_trials(options, len(tasks))
    earlier = []
    if options.resume:
        keys = [str(task.workload_key) for task, _ in tasks]
        earlier = resumable_records(log, keys, str(target))
    log.parent.mkdir(parents=True, exist_ok=True)
    add_graphs([graph_of_task(tvm, task) for task, _ in tasks], graphs_path(log))
    config = tuning_config(options, len(tasks))
    say(console, f"{source.name}: {len(tasks)} tasks on {target}, log {log}")
    what = "estimated latency"
    with shown_search(console, config.trials, log, what, len(earlier)) as show:

        def report(done: "NetworkRound") -> None:
            show(done.trials, done.network_latency)

        result = tune_network(
            tvm, tasks, config, log, scorer=scorer, earlier=earlier, report=report
        )
    rows = [
        NetworkTask(str(task.workload_key), str(task.desc), weight, float(task.compute_dag.flop_ct))
        for task, weight in tasks
    ]
    print_tasks(console, rows, result)
    say(console, f"compiling {source.name}")
    library = compile_network(tvm, source, target, log)
    inputs = random_inputs(source, options.seed)
    timings = time_network(tvm, library, target, inputs, TIMINGS, config.tracker)
    finish(options, console, source.name, str(target), rows, result, timings, library, log)
    return 0
