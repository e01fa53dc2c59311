"""Packs a folder of `cwm bench search` into one file, or unpacks such a file.

    uv run python tools/pack_searches.py pack build/search --out search.runs.jsonl.xz
    uv run python tools/pack_searches.py unpack search.runs.jsonl.xz --out build/search

Packing is deterministic. An unpacked folder is the one that was packed, byte by byte, but for what
`cwm_jax/bench/search_runs.py` leaves out. `cwm eval` reads its logs.
"""

import argparse
from pathlib import Path

from cwm_jax.bench.search_runs import files_of, read_folder, read_packed, write_packed
from cwm_jax.errors import CwmError


def main() -> None:
    """Packs or unpacks."""
    parser = argparse.ArgumentParser(description="Packs and unpacks folders of cwm bench search.")
    parser.add_argument("direction", choices=["pack", "unpack"])
    parser.add_argument("source", type=Path, help="a folder to pack, or a file to unpack")
    parser.add_argument("--out", type=Path, required=True, help="the file, or the folder, to write")
    options = parser.parse_args()
    try:
        if options.direction == "pack":
            benchmark = read_folder(options.source)
            write_packed(benchmark, options.out)
        else:
            benchmark = read_packed(options.source)
            unpack(files_of(benchmark, options.out), options.out)
    except CwmError as error:
        raise SystemExit(str(error)) from error
    print(f"wrote {options.out}: {len(benchmark.runs)} runs")


def unpack(files: dict[Path, bytes], folder: Path) -> None:
    """Writes the files of a benchmark, by path, into a folder that is new or empty.

    Raises:
        CwmError: The folder is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise CwmError(f"{folder}: is not empty, name a new folder by --out")
    for path, data in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


if __name__ == "__main__":
    main()
