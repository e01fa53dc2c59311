"""Exceptions of the package. Each message names what was found, where, and what was expected."""

import re

_PLACE = re.compile(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ?")
"""Time and source file, which TVM writes before what it says."""


_MOST_SAID = 400
"""Characters of a foreign error message that are repeated."""


class CwmError(Exception):
    """Base class of every error that bad input or a bad environment causes."""


class RecordError(CwmError):
    """A line of a log, or a whole log, cannot be used."""


class GraphError(CwmError):
    """A serialised compute graph is malformed."""


class CheckpointError(CwmError):
    """A checkpoint is missing, truncated, of another format version, or does not fit."""


class WorkloadError(CwmError):
    """A workload is unknown or its shapes make no sense."""


class TargetError(CwmError):
    """A target cannot be compiled for on this machine."""


class DeviceError(CwmError):
    """JAX cannot use the devices that it is told to use."""


class TvmError(CwmError):
    """No suitable TVM can be loaded, or another one is already in the process."""


class HardwareError(CwmError):
    """A hardware card is missing or malformed."""


class CorpusError(CwmError):
    """A corpus cannot be read, belongs to other hardware, or cannot be measured here."""


class OutputError(CwmError):
    """A result cannot be written although its place was fit when the work began."""


class CheckpointOutputError(OutputError, CheckpointError):
    """A checkpoint or a snapshot cannot be written, as `OutputError` says."""


def described(error: BaseException) -> str:
    """Returns the kind of an error and what it says in the end, on one line."""
    said = last_line(error)
    kind = type(error).__name__
    return said if said.startswith(kind) else f"{kind}: {said}"


def last_line(error: BaseException) -> str:
    """Returns what an error of a long trace says in the end."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return _PLACE.sub("", lines[-1].strip())[:_MOST_SAID] if lines else type(error).__name__


def __getattr__(name: str) -> object:
    from cwm_jax.deprecated_names import moved_name

    return moved_name(__name__, name)
