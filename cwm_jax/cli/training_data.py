"""What `cwm train` reads to train and to be judged on, and what a card says of it."""

import argparse
import dataclasses
import hashlib
import importlib.metadata
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cwm_jax import __version__
from cwm_jax.cli.common import graphs_of_logs, occurrences_beside
from cwm_jax.errors import CwmError
from cwm_jax.records.graph import ComputeGraph, load_graphs
from cwm_jax.records.lines import LogSummary
from cwm_jax.records.logs import iterate_records
from cwm_jax.records.metaschedule.database import database_files
from cwm_jax.records.record import Record
from cwm_jax.records.store_features import load_with_stores
from cwm_jax.training.config import TrainingConfig

if TYPE_CHECKING:
    from cwm_jax.features.hardware import HardwareCard
    from cwm_jax.training.dataset import Split, WorkloadData

_VERSIONS_OF = ("jax", "flax", "optax", "orbax-checkpoint", "numpy")


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """Encoded workloads by name, which tells devices apart.

    Attributes:
        training: Workloads to train on, those of other devices last.
        test: Workloads to be judged on; none of them is in `training`.
        split: Keys of the logs' own workloads; as test, those of other devices where the logs
            hold none.
        other_devices: Names of other devices' workloads in `training`.
        with_graph: Own workloads whose compute graph is known.
        shape_only: The others.
        engines: Whose records they are.
        summary: Counts of what was read of the logs.
    """

    training: "dict[str, WorkloadData]"
    test: "dict[str, WorkloadData]"
    split: "Split"
    other_devices: tuple[str, ...]
    with_graph: int
    shape_only: int
    engines: set[str]
    summary: LogSummary

    def __str__(self) -> str:
        """Says how many workloads there are of which kind."""
        text = (
            f"{self.with_graph + self.shape_only} workloads ({self.with_graph} with their compute "
            f"graph): {len(self.split.train)} for training, {len(self.test)} for the test"
        )
        others = len(self.other_devices)
        return f"{text}; {others} of other devices for training" if others else text


def read_training_data(
    options: argparse.Namespace, hardware: "HardwareCard", config: TrainingConfig
) -> TrainingData:
    """Reads, encodes and splits the logs that `cwm train` is given.

    Args:
        options: Options of the command.
        hardware: Hardware of the device whose logs they are.
        config: Says how they are split where no network is held out.

    Raises:
        CwmError: A file cannot be read, or an option does not fit what is in it.
    """
    summary = LogSummary()
    graphs = graphs_of_logs(options.records, options.graphs)
    own, engines = _read(options, graphs, hardware, summary)
    keys = sorted({workload.key for workload in own.values()})
    split = split_of(keys, options, config)
    others, held_out, more_engines = _other_devices(options.also, {*split.test}, options.hold_out)
    training, test = (
        {name: workload for name, workload in own.items() if workload.key in part}
        for part in map(set, split)
    )
    if not split.test:
        test = held_out
        split = split._replace(test=tuple(sorted({found.key for found in held_out.values()})))
    known = sum(key in graphs for key in keys)
    if not training and not others:
        shown = ", ".join(options.hold_out)
        raise CwmError(f"--hold-out {shown}: leaves none of {len(keys)} workloads to train on")
    return TrainingData(
        training | others,
        test,
        split,
        tuple(others),
        known,
        len(keys) - known,
        engines | more_engines,
        summary,
    )


def _read(
    options: argparse.Namespace,
    graphs: Mapping[str, ComputeGraph],
    hardware: "HardwareCard",
    summary: LogSummary,
) -> "tuple[dict[str, WorkloadData], set[str]]":
    """Reads and encodes the logs; returns the workloads, and the engines whose records they are."""
    from cwm_jax.ranking.catalog import warn_of_training
    from cwm_jax.training.dataset import build_dataset
    from cwm_jax.training.streaming import RowFile, stream_dataset

    engines: set[str] = set()
    if not options.stream:
        records, stores = load_with_stores(options.records, summary, graphs)
        engines.update(record.engine for record in records)
        warn_of_training(hardware, Counter(map(_where_measured, records)))
        return build_dataset(records, graphs, hardware, stores), engines

    measured: Counter[tuple[str, int | None]] = Counter()

    def streamed() -> Iterator[Record]:
        for log in options.records:
            for record in iterate_records(log, summary, graphs):
                engines.add(record.engine)
                measured[_where_measured(record)] += 1
                yield record

    options.stream.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=options.stream, suffix=".schedules") as named:
        # The file lives as long as it is open, whatever becomes of its name.
        file = RowFile(Path(named.name))
    dataset = stream_dataset(streamed(), graphs, hardware, file)
    warn_of_training(hardware, measured)
    return dataset, engines


def _where_measured(record: Record) -> tuple[str, int | None]:
    return record.target, record.cores


def split_of(keys: Sequence[str], options: argparse.Namespace, config: TrainingConfig) -> "Split":
    """Holds out networks, or a random share of the workloads.

    Nothing is held out of these logs where only those of other devices hold the networks.

    Args:
        keys: Keys of the workloads.
        options: Options of the command.
        config: As for `read_training_data`.

    Raises:
        CwmError: No log holds a network that is to be held out.
    """
    from cwm_jax.training.dataset import Split, split_by_network, split_for_training

    if not options.hold_out:
        return split_for_training(keys, test=config.test, seed=config.seed)
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
    from cwm_jax.features.hardware import load_hardware
    from cwm_jax.ranking.catalog import warn_of_training
    from cwm_jax.training.dataset import build_dataset, split_by_network

    found: dict[str, WorkloadData] = {}
    left_out: dict[str, WorkloadData] = {}
    engines: set[str] = set()
    for text in texts:
        name, separator, path = text.partition("=")
        if not separator:
            raise CwmError(f"--also {text!r}: expected HARDWARE=LOG")
        log = Path(path)
        card = load_hardware(name)
        records, stores = load_with_stores([log], LogSummary())
        engines |= {record.engine for record in records}
        warn_of_training(card, Counter(map(_where_measured, records)))
        dataset = build_dataset(records, load_graphs(log), card, stores)
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


def describe_file(path: Path) -> dict[str, Any]:
    """Returns a file's name, digest and size; of a database's folder, those of its records.

    What was read from a pipe is gone: only its name is known.
    """
    file = database_files(path)[1] if path.is_dir() else path
    if not file.is_file():
        return {"file": path.name}
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return {
        "file": path.name or path.resolve().name,
        "sha256": digest,
        "bytes": file.stat().st_size,
    }


def versions() -> dict[str, str]:
    """Returns the versions of this package and of what it trains with."""
    others = {name: importlib.metadata.version(name) for name in _VERSIONS_OF}
    return {"cwm-jax": __version__, **others}


def git_commit() -> str | None:
    """Returns the commit of the clone that this package runs from, if it runs from one."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    done = subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None
