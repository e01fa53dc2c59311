"""Exceptions of the package. Each message names what was found, where, and what was expected."""


class CwmError(Exception):
    """Base class of every error that bad input or a bad environment causes."""


class RecordError(CwmError):
    """A line of a log, or a whole log, cannot be used."""


class ProgramError(CwmError):
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
