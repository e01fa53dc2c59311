"""`cwm tune`: search for a fast schedule of an operator on this machine."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cwm_jax.cli.common import (
    add_checkpoint_options,
    add_json_option,
    not_negative,
    open_console,
    output_path,
    positive,
    say,
    seed,
)
from cwm_jax.cli.outcome import finish, say_none_succeeded
from cwm_jax.cli.searching import load_scorer, log_path, shared_settings, shown_search
from cwm_jax.errors import CwmError
from cwm_jax.records.graph import add_graphs, graphs_path
from cwm_jax.tuning.ansor.relay import networks_help
from cwm_jax.workloads.parse import operators_help, parse_workload

if TYPE_CHECKING:
    from cwm_jax.tuning.ansor.settings import TuningConfig
    from cwm_jax.tuning.loop import Round


def add_parser(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser(
        "tune",
        help="search for fast schedules of an operator or a network on this machine",
        description="Runs a search of Ansor or MetaSchedule on this machine's CPU with a world "
        "model as its cost model, and keeps every measurement.",
        epilog=f"{operators_help()}\n\n{networks_help()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--workload", help="OPERATOR:SHAPE, see below")
    what.add_argument("--network", help="a built-in network or your own, see below")
    parser.add_argument(
        "--trials",
        type=positive,
        default=64,
        help="programs to measure, of all tasks of a network together (64)",
    )
    parser.add_argument(
        "--engine",
        choices=("ansor", "metaschedule"),
        default="ansor",
        help="who searches: Ansor, or the MetaSchedule of today's apache-tvm (default: ansor)",
    )
    parser.add_argument(
        "--cost-model",
        choices=("world-model", "xgboost", "mlp", "random"),
        default="world-model",
        help="which model ranks; mlp is MetaSchedule's (default: world-model)",
    )
    add_checkpoint_options(parser, None)
    parser.add_argument(
        "--search",
        choices=("evolutionary", "planner"),
        help="the engine's own evolutionary search, or planning in latent space (default: "
        "planner for the world model, else evolutionary)",
    )
    parser.add_argument(
        "--adaptation",
        choices=("none", "mean", "bound"),
        default="bound",
        help="how measurements correct the world model: not at all, by the mean, or by an upper "
        "confidence bound (default: bound)",
    )
    parser.add_argument(
        "--pretrain",
        type=Path,
        metavar="CORPUS",
        help="with --cost-model xgboost or mlp: corpus folder that it learns from before the "
        "search; for mlp also a file of tools/pretrain_mlp.py",
    )
    parser.add_argument("--target", help="TVM target (default: this machine's CPU)")
    parser.add_argument(
        "--rpc",
        metavar="HOST:PORT:KEY",
        help="measure on a device of this TVM RPC tracker; --target says what it is",
    )
    parser.add_argument(
        "--log",
        type=output_path("--log"),
        help="log to write, for MetaSchedule a folder (default: a new one in runs/)",
    )
    parser.add_argument(
        "--resume",
        type=output_path("--resume"),
        metavar="LOG",
        help="go on with this log or folder",
    )
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument(
        "--round",
        type=positive,
        help="programs to measure a round (default: a quarter of the trials, 8 to 64; of a "
        "network 16)",
    )
    parser.add_argument(
        "--population",
        type=positive,
        metavar="N",
        help="schedules of a generation, planned or evolved: fewer search faster, and find less "
        "(default: 2048, of MetaSchedule 512)",
    )
    parser.add_argument(
        "--confirm",
        type=not_negative,
        metavar="N",
        help="trials of all that measure the best programs again at the end, so that none is "
        "chosen for one lucky measurement (default: an eighth, 16 a task at most; none of fewer "
        "than 32 trials a task)",
    )
    parser.add_argument(
        "--reference-every",
        type=positive,
        metavar="N",
        help="measure on a machine that changes its speed, such as one that others share: a "
        "reference program runs after every N candidates and says how fast the machine was, to "
        "which latencies are scaled; 1 is safest (default: measure without)",
    )
    parser.add_argument(
        "--export",
        type=output_path("--export"),
        metavar="FILE.so",
        help="with --network: write the compiled network as a library that TVM's runtime loads",
    )
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs the search and prints the outcome."""
    if options.round is None:
        options.round = 16 if options.network else min(max(options.trials // 4, 8), 64)
    if options.search is None:
        options.search = "planner" if options.cost_model == "world-model" else "evolutionary"
    if options.confirm is not None and options.confirm >= options.trials:
        raise CwmError(f"--confirm {options.confirm}: leaves none of {options.trials} trials")
    if options.search == "planner" and options.cost_model != "world-model":
        raise CwmError("--search planner imagines with the world model: --cost-model world-model")
    if options.pretrain and options.cost_model not in ("xgboost", "mlp"):
        raise CwmError("--pretrain is for the engines' own models: --cost-model xgboost or mlp")
    if options.engine == "metaschedule" and options.network:
        from cwm_jax.cli.tune_relax import run_relax

        return run_relax(options)
    if options.engine == "metaschedule":
        from cwm_jax.cli.tune_metaschedule import run_metaschedule

        return run_metaschedule(options)
    if options.cost_model == "mlp":
        raise CwmError("--cost-model mlp is MetaSchedule's: --engine metaschedule")
    if options.network:
        from cwm_jax.cli.tune_network import run_network

        return run_network(options)
    if options.export:
        raise CwmError("--export writes a whole network: give --network")
    workload = parse_workload(options.workload)
    log = log_path(options, options.workload)
    scorer = load_scorer(options)

    from cwm_jax.tuning.ansor.targets import resolve_target
    from cwm_jax.tuning.ansor.tasks import create_task
    from cwm_jax.tuning.ansor.tuning import resumable_records, schedule_text, tune_task
    from cwm_jax.tvm_bridge.ansor.graphs import graph_of_task
    from cwm_jax.tvm_bridge.runtime import use

    tvm = use("ansor")
    task = create_task(tvm, workload, resolve_target(tvm, options.target, remote=bool(options.rpc)))
    earlier = []
    if options.resume:
        earlier = resumable_records(log, [task.workload_key], str(task.target))
    log.parent.mkdir(parents=True, exist_ok=True)
    # Training on this log needs the compute graph, and should not need TVM.
    add_graphs([graph_of_task(tvm, task)], graphs_path(log))
    config = tuning_config(options)
    console = open_console()
    say(console, f"{options.workload} on {task.target}, log {log}")
    with shown_search(console, config.trials, log, "best", len(earlier)) as show:

        def report(done: "Round") -> None:
            show(done.trials, done.best_latency)

        result = tune_task(tvm, task, config, log, scorer=scorer, earlier=earlier, report=report)
    if result.best is None:
        say_none_succeeded(console, result, log)
        return 1
    schedule = schedule_text(tvm, task, result.best)
    finish(options, console, result, result.best, schedule, log)
    return 0


def tuning_config(options: argparse.Namespace, tasks: int = 1) -> "TuningConfig":
    """Returns the settings that the options ask for, for so many tasks."""
    from cwm_jax.tuning.ansor.settings import TuningConfig

    return TuningConfig(
        **shared_settings(options, tasks),
        cost_model=options.cost_model,
    )
