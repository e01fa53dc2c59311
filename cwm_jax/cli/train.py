"""`cwm train`: record logs in, a checkpoint out."""

import argparse
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from cwm_jax.cli.common import (
    RECORDS_HELP,
    add_json_option,
    lock_output,
    open_console,
    open_progress,
    output_path,
    positive,
    say,
    seed,
    write_json,
)
from cwm_jax.cli.training_data import (
    TrainingData,
    describe_file,
    git_commit,
    key_hash,
    read_training_data,
    trained_on,
    versions,
)
from cwm_jax.errors import CwmError
from cwm_jax.files import Output, check_outputs
from cwm_jax.interrupts import note_kept, writing
from cwm_jax.training.config import TrainingConfig

if TYPE_CHECKING:
    from cwm_jax.training.loop import Epoch
    from cwm_jax.training.snapshots import Snapshots


_WRITTEN = ("card.json", "parameters", "curves.jsonl")
"""What the folder of a checkpoint holds."""


def add_parser(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser(
        "train",
        help="train a checkpoint from record logs",
        description="Trains a world model on Ansor logs of one device and writes a checkpoint: "
        "Orbax parameters, a model card, and the learning curves. Workloads are split into "
        "training and test; no workload is in both. A run that was stopped goes on when the same "
        "command is given again. All local devices are used; for several hosts give each the "
        "same command, --coordinator, --processes and its own --process.",
    )
    parser.add_argument("records", nargs="+", type=Path, help=RECORDS_HELP)
    parser.add_argument(
        "--hardware", required=True, help="name of a hardware card, or the path of a .json card"
    )
    parser.add_argument(
        "--out", required=True, type=output_path("--out"), help="checkpoint folder to write"
    )
    parser.add_argument(
        "--graphs",
        "--programs",
        nargs="*",
        type=Path,
        default=[],
        help="compute graphs (LOG.programs.jsonl beside a log is found by itself)",
    )
    parser.add_argument(
        "--also",
        nargs="*",
        default=[],
        metavar="HARDWARE=LOG",
        help="logs of other devices to train on, too",
    )
    parser.add_argument(
        "--hold-out",
        nargs="*",
        default=[],
        metavar="NETWORK",
        help="networks whose workloads are left out (of corpora that cwm collect wrote): the "
        "test set, that of other devices where only their logs hold any; default: a random share "
        "of the workloads",
    )
    base = parser.add_mutually_exclusive_group()
    base.add_argument(
        "--from",
        dest="start",
        metavar="CHECKPOINT",
        help="adapt this checkpoint, of another device perhaps, in place of a fresh model",
    )
    base.add_argument(
        "--teacher",
        metavar="CHECKPOINT",
        help="train a single model that learns what this checkpoint's ensemble says of the "
        "records, too, and ranks several times as fast",
    )
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument(
        "--epochs",
        type=positive,
        default=TrainingConfig().epochs,
        help=f"passes over the logs ({TrainingConfig().epochs})",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="in which the model computes; bfloat16 is for GPUs and TPUs (float32)",
    )
    parser.add_argument(
        "--stream",
        type=output_path("--stream"),
        metavar="DIR",
        help="for logs larger than memory: keep encoded schedules in this folder meanwhile; "
        "store features are not read",
    )
    parser.add_argument(
        "--tensorboard",
        type=output_path("--tensorboard"),
        metavar="DIR",
        help="also write the curves for TensorBoard",
    )
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="of several hosts")
    parser.add_argument("--processes", type=positive, default=1, help="hosts in all (1)")
    parser.add_argument("--process", type=int, default=0, help="which of them this is (0)")
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Trains and writes the checkpoint."""
    from cwm_jax.compilation import check_devices, keep_compiled_programs
    from cwm_jax.features.hardware import load_hardware
    from cwm_jax.model.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
    from cwm_jax.model.world_model import ModelConfig, create_model
    from cwm_jax.training.dataset import teach
    from cwm_jax.training.loop import evaluate_model, train, write_curves
    from cwm_jax.training.snapshots import Snapshots

    check_outputs(
        Output("--out", options.out, folder=True),
        Output("--json", options.json),
        Output("--tensorboard", options.tensorboard, folder=True),
        Output("--stream", options.stream, folder=True),
        inputs=options.records,
    )
    out = _place_of(options)
    # Where every host can read them, if there are several.
    snapshots = Snapshots(out.with_name(f".{out.name}-snapshots"))
    check_outputs(Output("--out", snapshots.folder, folder=True))
    keep_compiled_programs()
    first = _join_hosts(options)
    check_devices()
    if first:
        lock_output(options, snapshots.folder, folder=True)
    console = open_console(stderr=True, quiet=not first)
    hardware = load_hardware(options.hardware)
    config = TrainingConfig(seed=options.seed, epochs=options.epochs, precision=options.precision)
    data = read_training_data(options, hardware, config)
    say(console, f"read {data.summary}\n{data}")
    if not data.test:
        say(
            console,
            "no workload is left to judge the checkpoint by: these logs are too small for a test "
            "set, so its quality will not be known",
        )
    model_config, initial, labelled, known_tests = ModelConfig(), None, data.training, 0
    if named := options.start or options.teacher:
        base = load_checkpoint(find_checkpoint(named))
        known_tests = len(trained_on(base.card, data.split.test))
        if known_tests:
            say(
                console,
                f"{named} was trained on {known_tests} of the {len(data.split.test)} test "
                "workloads: the metrics below flatter",
            )
        if options.start:
            model_config, initial = base.config, base.model
        else:
            model_config = dataclasses.replace(base.config, members=1)
            labelled = teach(labelled, base.model)
    started = time.perf_counter()
    with note_kept(lambda: _kept(snapshots)), _shown(console, config.epochs) as report:
        trained = train(
            data.test | labelled,
            list(labelled),
            list(data.test),
            lambda seed: create_model(model_config, seed),
            model_config.members,
            config,
            report,
            initial,
            snapshots,
        )
    if not first:
        return 0
    test = evaluate_model(trained.model, data.test, list(data.test))
    card = {
        **_provenance(options, data, config),
        "test_workloads_known_before": known_tests,
        "metrics": {"test": dataclasses.asdict(test)},
        "seconds": round(time.perf_counter() - started, 1),
    }
    curves = b"".join(orjson.dumps(epoch._asdict()) + b"\n" for epoch in trained.curves)
    files = {"curves.jsonl": curves}
    with writing():
        save_checkpoint(out, trained.model, model_config, hardware, card, files)
        snapshots.clear()
    if options.tensorboard:
        write_curves(options.tensorboard, trained.curves)
    measures = ("top-1", test.top1), ("top-5", test.top5), ("pairwise", test.pairwise)
    found = _shown_measures([*measures, ("Spearman", test.spearman)])
    judged = f"test: {found}" if found else "not judged: no test workload tells its ranking"
    say(console, f"{judged}\nwrote {options.out}")
    write_json(options.json, {"checkpoint": str(options.out), **card})
    return 0


def _place_of(options: argparse.Namespace) -> Path:
    """Returns the folder of the checkpoint.

    Raises:
        CwmError: It holds something else, or cannot be replaced by a new folder.
    """
    out = options.out if options.out.name not in ("", "..") else options.out.resolve()
    if not out.name or out.is_mount():
        raise CwmError(f"--out {out}: cannot be replaced by a new folder; name one in it")
    if out.is_dir() and any(out.iterdir()) and not (out / "card.json").exists():
        raise CwmError(
            f"--out {out}: holds something else than a checkpoint, which would be lost; name a new "
            "folder"
        )
    others = sorted(
        path.name for path in (out.iterdir() if out.is_dir() else ()) if path.name not in _WRITTEN
    )
    if others:
        raise CwmError(
            f"--out {out}: holds {others[0]} beside a checkpoint, which would be lost; name a new "
            "folder"
        )
    return out


def _kept(snapshots: "Snapshots") -> str:
    """Says of a run that is interrupted what is kept."""
    if snapshots.folder.is_dir() and any(p.name.isdigit() for p in snapshots.folder.iterdir()):
        return f"a snapshot is in {snapshots.folder}, the same command goes on from it"
    return "no snapshot was due yet, the same command starts anew"


def _join_hosts(options: argparse.Namespace) -> bool:
    """Joins the other hosts, if there are any; returns whether this one writes and reports."""
    if options.coordinator:
        import jax

        # Nothing here asks the service, and it would take SIGTERM away.
        jax.config.update("jax_enable_preemption_service", False)
        jax.distributed.initialize(options.coordinator, options.processes, options.process)
    elif options.processes > 1:
        raise CwmError("--processes: several hosts need the --coordinator that they meet at")
    return options.process == 0


@contextmanager
def _shown(console: Console, epochs: int) -> "Iterator[Callable[[Epoch], None]]":
    """Gives what shows each epoch when it is over."""
    columns = (
        TextColumn("epoch {task.completed}/{task.total}"),
        BarColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
    )
    with open_progress(console, *columns, description=False) as progress:
        bar = progress.add_task("", total=epochs)

        def report(epoch: "Epoch") -> None:
            measures = ("loss", epoch.loss), ("top-1", epoch.top1), ("pairwise", epoch.pairwise)
            text = _shown_measures(measures)
            progress.update(bar, completed=epoch.epoch, description=text)
            if not console.is_terminal:  # where a bar is shown only once, at the end
                say(console, f"epoch {epoch.epoch}  {text}  {epoch.seconds:.0f} s")

        yield report


def _shown_measures(measures: Sequence[tuple[str, float]]) -> str:
    """Shows those that are known: none is of an empty test set."""
    known = (f"{name} {value:.3f}" for name, value in measures if not math.isnan(value))
    return ", ".join(known)


def _provenance(
    options: argparse.Namespace, data: TrainingData, config: TrainingConfig
) -> dict[str, Any]:
    """Returns what the checkpoint comes from, for its card."""
    summary = data.summary
    others = {data.training[name].key for name in data.other_devices}
    split = {
        name: [key_hash(key) for key in keys]
        for name, keys in [*data.split._asdict().items(), ("other_devices", sorted(others))]
    }
    return {
        "training": dataclasses.asdict(config),
        "data": [describe_file(path) for path in options.records],
        "other_devices": [
            {"hardware": name, **describe_file(Path(path))}
            for name, _, path in (text.partition("=") for text in options.also)
        ],
        "records": {"valid": summary.valid, "read": summary.records, "skipped": summary.skipped},
        "workloads": {"with_graph": data.with_graph, "shape_only": data.shape_only},
        "split": split,
        "engines": sorted(data.engines),
        "adapted_from": options.start,
        "taught_by": options.teacher,
        "versions": versions(),
        "commit": git_commit(),
    }
