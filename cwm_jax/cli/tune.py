"""`cwm tune`: search for a fast schedule of an operator on this machine."""

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cwm_jax.cli.common import (
    ENGINE_HELP,
    add_checkpoint_options,
    add_json_option,
    not_negative,
    open_console,
    output_path,
    positive,
    say,
    seed,
)
from cwm_jax.cli.searching import (
    check_export,
    finish,
    finish_network,
    load_scorer,
    print_tasks,
    say_none_succeeded,
    search_place,
    shown_search,
)
from cwm_jax.errors import CwmError
from cwm_jax.tuning.registry import EngineDescription, find_engine
from cwm_jax.workloads.networks import networks_help
from cwm_jax.workloads.parse import operators_help, parse_workload

if TYPE_CHECKING:
    from cwm_jax.tuning.engine import RoundResult
    from cwm_jax.tuning.measurement import TuningConfig


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
        default="ansor",
        help=ENGINE_HELP,
    )
    parser.add_argument(
        "--cost-model",
        default="world-model",
        help="which model ranks: world-model, xgboost, random, or MetaSchedule's mlp (default: "
        "world-model)",
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
    from cwm_jax.tuning.tune import check_settings

    engine = find_engine(options.engine)
    check_settings(
        engine,
        options.cost_model,
        options.search,
        options.pretrain,
        options.trials,
        options.confirm,
    )
    if options.network:
        return _run_network(options, engine)
    if options.export:
        raise CwmError("--export writes a whole network: give --network")
    workload = parse_workload(options.workload)
    place = search_place(options, engine, options.workload)
    scorer = load_scorer(options)

    from cwm_jax.tuning.loop import tune_task

    loaded = engine.load(options.target, bool(options.rpc))
    (task,) = loaded.tasks(workload)
    config = _config(options, engine)
    console = open_console()
    what = "folder" if engine.in_folder else "log"
    say(console, f"{options.workload} on {loaded.target}, {what} {place}")
    with shown_search(console, config.trials, place, "best") as show:

        def report(done: "RoundResult") -> None:
            show(done.trials, done.best_latency)

        result = tune_task(
            loaded, task, config, place, scorer=scorer, resume=bool(options.resume), report=report
        )
    if result.best is None:
        say_none_succeeded(console, result)
        return 1
    finish(options, console, result, config.search)
    return 0


def _run_network(options: argparse.Namespace, engine: EngineDescription) -> int:
    """Tunes, compiles, times and exports a network."""
    from cwm_jax.tuning.network import tune_network
    from cwm_jax.tuning.tune import compiled

    check_export(options.export)
    place = search_place(options, engine, options.network)
    scorer = load_scorer(options)
    loaded = engine.load(options.target, bool(options.rpc))
    model = loaded.network(options.network, options.seed)
    config = _config(options, engine, len(model.tasks))
    loaded.check_network(options.network, model)
    console = open_console()
    where = f"{'folder' if engine.in_folder else 'log'} {place}"
    say(console, f"{model.name}: {len(model.tasks)} tasks on {loaded.target}, {where}")
    with shown_search(console, config.trials, place, "estimated latency") as show:

        def report(done: "RoundResult") -> None:
            show(done.trials, done.best_latency)

        tuned = tune_network(
            loaded,
            model.tasks,
            config,
            place,
            scorer=scorer,
            resume=bool(options.resume),
            report=report,
        )
    print_tasks(console, model.tasks, tuned)
    if math.isinf(min(tuned.best_latencies)):
        why = tuned.first_error or "no candidate was found"
        say(console, f"none of {sum(tuned.trials)} trials succeeded ({why}); {where}")
        return 1
    say(console, f"compiling {model.name}")
    result = compiled(loaded, model, tuned, config, place, options.seed)
    finish_network(options, console, result, config.search)
    return 0


def _config(
    options: argparse.Namespace, engine: EngineDescription, tasks: int = 1
) -> "TuningConfig":
    """Returns the settings that the options ask for, for so many tasks."""
    from cwm_jax.tuning.tune import configured

    return configured(
        engine,
        trials=options.trials,
        round_size=options.round,
        seed=options.seed,
        cost_model=options.cost_model,
        search=options.search,
        adaptation=options.adaptation,
        confirm=options.confirm,
        reference_every=options.reference_every,
        rpc=options.rpc,
        pretrain=options.pretrain,
        population=options.population,
        tasks=tasks,
        network=options.network,
    )
