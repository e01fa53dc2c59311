"""The report of `cwm eval --report`: how a checkpoint ranks recorded candidates, calibrated."""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from cwm_jax.errors import CwmError
from cwm_jax.features.batch import StepArrays
from cwm_jax.model.ensemble import Ensemble
from cwm_jax.model.world_model import to_schedules
from cwm_jax.ranking.metrics import mean_metrics, rank_metrics, top_k_latency
from cwm_jax.ranking.scorer import Ranker, Scores
from cwm_jax.records.graph import ComputeGraph
from cwm_jax.training.dataset import WorkloadData

BINS = 10

_PANELS = 12
_TOP = (1, 2, 3, 5, 8, 13, 20)
_TIMES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def write_report(
    folder: Path,
    model: Ensemble,
    dataset: Mapping[str, WorkloadData],
    graphs: Mapping[str, ComputeGraph],
    title: str,
) -> Path:
    """Writes `report.md` and its plots.

    Args:
        folder: Folder to write into, created if absent.
        model: The ensemble to judge.
        dataset: Workloads that it was not trained on.
        graphs: Their programs, where known: they name the plots.
        title: Title of the report.

    Returns:
        The path of the report.

    Raises:
        CwmError: matplotlib is not installed.
    """
    plots = _pyplot()
    folder.mkdir(parents=True, exist_ok=True)
    ranker = Ranker(model)
    names = {name: _name(name, graphs.get(w.key)) for name, w in dataset.items()}
    # One workload may be there for several devices: the data set's names tell them apart.
    named = [dataclasses.replace(workload, key=name) for name, workload in dataset.items()]
    ordered = sorted(named, key=lambda workload: -len(workload.latencies))
    scores = {w.key: ranker(w.graph, w.steps, w.hardware) for w in ordered}
    chosen = _varied(ordered, names)[:_PANELS]
    pictures = {
        "ranks.png": _draw_ranks(plots, chosen, scores, names),
        "top-k.png": _draw_top_k(plots, ordered, scores),
        "calibration.png": _draw_calibration(plots, ordered, scores),
        "latents.png": _draw_latents(plots, chosen, model, names),
        "rollout.png": _draw_rollout(plots, chosen[:4], ranker, names),
    }
    for name, figure in pictures.items():
        figure.savefig(folder / name, dpi=110, bbox_inches="tight")
        plots.close(figure)
    means = mean_metrics([rank_metrics(scores[w.key].score, w.latencies) for w in ordered])
    error = calibrate([(scores[w.key].members, w.latencies) for w in ordered]).error
    text = _TEXT.format(
        title=title,
        workloads=len(ordered),
        candidates=means.candidates,
        top1=means.top1,
        top5=means.top5,
        pairwise=means.pairwise,
        spearman=means.spearman,
        error=error,
    )
    path = folder / "report.md"
    path.write_text(text)
    return path


_TEXT = """# {title}

{candidates} candidates of {workloads} workloads that the model was not trained on. Unweighted
means over workloads: top-1 {top1:.3f}, top-5 {top5:.3f}, pairwise {pairwise:.3f}, Spearman
{spearman:.3f}.

## Predicted rank and measured latency
Each point is a candidate, the fastest on the grey line; a perfect model draws a rising curve
that starts there. Orange is its first choice.

![ranks](ranks.png)

## How many must be measured
Best latency among the k best-scored candidates, relative to the best of all; mean over
workloads, beside random choice.

![top-k](top-k.png)

## Calibration
The ensemble's probability that one candidate beats another, and how often it does. Expected
calibration error {error:.3f}.

![calibration](calibration.png)

## Terminal latents
The latent program at the end of each rollout, on its two principal axes, by measured latency
(dark is fast).

![latents](latents.png)

## Along a schedule
The score after each step of the fastest, a middling and the slowest candidate of a workload.

![rollout](rollout.png)
"""


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise CwmError("reports need matplotlib: pip install 'cwm-jax[report]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _name(key: str, graph: ComputeGraph | None) -> str:
    """The stage that does most work and its loops, such as `conv2d_nhwc 1x56x56x64 of 3x3x64`."""
    computed = [stage for stage in graph.stages if stage.axes] if graph else []
    if not computed:
        return key if len(key) < 40 else "..." + key[-37:]
    main = max(computed, key=lambda stage: math.prod(axis.extent for axis in stage.axes))
    spatial, reduction = (
        "x".join(str(axis.extent) for axis in main.axes if axis.reduction == reduces)
        for reduces in (False, True)
    )
    return f"{main.name} {spatial}" + (f" of {reduction}" if reduction else "")


def _varied(ordered: Sequence[WorkloadData], names: Mapping[str, str]) -> list[WorkloadData]:
    """Brings one workload of each kind of stage to the front, then a second, and so on."""
    seen: Counter[str] = Counter()
    turns: list[tuple[int, WorkloadData]] = []
    for workload in ordered:
        kind = names[workload.key].split(" ")[0]
        turns.append((seen[kind], workload))
        seen[kind] += 1
    return [workload for _, workload in sorted(turns, key=lambda turn: turn[0])]


def _grid(plots: Any, count: int, columns: int) -> tuple[Any, list[Any]]:
    rows = -(-count // columns)
    figure, axes = plots.subplots(
        rows, columns, figsize=(3.4 * columns, 2.8 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[count:]:
        axis.axis("off")
    return figure, list(axes.flat[:count])


def _draw_ranks(
    plots: Any,
    chosen: Sequence[WorkloadData],
    scores: Mapping[str, Scores],
    names: Mapping[str, str],
) -> Any:
    figure, axes = _grid(plots, len(chosen), 4)
    for axis, workload in zip(axes, chosen, strict=True):
        order = np.argsort(np.argsort(-scores[workload.key].score))
        slower = workload.latencies / workload.latencies.min()
        axis.axhline(1, color="grey", linewidth=0.8)
        axis.scatter(order + 1, slower, s=10)
        axis.scatter([1], slower[order == 0], s=28, color="tab:orange")
        axis.set(yscale="log", xlabel="predicted rank", ylabel="times the fastest")
        shown = [tick for tick in _TIMES if tick <= max(2, slower.max())]
        axis.set_yticks(shown, [f"{tick}" for tick in shown])
        axis.minorticks_off()
        axis.set_title(names[workload.key], fontsize=7)
    return figure


def _draw_top_k(plots: Any, ordered: Sequence[WorkloadData], scores: Mapping[str, Scores]) -> Any:
    rng = np.random.default_rng(0)

    def curve(score_of: Any) -> list[float]:
        return [
            float(
                np.mean(
                    [
                        w.latencies.min() / top_k_latency(score_of(w), w.latencies, k)
                        for w in ordered
                    ]
                )
            )
            for k in _TOP
        ]

    figure, axis = plots.subplots(figsize=(5, 3.4))
    axis.plot(_TOP, curve(lambda w: scores[w.key].score), marker="o", label="world model")
    axis.plot(_TOP, curve(lambda w: rng.random(len(w.latencies))), marker="o", label="random")
    axis.set(xlabel="candidates measured (k)", ylabel="best throughput found", xscale="log")
    axis.set_xticks(_TOP, [str(k) for k in _TOP])
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def _draw_calibration(
    plots: Any, ordered: Sequence[WorkloadData], scores: Mapping[str, Scores]
) -> Any:
    found = calibrate([(scores[w.key].members, w.latencies) for w in ordered])
    figure, axis = plots.subplots(figsize=(4, 4))
    axis.plot([0, 1], [0, 1], color="grey", linewidth=1)
    some = found.pairs > 0
    axis.plot(found.stated[some], found.observed[some], marker="o")
    axis.set(xlabel="stated probability", ylabel="observed share", xlim=(0, 1), ylim=(0, 1))
    axis.grid(alpha=0.3)
    return figure


def terminal_latents(
    model: Ensemble, workload: WorkloadData
) -> Float[np.ndarray, "candidate latent"]:
    """Returns the pooled terminal latents of the first member."""
    first = model.models()[0]
    rank = jax.jit(lambda graph, steps, hardware: first.rank(graph, steps, hardware).latent)
    return np.asarray(rank(workload.graph, to_schedules(workload.steps), workload.hardware))


def _draw_latents(
    plots: Any, chosen: Sequence[WorkloadData], model: Ensemble, names: Mapping[str, str]
) -> Any:
    figure, axes = _grid(plots, len(chosen), 4)
    for axis, workload in zip(axes, chosen, strict=True):
        latents = terminal_latents(model, workload)
        centred = latents - latents.mean(0)
        _, _, directions = np.linalg.svd(centred, full_matrices=False)
        x, y = (centred @ directions[:2].T).T
        axis.scatter(x, y, c=np.log(workload.latencies), s=10, cmap="viridis")
        axis.set_title(names[workload.key], fontsize=7)
        axis.set(xticks=[], yticks=[])
    return figure


def _draw_rollout(
    plots: Any, chosen: Sequence[WorkloadData], ranker: Ranker, names: Mapping[str, str]
) -> Any:
    figure, axes = _grid(plots, len(chosen), 2)
    for axis, workload in zip(axes, chosen, strict=True):
        order = np.argsort(workload.latencies)
        picks = (order[0], order[len(order) // 2], order[-1])
        for row, label in zip(picks, ("fastest", "middling", "slowest"), strict=True):
            prefixes = _prefixes(workload.steps, int(row))
            score = ranker(workload.graph, prefixes, workload.hardware).score
            shown = f"{label}, {workload.latencies[row] * 1e3:.3f} ms"
            axis.plot(prefixes.length, score, label=shown)
        axis.set(xlabel="steps applied", ylabel="score")
        axis.set_title(names[workload.key], fontsize=7)
        axis.legend(fontsize=7)
    return figure


def _prefixes(steps: StepArrays, row: int) -> StepArrays:
    """The schedule of one candidate after no step, one step, and so on."""
    count = int(steps.length[row]) + 1
    repeated = steps.take(np.full(count, row))
    return StepArrays(
        repeated.kind,
        repeated.tag,
        repeated.stage,
        repeated.other,
        repeated.values,
        np.arange(count, dtype=np.int32),
        repeated.slots,
    )


class Calibration(NamedTuple):
    """A reliability diagram of pairwise comparisons.

    Attributes:
        stated: Mean probability, by the members, that the first of a pair is faster; by bin.
        observed: Share of pairs in which it is.
        pairs: Pairs in each bin.
    """

    stated: Float[np.ndarray, "bin"]
    observed: Float[np.ndarray, "bin"]
    pairs: Float[np.ndarray, "bin"]

    @property
    def error(self) -> float:
        """Expected calibration error: mean distance of stated and observed, by pairs."""
        some = self.pairs > 0
        apart = np.abs(self.stated - self.observed)[some]
        return float((apart * self.pairs[some]).sum() / max(self.pairs.sum(), 1))


def pair_probabilities(
    members: Float[np.ndarray, "candidate member"],
) -> Float[np.ndarray, "candidate candidate"]:
    """Returns how likely row i is faster than column j: the mean of the members' opinions.

    Training fits each member's difference of scores as a logit.
    """
    difference = members[:, None, :] - members[None, :, :]
    return (1 / (1 + np.exp(-difference))).mean(2)


def calibrate(
    parts: list[tuple[Float[np.ndarray, "candidate member"], Float[np.ndarray, "candidate"]]],
) -> Calibration:
    """Compares stated with observed probabilities over workloads.

    Args:
        parts: Members' scores and measured latencies of each workload.
    """
    stated, observed, pairs = np.zeros(BINS), np.zeros(BINS), np.zeros(BINS)
    for members, latencies in parts:
        probability = pair_probabilities(members)
        differ = latencies[:, None] != latencies[None, :]
        faster = (latencies[:, None] < latencies[None, :])[differ]
        chosen = probability[differ]
        row = np.minimum((chosen * BINS).astype(int), BINS - 1)
        stated += np.bincount(row, weights=chosen, minlength=BINS)
        observed += np.bincount(row, weights=faster, minlength=BINS)
        pairs += np.bincount(row, minlength=BINS)
    count = np.maximum(pairs, 1)
    return Calibration(stated / count, observed / count, pairs)
