"""What a target that a user asks for must be, for either engine, before TVM sees it."""

import os
import platform
import re
import warnings
from collections.abc import Mapping
from typing import Any

import orjson

from cwm_jax.errors import TargetError

X86 = ("x86_64", "amd64")
ARM = ("aarch64", "arm64")

_MOST_CORES = 2**31 - 1
_MOST_SHOWN = 200
_CORES = re.compile(r"(?<!\S)-num-cores(?:[=\s]\s*(?!-\D)(\S+))?")
_SYSTEMS = {"Linux": ("linux",), "Darwin": ("darwin", "macos", "apple")}


class TargetWarning(UserWarning):
    """A target is not of the machine that programs will run on."""


def stated_target(text: str, example: str) -> str | dict[str, Any]:
    """Returns a target as TVM takes it, a string or the fields of its JSON.

    TVM crashes where there is nothing to read, and where a field of JSON is null.

    Args:
        text: What the user asks for.
        example: Of a right one, for the message.

    Raises:
        TargetError: It is empty, no valid JSON, or has a field that is null.
    """
    stripped = text.strip()
    if not stripped:
        raise TargetError(f"target {text!r}: is empty; {example}")
    if not stripped.startswith(("{", "[")):
        cores = _CORES.search(stripped)
        if cores and not re.fullmatch(r"\d+", cores[1] or ""):
            raise TargetError(
                f"target {shown(text)}: num-cores is {cores[1] or 'not given'}, expected a "
                f"positive integer; {example}"
            )
        return stripped
    try:
        fields = orjson.loads(stripped)
    except orjson.JSONDecodeError as error:
        raise TargetError(f"target {shown(text)}: is no valid JSON ({error}); {example}") from error
    if not isinstance(fields, dict):
        raise TargetError(f"target {shown(text)}: is no JSON object; {example}")
    if isinstance(fields.get("num-cores"), bool):
        raise TargetError(
            f"target {shown(text)}: num-cores is no number, expected a positive integer; {example}"
        )
    if missing := _null_field(fields):
        raise TargetError(f"target {shown(text)}: {missing} is null; {example}")
    return fields


def _null_field(fields: Mapping[str, Any]) -> str | None:
    for name, value in fields.items():
        values = value if isinstance(value, list) else [value]
        if any(entry is None for entry in values):
            return repr(name)
        for entry in values:
            if isinstance(entry, dict) and (found := _null_field(entry)):
                return found
    return None


def shown(text: str) -> str:
    """Returns a target as messages repeat it."""
    return repr(text) if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]!r}..."


def check_cores(attributes: Mapping[str, Any], text: str, *, remote: bool, example: str) -> None:
    """Checks the cores that a target states, and warns of more than this machine has.

    Args:
        attributes: Of the target.
        text: What the user asked for.
        remote: Programs will run elsewhere.
        example: Of a right target, for the message.

    Raises:
        TargetError: It is no number of cores.
    """
    if "num-cores" not in attributes:
        return
    cores = int(attributes["num-cores"])
    if not 1 <= cores <= _MOST_CORES:
        raise TargetError(
            f"target {shown(text)}: num-cores is {cores}, expected a positive integer; {example}"
        )
    here = usable_threads()
    if cores > here and not remote:
        warnings.warn(
            f"target {shown(text)}: says {cores} cores, but this process may use {here}; programs "
            "are searched for cores that they do not get here",
            TargetWarning,
            stacklevel=3,
        )


def usable_threads() -> int:
    """Returns how many logical CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_triple(triple: str, text: str, example: str) -> None:
    """Checks that programs which are compiled for a triple can run on this machine.

    Raises:
        TargetError: It is of another architecture or system.
    """
    architecture, _, rest = triple.partition("-")
    groups = [group for group in (X86, ARM) if platform.machine().lower() in group]
    if architecture and groups and architecture not in groups[0]:
        raise TargetError(
            f"target {shown(text)}: compiles for {architecture}, but this machine is "
            f"{platform.machine()} and could not run it; {example}"
        )
    own = _SYSTEMS.get(platform.system(), ())
    others = [name for names in _SYSTEMS.values() for name in (*names, "windows") if name in rest]
    if own and others and not any(name in rest for name in own):
        raise TargetError(
            f"target {shown(text)}: compiles for {others[0]}, but this machine is "
            f"{platform.system()} and could not run it; {example}"
        )
