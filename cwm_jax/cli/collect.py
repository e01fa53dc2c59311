"""`cwm collect`: measure a corpus of records on this machine."""

import argparse
from collections import Counter
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from cwm_jax.cli.common import (
    ENGINE_HELP,
    LIKEST,
    add_json_option,
    checkpoint_of,
    lock_output,
    open_console,
    open_progress,
    output_path,
    positive,
    say,
    seed,
    write_json,
)
from cwm_jax.errors import WorkloadError
from cwm_jax.files import Output, check_outputs
from cwm_jax.interrupts import note_kept
from cwm_jax.tuning.registry import find_engine

if TYPE_CHECKING:
    from cwm_jax.ranking.scorer import Scorer
    from cwm_jax.tuning.collection import CollectedRound
    from cwm_jax.tuning.corpus import TaskPlan


def add_parser(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser(
        "collect",
        help="measure a corpus of records on this machine",
        description="Measures candidates of many workloads with a real tuner, for training: "
        "random samples, mutated ones, and ones that the current model favours; of a workload "
        "with more than one round, also what the engine's XGBoost model finds when it has learned "
        "the rounds before. Goes on where an earlier call stopped. Run nothing else on the "
        "machine: a reference program is measured between groups of candidates; a group is "
        "measured again if it changed meanwhile, and scaled by how fast it was.",
    )
    parser.add_argument(
        "--out", required=True, type=output_path("--out"), help="folder of the corpus"
    )
    parser.add_argument(
        "--engine",
        default="ansor",
        help=ENGINE_HELP,
    )
    parser.add_argument(
        "--networks",
        nargs="*",
        metavar="NAME:BATCH,LAYOUT",
        help="networks whose tasks are measured; a corpus that exists takes in what it lacks, and "
        "its other tasks wait (default: all that it holds, of a new one the project's list)",
    )
    parser.add_argument(
        "--workloads",
        nargs="*",
        metavar="WORKLOAD",
        help="operators to measure, named as for cwm tune",
    )
    parser.add_argument(
        "--records", type=positive, default=32, help="records of each workload (default: 32)"
    )
    parser.add_argument(
        "--round", type=positive, default=32, help="programs measured together (32)"
    )
    parser.add_argument(
        "--checkpoint",
        help=f"world model that guides, or 'none' (default: {LIKEST})",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="how far the references before and after what counts may be apart (0.05)",
    )
    parser.add_argument(
        "--reference-every",
        type=positive,
        default=16,
        metavar="N",
        help="candidates between two runs of the reference (16); 1 on a machine that others share",
    )
    parser.add_argument("--target", help="TVM target (default: this machine's CPU)")
    parser.add_argument(
        "--max-flop",
        type=float,
        metavar="N",
        help="this time, leave out workloads of more floating-point operations",
    )
    parser.add_argument("--minutes", type=float, help="stop after the round that passes this")
    parser.add_argument(
        "--remeasure",
        type=positive,
        metavar="N",
        help="instead, measure N random records of the corpus once more, to know the noise",
    )
    parser.add_argument("--seed", type=seed, default=0)
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Collects and reports."""
    from cwm_jax.tuning.collection import CollectionConfig, collect, open_corpus, remeasure_some
    from cwm_jax.tuning.corpus import Corpus, plan_tasks
    from cwm_jax.tuning.machine import machine_identity
    from cwm_jax.tuning.measurement import MeasureConfig, kept_in

    console = open_console(stderr=True)
    check_outputs(Output("--out", options.out, folder=True), Output("--json", options.json))
    plan = _plan(options)
    lock_output(options, options.out, folder=True)
    refused: list[WorkloadError] = []

    def refuse(error: WorkloadError) -> None:
        refused.append(error)
        say(console, f"cwm collect: {error}; the others go on")

    config = MeasureConfig(tolerance=options.tolerance, reference_every=options.reference_every)
    scorer = _scorer(options)
    engine = find_engine(options.engine).load(options.target, False)
    collector = engine.collector(scorer)
    tasks, named = open_corpus(
        collector,
        options.out,
        machine_identity(engine.target),
        lambda: plan_tasks(
            engine.corpus_tasks(), plan, lambda name: say(console, f"extracting {name}"), refuse
        ),
        extend=options.networks is not None or options.workloads is not None,
    )
    measurer = kept_in(Corpus(options.out).reference, engine.device(config), config)
    if options.remeasure:
        return _remeasure(
            options,
            console,
            lambda report: remeasure_some(
                collector,
                options.out,
                tasks,
                measurer,
                options.remeasure,
                options.seed,
                report,
            ),
        )
    tasks = [task for task in tasks if task.workload_key in named]
    if options.max_flop is not None:
        tasks = [task for task in tasks if task.flop <= options.max_flop]
    wanted = CollectionConfig(
        records_per_workload=options.records,
        round_size=options.round,
        seconds=None if options.minutes is None else options.minutes * 60,
        seed=options.seed,
    )
    totals: Counter[str] = Counter()
    with _progress(console) as progress:
        bar = progress.add_task("collecting", total=len(tasks) * options.records)

        def report(done: "CollectedRound") -> None:
            totals.update(
                measured=done.measured, valid=done.valid, repeated=done.attempts - 1, rounds=1
            )
            text = f"{totals['measured']} new, {totals['valid']} valid"
            if totals["repeated"]:
                text += f", {totals['repeated']} unsteady runs repeated"
            progress.update(bar, completed=done.total, description=text)
            if done.valid == 0:
                why = done.first_error or "no candidate was found"
                say(console, f"{done.workload_key}: nothing valid ({why})")

        kept = f"finished rounds are in {options.out}, the same command goes on"
        with note_kept(lambda: kept if Corpus(options.out).records.exists() else ""):
            collect(collector, options.out, tasks, measurer, wanted, report=report)
    say(console, f"{dict(totals)} in {options.out}")
    write_json(options.json, {"folder": str(options.out), "tasks": len(tasks), **totals})
    if refused:
        return 2
    return 0 if totals["valid"] or not totals["rounds"] else 1


def _plan(options: argparse.Namespace) -> "TaskPlan":
    from cwm_jax.tuning.corpus import TaskPlan, default_plan
    from cwm_jax.workloads.networks import parse_network
    from cwm_jax.workloads.parse import parse_workload

    if options.networks is None and options.workloads is None:
        return default_plan()
    return TaskPlan(
        networks=tuple(parse_network(text) for text in options.networks or ()),
        workloads=tuple((text, parse_workload(text)) for text in options.workloads or ()),
    )


def _scorer(options: argparse.Namespace) -> "Scorer | None":
    if options.checkpoint == "none" or options.remeasure:
        return None
    from cwm_jax.ranking.scorer import Scorer

    return Scorer.load(checkpoint_of(options))


def _progress(console: Console) -> Progress:
    return open_progress(console, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())


def _remeasure(options: argparse.Namespace, console: Console, measure: Any) -> int:
    with _progress(console) as progress:
        bar = progress.add_task("measuring again", total=options.remeasure)
        measure(lambda count: progress.update(bar, completed=count))
    write_json(options.json, {"folder": str(options.out), "remeasured": options.remeasure})
    return 0
