"""TVM's features of lowered programs, kept beside a log: `LOG.stores.npz`.

One row of 164 numbers a buffer store (`src/auto_scheduler/feature.cc`), extracted once and
offline. Training aligns terminal latents with them; the static baselines take them as input.
Scoring never needs them.
"""

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from cwm_jax.errors import RecordError
from cwm_jax.files import write_atomically
from cwm_jax.records.graph import ComputeGraph
from cwm_jax.records.lines import LogSummary
from cwm_jax.records.logs import load_records
from cwm_jax.records.record import Record

STORE_WIDTH = 164

Stores = Float32[np.ndarray, "store column"]


def stores_path(log: Path) -> Path:
    """Returns where the store features of a log lie."""
    stem = log.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".json")
    return log.with_name(f"{stem}.stores.npz")


def write_stores(path: Path, stores: Sequence[Stores]) -> None:
    """Writes the features of a log's records, in the order of its readable lines.

    Args:
        path: File to write.
        stores: One array a record; no rows where the program could not be lowered.
    """
    counts = np.array([len(rows) for rows in stores], np.int32)
    rows = np.concatenate([*stores, np.zeros((0, STORE_WIDTH), np.float32)])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, counts=counts, rows=rows.astype(np.float16))
    write_atomically(path, buffer.getvalue())


def read_stores(path: Path, records: int) -> list[Stores]:
    """Reads what `write_stores` wrote.

    Args:
        path: File to read.
        records: Readable lines of the log.

    Raises:
        RecordError: The file is missing, malformed, or belongs to another log.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            counts, rows = data["counts"], data["rows"].astype(np.float32)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise RecordError(f"{path}: cannot be read ({error})") from error
    if counts.shape != (records,) or rows.shape != (counts.sum(), STORE_WIDTH):
        raise RecordError(
            f"{path}: holds {len(counts)} records, the log {records}; extract them again"
        )
    return np.split(rows, np.cumsum(counts)[:-1]) if records else []


def load_with_stores(
    logs: Sequence[Path], summary: LogSummary, graphs: Mapping[str, ComputeGraph] | None = None
) -> tuple[list[Record], list[Stores] | None]:
    """Loads the valid records of logs, with the store features that lie beside them.

    Args:
        logs: Logs, or databases.
        summary: Counts what is read and skipped.
        graphs: As for `iterate_records`.

    Returns:
        The records, and the features of each; no rows for a log without them, None where no
        log has any.

    Raises:
        RecordError: A log cannot be read or holds no valid record, or its features are another
            log's.
    """
    records: list[Record] = []
    stores: list[Stores] = []
    found = False
    for log in logs:
        loaded = load_records(log, summary=summary, graphs=graphs)
        path = stores_path(log)
        if path.exists():
            rows = read_stores(path, len(loaded))
            found = True
        else:
            rows = [np.zeros((0, STORE_WIDTH), np.float32)] * len(loaded)
        kept = [at for at, record in enumerate(loaded) if record.valid]
        records += [loaded[at] for at in kept]
        stores += [rows[at] for at in kept]
    if not records:
        raise RecordError(f"{', '.join(map(str, logs))}: holds no valid measurement")
    return records, stores if found else None
