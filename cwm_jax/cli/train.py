"""`cwm train`: record logs in, a checkpoint out."""

import argparse
import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from cwm_jax.cli.common import add_json_option, positive, say, seed, write_json
from cwm_jax.cli.model_card import (
    describe_file,
    git_commit,
    key_hash,
    trained_on,
    versions,
)
from cwm_jax.cli.training_data import TrainingData, read_training_data
from cwm_jax.errors import CwmError
from cwm_jax.training.config import TrainingConfig

if TYPE_CHECKING:
    from cwm_jax.training.loop import Epoch


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
    parser.add_argument("records", nargs="+", type=Path, help="Ansor logs, plain or gzip'd")
    parser.add_argument(
        "--hardware", required=True, help="name of a hardware card, or the path of a .json card"
    )
    parser.add_argument("--out", required=True, type=Path, help="checkpoint folder to write")
    parser.add_argument(
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
        type=Path,
        metavar="DIR",
        help="for logs larger than memory: keep encoded schedules in this folder meanwhile; "
        "store features are not read",
    )
    parser.add_argument(
        "--tensorboard", type=Path, metavar="DIR", help="also write the curves for TensorBoard"
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
    from cwm_jax.model.checkpoint import load_checkpoint, save_checkpoint
    from cwm_jax.model.config import ModelConfig
    from cwm_jax.model.locations import find_checkpoint
    from cwm_jax.model.world_model import create_model
    from cwm_jax.training.distillation import teach
    from cwm_jax.training.loop import evaluate_model, train
    from cwm_jax.training.snapshots import Snapshots
    from cwm_jax.training.summaries import write_curves

    keep_compiled_programs()
    first = _join_hosts(options)
    check_devices()
    console = Console(stderr=True, quiet=not first)
    hardware = load_hardware(options.hardware)
    config = TrainingConfig(seed=options.seed, epochs=options.epochs, precision=options.precision)
    data = read_training_data(options, hardware, config)
    say(console, f"read {data.summary}\n{data}")
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
    # Where every host can read them, if there are several.
    snapshots = Snapshots(options.out.with_name(f".{options.out.name}-snapshots"))
    started = time.perf_counter()
    with _shown(console, config.epochs) as report:
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
    save_checkpoint(options.out, trained.model, model_config, hardware, card, files)
    snapshots.clear()
    if options.tensorboard:
        write_curves(options.tensorboard, trained.curves)
    say(
        console,
        f"test: top-1 {test.top1:.3f}, top-5 {test.top5:.3f}, pairwise {test.pairwise:.3f}, "
        f"Spearman {test.spearman:.3f}\nwrote {options.out}",
    )
    write_json(options.json, {"checkpoint": str(options.out), **card})
    return 0


def _join_hosts(options: argparse.Namespace) -> bool:
    """Joins the other hosts, if there are any; returns whether this one writes and reports."""
    if options.coordinator:
        import jax

        jax.distributed.initialize(options.coordinator, options.processes, options.process)
    elif options.processes > 1:
        raise CwmError("--processes: several hosts need the --coordinator that they meet at")
    return options.process == 0


@contextmanager
def _shown(console: Console, epochs: int) -> "Iterator[Callable[[Epoch], None]]":
    """Gives what shows each epoch when it is over."""
    with Progress(
        TextColumn("epoch {task.completed}/{task.total}"),
        BarColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
        console=console,
    ) as progress:
        bar = progress.add_task("", total=epochs)

        def report(epoch: "Epoch") -> None:
            text = f"loss {epoch.loss:.3f}  top-1 {epoch.top1:.3f}  pairwise {epoch.pairwise:.3f}"
            progress.update(bar, completed=epoch.epoch, description=text)
            if not console.is_terminal:  # where a bar is shown only once, at the end
                say(console, f"epoch {epoch.epoch}  {text}  {epoch.seconds:.0f} s")

        yield report


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
