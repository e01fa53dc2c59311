"""`cwm train`: record logs in, a checkpoint out."""

import argparse
import dataclasses
import hashlib
import importlib.metadata
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from cwm_jax import __version__
from cwm_jax.cli.common import (
    add_json_option,
    occurrences_beside,
    positive,
    programs_of_logs,
    say,
    write_json,
)
from cwm_jax.errors import CwmError
from cwm_jax.records.ansor_log import LogSummary, iterate_records
from cwm_jax.records.program import Program, load_programs
from cwm_jax.records.record import Record
from cwm_jax.records.store_features import load_with_stores
from cwm_jax.training.config import TrainingConfig

if TYPE_CHECKING:
    from cwm_jax.features.hardware import HardwareCard
    from cwm_jax.training.dataset import Split, WorkloadData

_VERSIONS_OF = ("jax", "flax", "optax", "orbax-checkpoint", "numpy")


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
    parser.add_argument("--seed", type=int, default=0)
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
    from cwm_jax.compilation import keep_compiled_programs
    from cwm_jax.features.hardware import load_hardware
    from cwm_jax.model.checkpoint import load_checkpoint, save_checkpoint
    from cwm_jax.model.config import ModelConfig
    from cwm_jax.model.locations import find_checkpoint
    from cwm_jax.model.world_model import create_model
    from cwm_jax.training.distillation import teach
    from cwm_jax.training.loop import Epoch, evaluate_model, train
    from cwm_jax.training.snapshots import Snapshots
    from cwm_jax.training.summaries import write_curves

    keep_compiled_programs()
    first = _join_hosts(options)
    console = Console(stderr=True, quiet=not first)
    hardware = load_hardware(options.hardware)
    summary = LogSummary()
    programs = programs_of_logs(options.records, options.programs)
    dataset, engines = _read(options, programs, hardware, summary)
    say(console, f"read {summary}")
    keys = sorted({workload.key for workload in dataset.values()})
    config = TrainingConfig(seed=options.seed, epochs=options.epochs, precision=options.precision)
    split = _split(keys, options, config)
    others, held_out, more_engines = _other_devices(options.also, {*split.test}, options.hold_out)
    known = sum(key in programs for key in keys)
    training, test = (
        [name for name, workload in dataset.items() if workload.key in {*part}] for part in split
    )
    if not split.test:
        test = list(held_out)
        dataset = dataset | held_out
        split = split._replace(test=tuple(sorted({found.key for found in held_out.values()})))
    say(
        console,
        f"{len(keys)} workloads ({known} with their compute graph): {len(split.train)} for "
        f"training, {len(test)} for the test"
        + (f"; {len(others)} of other devices for training" if others else ""),
    )
    model_config, initial, known_tests = ModelConfig(), None, 0
    labelled = {name: dataset[name] for name in training} | others
    if named := options.start or options.teacher:
        base = load_checkpoint(find_checkpoint(named))
        known_tests = len(trained_on(base.card, split.test))
        if known_tests:
            say(
                console,
                f"{named} was trained on {known_tests} of the {len(split.test)} test workloads: "
                "the metrics below flatter",
            )
        if options.start:
            model_config, initial = base.config, base.model
        else:
            model_config = dataclasses.replace(base.config, members=1)
            labelled = teach(labelled, base.model)
    # Where every host can read them, if there are several.
    snapshots = Snapshots(options.out.with_name(f".{options.out.name}-snapshots"))
    started = time.perf_counter()
    with Progress(
        TextColumn("epoch {task.completed}/{task.total}"),
        BarColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
        console=console,
    ) as progress:
        bar = progress.add_task("", total=config.epochs)

        def report(epoch: Epoch) -> None:
            text = f"loss {epoch.loss:.3f}  top-1 {epoch.top1:.3f}  pairwise {epoch.pairwise:.3f}"
            progress.update(bar, completed=epoch.epoch, description=text)
            if not console.is_terminal:  # where a bar is shown only once, at the end
                say(console, f"epoch {epoch.epoch}  {text}  {epoch.seconds:.0f} s")

        trained = train(
            dataset | labelled,
            list(labelled),
            test,
            lambda seed: create_model(model_config, seed),
            model_config.members,
            config,
            report,
            initial,
            snapshots,
        )
    if not first:
        return 0
    metrics = {
        "test": dataclasses.asdict(evaluate_model(trained.model, dataset, test)),
    }
    provenance = {
        "training": dataclasses.asdict(config),
        "data": [_describe_file(path) for path in options.records],
        "other_devices": [
            {"hardware": name, **_describe_file(Path(path))}
            for name, _, path in (text.partition("=") for text in options.also)
        ],
        "records": {"valid": summary.valid, "read": summary.records, "skipped": summary.skipped},
        "workloads": {"with_graph": known, "shape_only": len(keys) - known},
        "split": {name: [key_hash(key) for key in keys] for name, keys in split._asdict().items()}
        | {"other_devices": sorted({key_hash(workload.key) for workload in others.values()})},
        "engines": sorted(engines | more_engines),
        "adapted_from": options.start,
        "taught_by": options.teacher,
        "test_workloads_known_before": known_tests,
        "metrics": metrics,
        "seconds": round(time.perf_counter() - started, 1),
        "versions": {
            "cwm-jax": __version__,
            **{name: importlib.metadata.version(name) for name in _VERSIONS_OF},
        },
        "commit": _git_commit(),
    }
    curves = b"".join(orjson.dumps(epoch._asdict()) + b"\n" for epoch in trained.curves)
    save_checkpoint(
        options.out,
        trained.model,
        model_config,
        hardware,
        provenance,
        {"curves.jsonl": curves},
    )
    snapshots.clear()
    if options.tensorboard:
        write_curves(options.tensorboard, trained.curves)
    test = metrics["test"]
    say(
        console,
        f"test: top-1 {test['top1']:.3f}, top-5 {test['top5']:.3f}, pairwise "
        f"{test['pairwise']:.3f}, Spearman {test['spearman']:.3f}\nwrote {options.out}",
    )
    write_json(options.json, {"checkpoint": str(options.out), **provenance})
    return 0


def _read(
    options: argparse.Namespace,
    programs: Mapping[str, Program],
    hardware: "HardwareCard",
    summary: LogSummary,
) -> "tuple[dict[str, WorkloadData], set[str]]":
    """Reads and encodes the logs; returns the workloads, and the engines whose records they are."""
    from cwm_jax.training.dataset import build_dataset
    from cwm_jax.training.disk_arrays import RowFile
    from cwm_jax.training.streaming import stream_dataset

    engines: set[str] = set()
    if not options.stream:
        records, stores = load_with_stores(options.records, summary)
        engines.update(record.engine for record in records)
        return build_dataset(records, programs, hardware, stores), engines

    def streamed() -> Iterator[Record]:
        for log in options.records:
            for record in iterate_records(log, summary):
                engines.add(record.engine)
                yield record

    with tempfile.NamedTemporaryFile(dir=options.stream, suffix=".schedules") as named:
        # The file lives as long as it is open, whatever becomes of its name.
        file = RowFile(Path(named.name))
    return stream_dataset(streamed(), programs, hardware, file), engines


def _join_hosts(options: argparse.Namespace) -> bool:
    """Joins the other hosts, if there are any; returns whether this one writes and reports."""
    if options.coordinator:
        import jax

        jax.distributed.initialize(options.coordinator, options.processes, options.process)
    elif options.processes > 1:
        raise CwmError("--processes: several hosts need the --coordinator that they meet at")
    return options.process == 0


def _split(keys: list[str], options: argparse.Namespace, config: TrainingConfig) -> "Split":
    """Holds out networks, or a random share of the workloads.

    Nothing is held out of these logs where only those of other devices hold the networks.
    """
    from cwm_jax.evaluation.splits import split_by_network
    from cwm_jax.training.dataset import Split, split_workloads

    if not options.hold_out:
        return split_workloads(keys, test=config.test, seed=config.seed)
    occurrences: dict[str, dict[str, int]] = {key: {} for key in keys}
    names: set[str] = set()
    others = (Path(text.partition("=")[2]) for text in options.also)
    for log in (*options.records, *others):
        found = occurrences_beside(log)
        occurrences |= {key: of | found.get(key, {}) for key, of in occurrences.items()}
        names |= {text.partition(":")[0] for of in found.values() for text in of}
    if missing := [name for name in options.hold_out if name not in names]:
        raise CwmError(f"--hold-out: no workload of these logs is of {', '.join(missing)}")
    held = split_by_network(occurrences, options.hold_out)
    return Split(held.train, held.test_keys)


def _other_devices(
    texts: Sequence[str], held_out: set[str], networks: Sequence[str]
) -> "tuple[dict[str, WorkloadData], dict[str, WorkloadData], set[str]]":
    """Encodes logs of other devices; names tell devices apart.

    Returns the workloads to train on, those of held-out networks, and the engines whose records
    they are.
    """
    from cwm_jax.evaluation.splits import split_by_network
    from cwm_jax.features.hardware import load_hardware
    from cwm_jax.training.dataset import build_dataset

    found: dict[str, WorkloadData] = {}
    left_out: dict[str, WorkloadData] = {}
    engines: set[str] = set()
    for text in texts:
        name, separator, path = text.partition("=")
        if not separator:
            raise CwmError(f"--also {text!r}: expected HARDWARE=LOG")
        log = Path(path)
        records, stores = load_with_stores([log], LogSummary())
        engines |= {record.engine for record in records}
        dataset = build_dataset(records, load_programs(log), load_hardware(name), stores)
        of_networks = {*split_by_network(occurrences_beside(log), networks).test_keys}
        for key, workload in dataset.items():
            if key in of_networks:
                left_out[f"{name} {key}"] = workload
            elif key not in held_out:
                found[f"{name} {key}"] = workload
    # What one log knows as a network's, another may hold as an operator.
    of_test = {workload.key for workload in left_out.values()}
    trained = {name: workload for name, workload in found.items() if workload.key not in of_test}
    return trained, left_out, engines


def trained_on(card: Mapping[str, Any], keys: Sequence[str]) -> set[str]:
    """Returns the workloads that a checkpoint was trained on, on whatever device.

    Args:
        card: Its model card.
        keys: Workload keys to choose from.
    """
    split = card.get("split", {})
    seen = {hashed for part, hashes in split.items() if part != "test" for hashed in hashes}
    return {key for key in keys if key_hash(key) in seen}


def key_hash(workload_key: str) -> str:
    """Returns the short hash by which a model card names a workload."""
    return hashlib.sha256(workload_key.encode()).hexdigest()[:12]


def _describe_file(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"file": path.name, "sha256": digest, "bytes": path.stat().st_size}


def _git_commit() -> str | None:
    """The commit of the clone that this package runs from, if it runs from one."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    done = subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None
