"""`cwm_jax.tune`: what `cwm tune` does, as a function."""

import dataclasses
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, overload

from cwm_jax.errors import CwmError, RecordError, WorkloadError, described
from cwm_jax.ranking.catalog import nearest_checkpoint
from cwm_jax.ranking.gaussian_process import AdaptationName
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.metaschedule.database import RECORDS_FILE, WORKLOADS_FILE
from cwm_jax.search.confirmation import default_confirmations
from cwm_jax.tuning.engine import Engine, NetworkModel, RoundResult, Task
from cwm_jax.tuning.loop import TuningResult, tune_task
from cwm_jax.tuning.machine import parse_tracker
from cwm_jax.tuning.measurement import SearchName, TuningConfig
from cwm_jax.tuning.network import NetworkTuningResult, tune_network
from cwm_jax.tuning.registry import EngineDescription, find_engine
from cwm_jax.workloads.parse import parse_workload

TIMINGS = 5
"""How often a compiled network is timed."""
_NETWORK_ROUND = 16


@dataclasses.dataclass(frozen=True)
class NetworkResult:
    """Outcome of tuning, compiling and timing a network.

    Attributes:
        name: Name of the network.
        target: Target as text.
        tasks: The tuned tasks.
        tuning: Trials and latencies of the tasks.
        latencies: Seconds of one inference of the compiled network, one entry a measurement;
            empty if no trial succeeded.
        library: The compiled network, an object with `export_library(path)`; None
            if no trial succeeded.
        place: The log or folder that holds all trials.
    """

    name: str
    target: str
    tasks: tuple[Task, ...]
    tuning: NetworkTuningResult
    latencies: tuple[float, ...]
    library: Any
    place: Path

    @property
    def best_latency(self) -> float:
        """Returns the median latency of one inference in seconds."""
        return statistics.median(self.latencies)

    @property
    def curve(self) -> tuple[float, ...]:
        """Returns the estimated latency of the network in seconds after each round."""
        return tuple(done.best_latency for done in self.tuning.rounds)


@overload
def tune(
    workload: Any,
    *,
    network: None = None,
    engine: str = ...,
    trials: int = ...,
    checkpoint: str | Path | Scorer | None = ...,
    hardware: str | None = ...,
    cost_model: str = ...,
    search: SearchName | None = ...,
    adaptation: AdaptationName = ...,
    pretrain: Path | None = ...,
    target: str | None = ...,
    rpc: str | None = ...,
    log: str | Path | None = ...,
    resume: bool = ...,
    seed: int = ...,
    round_size: int | None = ...,
    population: int | None = ...,
    confirm: int | None = ...,
    reference_every: int | None = ...,
    report: Callable[[RoundResult], None] = ...,
) -> TuningResult: ...


@overload
def tune(
    workload: None = None,
    *,
    network: str,
    engine: str = ...,
    trials: int = ...,
    checkpoint: str | Path | Scorer | None = ...,
    hardware: str | None = ...,
    cost_model: str = ...,
    search: SearchName | None = ...,
    adaptation: AdaptationName = ...,
    pretrain: Path | None = ...,
    target: str | None = ...,
    rpc: str | None = ...,
    log: str | Path | None = ...,
    resume: bool = ...,
    seed: int = ...,
    round_size: int | None = ...,
    population: int | None = ...,
    confirm: int | None = ...,
    reference_every: int | None = ...,
    report: Callable[[RoundResult], None] = ...,
) -> NetworkResult: ...


def tune(
    workload: Any = None,
    *,
    network: str | None = None,
    engine: str = "ansor",
    trials: int = 64,
    checkpoint: str | Path | Scorer | None = None,
    hardware: str | None = None,
    cost_model: str = "world-model",
    search: SearchName | None = None,
    adaptation: AdaptationName = "bound",
    pretrain: Path | None = None,
    target: str | None = None,
    rpc: str | None = None,
    log: str | Path | None = None,
    resume: bool = False,
    seed: int = 0,
    round_size: int | None = None,
    population: int | None = None,
    confirm: int | None = None,
    reference_every: int | None = None,
    report: Callable[[RoundResult], None] = lambda _: None,
) -> TuningResult | NetworkResult:
    """Searches for fast programs of an operator or a network on this machine.

    A process holds one TVM: all calls in it must name the same engine.

    Args:
        workload: Workload to tune: text such as `"matmul:512,512,512"` or
            `"FILE.py:FUNCTION:SHAPE"`; TE tensors of inputs and outputs as a list; a function
            without arguments that returns them; or, for MetaSchedule, an `IRModule` of one
            function.
        network: A network instead: a built-in one's name, `"FILE.py:FUNCTION"` of a PyTorch
            model, or `"FILE.onnx"`.
        engine: `"ansor"`, `"metaschedule"`, or `"MODULE:NAME"` of another.
        trials: Candidates to measure, of all tasks of a network together.
        checkpoint: World model: the name of a shipped one, a folder, or a loaded `Scorer`; by
            default the shipped one whose CPU is most like this machine's.
        hardware: Hardware card to rank for, in place of the checkpoint's own.
        cost_model: `"world-model"`, or the engine's own `"xgboost"`, `"mlp"` or `"random"`.
        search: `"planner"` or `"evolutionary"`; by default the planner for the world model.
        adaptation: How measurements correct the world model: `"none"`, `"mean"` or `"bound"`.
        pretrain: Corpus folder that the engine's own model learns from first.
        target: TVM target as text; by default this machine's CPU.
        rpc: `"HOST:PORT:KEY"` of a TVM RPC tracker whose devices to measure on.
        log: Log, or for MetaSchedule folder, of all trials; by default a new one in `runs/`.
        resume: Whether to go on with the trials in `log`.
        seed: Seed of the search.
        round_size: Candidates a round; by default a quarter of the trials, 8 to 64, of a network
            16.
        population: Schedules of a generation; by default the engine's own size.
        confirm: Trials that measure the best programs again at the end; by default
            `cwm_jax.search.confirmation.default_confirmations`.
        reference_every: Candidates between two runs of a reference program, for machines that
            change their speed; by default there are none.
        report: Called after every round, and at first with what an earlier run has measured.

    Returns:
        A `TuningResult` with best latency, schedule, log and curve; of a network a `NetworkResult`.

    Raises:
        CwmError: The arguments make no sense together, or the search cannot begin; subclasses say
            of which kind the problem is.
        KeyboardInterrupt: On Ctrl-C; all finished rounds are kept.
    """
    if (workload is None) == (network is None):
        raise CwmError("tune: expected a workload or a network")
    found = find_engine(engine)
    # Before a model and TVM are loaded, which take seconds.
    check_settings(found, cost_model, search, pretrain, trials, confirm)
    what = network or (workload if isinstance(workload, str) else "search")
    place = Path(log) if log else new_place(found, what, cost_model)
    check_place(place, resume=resume)
    parsed = parse_workload(workload) if isinstance(workload, str) else workload
    scorer = _scorer(found, checkpoint, hardware) if cost_model == "world-model" else None
    loaded = found.load(target, rpc is not None)
    model = loaded.network(network, seed) if network else None
    tasks = model.tasks if model else loaded.tasks(_called(parsed))
    config = configured(
        found,
        trials=trials,
        round_size=round_size,
        seed=seed,
        cost_model=cost_model,
        search=search,
        adaptation=adaptation,
        confirm=confirm,
        reference_every=reference_every,
        rpc=rpc,
        pretrain=pretrain,
        population=population,
        tasks=len(tasks),
        network=network,
    )
    if network and model:
        loaded.check_network(network, model)
    place.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"scorer": scorer, "resume": resume, "report": report}
    if model is None:
        return tune_task(loaded, tasks[0], config, place, **options)
    tuned = tune_network(loaded, tasks, config, place, **options)
    return compiled(loaded, model, tuned, config, place, seed)


def configured(
    engine: EngineDescription,
    *,
    trials: int,
    round_size: int | None,
    seed: int,
    cost_model: str,
    search: SearchName | None,
    adaptation: AdaptationName,
    confirm: int | None,
    reference_every: int | None,
    rpc: str | None,
    pretrain: Path | None,
    population: int | None,
    tasks: int = 1,
    network: str | None = None,
) -> TuningConfig:
    """Returns settings that `check_settings` accepts, with defaults for what is None.

    Raises:
        CwmError: A network has no tasks, or more than trials.
        TargetError: `rpc` names no tracker.
    """
    way: SearchName = search or ("planner" if cost_model == "world-model" else "evolutionary")
    if way not in engine.searches:
        way = engine.searches[0]
    if round_size is None:
        round_size = _NETWORK_ROUND if network else min(max(trials // 4, 8), 64)
    if network:
        check_trials(engine, network, trials, confirm or 0, tasks)
    return TuningConfig(
        trials=trials,
        round_size=round_size,
        seed=seed,
        cost_model=cost_model,
        search=way,
        adaptation=adaptation,
        confirm=default_confirmations(trials, tasks) if confirm is None else confirm,
        reference_every=reference_every,
        tracker=parse_tracker(rpc) if rpc else None,
        pretrain=pretrain,
        population=population,
    )


def check_settings(
    engine: EngineDescription,
    cost_model: str,
    search: str | None,
    pretrain: Path | None,
    trials: int,
    confirm: int | None,
) -> None:
    """Refuses settings that contradict each other.

    Raises:
        CwmError: Which ones.
    """
    if confirm is not None and confirm >= trials:
        raise CwmError(f"--confirm {confirm}: leaves none of {trials} trials")
    if search == "planner" and cost_model != "world-model":
        raise CwmError("--search planner imagines with the world model: --cost-model world-model")
    if pretrain and cost_model not in ("xgboost", "mlp"):
        raise CwmError("--pretrain is for the engines' own models: --cost-model xgboost or mlp")
    if cost_model not in engine.cost_models:
        if cost_model == "mlp":
            raise CwmError("--cost-model mlp is MetaSchedule's: --engine metaschedule")
        raise CwmError(
            f"--cost-model {cost_model}: {engine.title} has {', '.join(engine.cost_models)}"
        )


def check_trials(
    engine: EngineDescription, network: str, trials: int, confirm: int, tasks: int
) -> None:
    """Refuses a network without tasks, and fewer trials than tasks.

    Raises:
        CwmError: Which of both.
    """
    if not tasks:
        raise CwmError(f"{network}: holds no operator that {engine.name} can tune")
    if trials - confirm < tasks:
        less = f" less --confirm {confirm}" if confirm else ""
        raise CwmError(
            f"--trials {trials}{less}: {network} has {tasks} tasks, and each needs at least one"
        )


def compiled(
    engine: Engine,
    model: NetworkModel,
    tuned: NetworkTuningResult,
    config: TuningConfig,
    place: Path,
    seed: int,
) -> NetworkResult:
    """Compiles and times a tuned network; neither if no trial succeeded."""
    library, latencies = None, []
    if min(tuned.best_latencies) < float("inf"):
        library = engine.compile(model, place)
        latencies = engine.time(model, library, TIMINGS, seed, config.tracker)
    tasks = tuple(model.tasks)
    return NetworkResult(model.name, engine.target, tasks, tuned, tuple(latencies), library, place)


def new_place(engine: EngineDescription, what: str, cost_model: str) -> Path:
    """Returns a new log or folder in `runs/`, named after what is tuned."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", what).strip("-")[:60]
    path = Path("runs") / f"{name}-{cost_model}-{time.strftime('%Y%m%d-%H%M%S')}"
    return path if engine.in_folder else path.with_suffix(".jsonl")


def check_place(place: Path, *, resume: bool) -> None:
    """Refuses a log that holds trials, unless it is to be gone on with.

    Raises:
        CwmError: It does.
        RecordError: There is none to go on with.
    """
    if resume and not place.exists():
        raise RecordError(f"{place}: no such log or folder of a search")
    if not resume and holds_trials(place):
        raise CwmError(f"{place} exists; go on with it (resume), or name another")


def holds_trials(place: Path) -> bool:
    """Returns whether a log or folder holds more than a search that was stopped at once leaves."""
    if not place.is_dir():
        return place.exists()
    begun = {WORKLOADS_FILE, RECORDS_FILE, "records.programs.jsonl"}
    return any(
        file.name not in begun or (file.name == RECORDS_FILE and file.stat().st_size)
        for file in place.iterdir()
    )


def _scorer(
    engine: EngineDescription, checkpoint: str | Path | Scorer | None, hardware: str | None
) -> Scorer:
    if isinstance(checkpoint, Scorer):
        return checkpoint
    return Scorer.load(checkpoint or nearest_checkpoint(engine.name), hardware)


def _called(workload: Any) -> Any:
    """Calls a function that returns TE tensors."""
    if not callable(workload) or hasattr(workload, "functions"):
        return workload
    try:
        made = workload()
    except Exception as error:  # the user's own code
        raise WorkloadError(f"the workload's function failed ({described(error)})") from error
    return list(made) if isinstance(made, list | tuple) else made
