"""The world model: encodes a graph, rolls its schedule out in latent space, aligns, and ranks.

    z[0]             = encode(graph)                                GraphEncoder
    a[t]             = encode(step t, device)                       StepEncoder
    z[t + 1]         = z[t] + gate * (proposal - z[t])              Transition, scanned by `rollout`
    lowered program ~= align(z[T])                                  AlignmentHead, in training only
    score            = rank(z[T], all a, encode(device))            RankingHead

Everything here is of one model, which ranks the candidates of one program on one device. Several
of them together are an `Ensemble` (`cwm_jax.model.ensemble`). Shapes are those of one program;
training maps over programs by `jax.vmap`.

Names of attributes are paths in checkpoints: a renamed one makes checkpoints unreadable.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from cwm_jax.features.batch import StepArrays
from cwm_jax.features.columns import STEP_WIDTH
from cwm_jax.features.graph import GLOBAL_WIDTH, STAGE_COLUMNS, STAGE_WIDTH, GraphArrays
from cwm_jax.features.hardware import HARDWARE_WIDTH
from cwm_jax.records.steps import STEP_KINDS, TAGS
from cwm_jax.records.store_features import STORE_WIDTH


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Holds the sizes of a world model; a checkpoint stores them in its card.

    Attributes:
        latent_width: Width of a slot (the latent of one stage) and of the global latent. 32 to 128.
        action_width: Width of an encoded step. 32 to 128.
        hardware_width: Width of the encoded hardware card. 8 to 32.
        head_width: Hidden width of the ranking head, and of the features that online adaptation
            regresses on. 64 to 256.
        message_rounds: Rounds of message passing along the compute graph. 1 to 3.
        members: Models of the ensemble. 1 to 8.

    Examples:
        >>> ModelConfig(members=1).latent_width
        48
    """

    latent_width: int = 48
    action_width: int = 96
    hardware_width: int = 16
    head_width: int = 128
    message_rounds: int = 2
    members: int = 3


# Inputs.


class Schedules(NamedTuple):
    """A batch of schedules on the device (see `cwm_jax.features.batch.StepArrays`)."""

    kind: Int[Array, "candidate step"]
    tag: Int[Array, "candidate step"]
    stage: Int[Array, "candidate step"]
    other: Int[Array, "candidate step"]
    values: Float[Array, "candidate step column"]
    length: Int[Array, "candidate"]


def to_schedules(arrays: StepArrays) -> Schedules:
    """Moves encoded schedules to the default device."""
    return Schedules(*(jnp.asarray(getattr(arrays, name)) for name in Schedules._fields))


# Encode.


class Latent(NamedTuple):
    """Latent programs of a batch of candidates: a vector for each slot, and one for the whole.

    A slot belongs to one stage; free slots wait for the stages that a schedule inserts.
    """

    slots: Float[Array, "candidate slot latent"]
    whole: Float[Array, "candidate latent"]


class GraphEncoder(nnx.Module):
    """Encodes a compute graph by message passing along its edges."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        width = config.latent_width
        self.stage = nnx.Linear(STAGE_WIDTH, width, rngs=rngs)
        self.rounds = nnx.List(
            [nnx.Linear(3 * width, width, rngs=rngs) for _ in range(config.message_rounds)]
        )
        self.empty = nnx.Param(jnp.zeros(width))
        self.whole = nnx.Linear(GLOBAL_WIDTH + 2 * width, width, rngs=rngs)

    def __call__(
        self, graph: GraphArrays
    ) -> tuple[Float[Array, "slot latent"], Float[Array, "latent"]]:
        """Returns the latent of each slot and that of the whole program, entries in (-1, 1)."""
        present = jnp.asarray(graph.present)[:, None]
        reads = jnp.asarray(graph.reads)
        producers = reads / jnp.maximum(reads.sum(1, keepdims=True), 1)
        consumers = reads.T / jnp.maximum(reads.T.sum(1, keepdims=True), 1)
        slots = nnx.gelu(self.stage(jnp.asarray(graph.stages))) * present
        for layer in self.rounds:
            around = jnp.concatenate([slots, producers @ slots, consumers @ slots], -1)
            slots = (slots + nnx.gelu(layer(around))) * present
        mean = slots.sum(0) / jnp.maximum(present.sum(), 1)
        largest = jnp.max(jnp.where(present > 0, slots, -1e3), axis=0, initial=-1e3)
        largest = jnp.where(present.sum() > 0, largest, 0)
        whole = self.whole(jnp.concatenate([jnp.asarray(graph.whole), mean, largest]))
        empty = self.empty[...][None, :]
        return jnp.tanh(jnp.where(present > 0, slots, empty)), jnp.tanh(whole)


class StepEncoder(nnx.Module):
    """Encodes each step for one device, without regard to the latent program it acts on."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        width = config.action_width
        self.kind = nnx.Embed(len(STEP_KINDS), width, rngs=rngs)
        self.tag = nnx.Embed(len(TAGS), width, rngs=rngs)
        self.values = nnx.Linear(STEP_WIDTH, width, rngs=rngs)
        self.device = nnx.Linear(HARDWARE_WIDTH, width, use_bias=False, rngs=rngs)
        self.mix = nnx.Linear(width, width, rngs=rngs)

    def __call__(
        self, schedules: Schedules, hardware: Float[Array, "column"]
    ) -> Float[Array, "candidate step action"]:
        """Returns the action of every step, padding included."""
        values = self.values(schedules.values)
        # An embedding keeps the precision of its parameters when it was made.
        words = (self.kind(schedules.kind) + self.tag(schedules.tag)).astype(values.dtype)
        hidden = nnx.gelu(words + self.device(hardware) + values)
        return nnx.gelu(self.mix(hidden))


class HardwareEncoder(nnx.Module):
    """Encodes a hardware card."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        self.layer = nnx.Linear(HARDWARE_WIDTH, config.hardware_width, rngs=rngs)

    def __call__(self, hardware: Float[Array, "column"]) -> Float[Array, "hardware"]:
        """Returns the hardware vector."""
        return nnx.gelu(self.layer(hardware))


# Roll out.


class Action(NamedTuple):
    """One step of each candidate, encoded, with the slots it addresses.

    Attributes:
        encoded: What the step encoder returns.
        stage: Slot that the step changes.
        other: Slot that it also refers to.
        live: False once the schedule of a candidate has ended.
    """

    encoded: Float[Array, "candidate action"]
    stage: Int[Array, "candidate"]
    other: Int[Array, "candidate"]
    live: Bool[Array, "candidate"]


class Transition(nnx.Module):
    """Predicts the latent program after one step: a gated update of one slot and the whole.

    `z' = z + gate * (proposal - z)`: entries stay within (-1, 1) however long the schedule.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        width = config.latent_width
        self.action = nnx.Linear(config.action_width, 4 * width, rngs=rngs)
        self.state = nnx.Linear(3 * width, 4 * width, use_bias=False, rngs=rngs)

    def kernel(self) -> Float[Array, "input update"]:
        """Returns the weights of both layers, which one product of matrices applies.

        Applying the action's layer to all steps ahead of the rollout costs more: its output is
        larger than the actions, and has to be written and read again.
        """
        return jnp.concatenate([self.state.kernel[...], self.action.kernel[...]])

    def __call__(
        self, latent: Latent, action: Action, kernel: Float[Array, "input update"]
    ) -> Latent:
        """Applies one step; candidates whose schedule has ended keep their latent program."""
        rows = jnp.arange(latent.whole.shape[0])
        here = latent.slots[rows, action.stage]
        there = latent.slots[rows, action.other]
        inputs = jnp.concatenate([here, there, latent.whole, action.encoded], -1)
        update = inputs @ kernel + self.action.bias[...]  # type: ignore[index]
        gates, proposals = jnp.split(update, 2, axis=-1)
        gates = nnx.sigmoid(gates) * action.live[:, None]
        proposals = jnp.tanh(proposals)
        slot_gate, whole_gate = jnp.split(gates, 2, axis=-1)
        slot_proposal, whole_proposal = jnp.split(proposals, 2, axis=-1)
        slots = latent.slots.at[rows, action.stage].set(
            here + slot_gate * (slot_proposal - here),
            mode="promise_in_bounds",
            unique_indices=True,
        )
        return Latent(slots, latent.whole + whole_gate * (whole_proposal - latent.whole))


def rollout(transition: Transition, initial: Latent, actions: Action) -> Latent:
    """Applies whole schedules, one step of every candidate after another.

    Args:
        transition: The single step.
        initial: Latent programs before the first step.
        actions: Steps, time first: `encoded[step, candidate, action]` and so on.

    Returns:
        The terminal latent programs.
    """
    kernel = transition.kernel()

    def step(latent: Latent, action: Action) -> tuple[Latent, None]:
        return transition(latent, action, kernel), None

    terminal, _ = jax.lax.scan(step, initial, actions)
    return terminal


class PooledLatent(NamedTuple):
    """Summary of a terminal latent program; both heads read its vectors side by side.

    Attributes:
        whole: Latent of the whole program.
        mean: Mean over the slots in use.
        largest: Maximum over them.
        main: Slot of the stage that does the most work.
    """

    whole: Float[Array, "candidate latent"]
    mean: Float[Array, "candidate latent"]
    largest: Float[Array, "candidate latent"]
    main: Float[Array, "candidate latent"]


POOLED = len(PooledLatent._fields)
"""Width of a pooled latent in widths of a latent."""

_WORK = STAGE_COLUMNS.index("log_points")


def main_slot(graph: GraphArrays) -> Int[Array, ""]:
    """Returns the slot of the stage that does the most work."""
    work = jnp.asarray(graph.stages)[:, _WORK] * jnp.asarray(graph.present)
    return work.argmax()


# Align.

TARGET_WIDTH = 2 * STORE_WIDTH
"""Width of what terminal latents are aligned with (`cwm_jax.training.dataset.alignment_target`)."""


class AlignmentHead(nnx.Module):
    """Predicts features of the lowered program from the pooled terminal latent.

    The target is TVM's features of the program that the schedule leads to, standardised. The head
    exists in training only: it makes step sequences that end in the same program end in the same
    latent, and is left out of checkpoints.
    """

    def __init__(self, latent_width: int, *, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(latent_width, 2 * latent_width, rngs=rngs)
        self.out = nnx.Linear(2 * latent_width, TARGET_WIDTH, rngs=rngs)

    def __call__(self, latent: Float[Array, "*batch pooled"]) -> Float[Array, "*batch target"]:
        """Returns the prediction."""
        return self.out(nnx.gelu(self.hidden(latent)))


class AlignedModel(nnx.Module):
    """A model in training, with the alignment head where there are targets.

    Args:
        model: A world model, or another that is trained like one.
        aligned: Whether there are targets to align with.
        seed: Seed of the head's parameters.
    """

    def __init__(self, model: Any, seed: int, *, aligned: bool) -> None:
        self.model = model
        rngs = nnx.Rngs(seed + 1)
        self.alignment = AlignmentHead(model.latent_width, rngs=rngs) if aligned else None


# Rank.


class Ranking(NamedTuple):
    """A model's opinion of each candidate.

    Attributes:
        score: Higher is faster; comparable within one workload only.
        features: The head's last hidden layer, on which online adaptation regresses.
        latent: The pooled terminal latent, which the alignment head reads in training.
    """

    score: Float[Array, "candidate"]
    features: Float[Array, "candidate head"]
    latent: Float[Array, "candidate pooled"]


class RankingHead(nnx.Module):
    """Scores pooled terminal latents together with pooled actions and the hardware vector."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        width = (POOLED + 1) * config.latent_width + 2 * config.action_width + config.hardware_width
        self.hidden = nnx.Linear(width, config.head_width, rngs=rngs)
        self.last = nnx.Linear(config.head_width, config.head_width, rngs=rngs)
        self.score = nnx.Linear(config.head_width, 1, rngs=rngs)

    def __call__(
        self, latent: Float[Array, "candidate pooled"], beside: Float[Array, "candidate beside"]
    ) -> Ranking:
        """Ranks by the pooled terminal latent and by what is known beside it."""
        inputs = jnp.concatenate([latent, beside], -1)
        features = nnx.gelu(self.last(nnx.gelu(self.hidden(inputs))))
        return Ranking(self.score(features)[:, 0], features, latent)


_TYPICAL_STEPS = 16
"""Sums over steps are divided by this: schedules have tens of steps, and inputs of the head should
be near 1. Trained heads expect it."""


class WorldModel(nnx.Module):
    """Ranks schedules of a workload by rolling them out in latent space."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        self.program = GraphEncoder(config, rngs=rngs)
        self.step = StepEncoder(config, rngs=rngs)
        self.hardware = HardwareEncoder(config, rngs=rngs)
        self.transition = Transition(config, rngs=rngs)
        self.head = RankingHead(config, rngs=rngs)
        self.latent_width = POOLED * config.latent_width

    @property
    def values_layer(self) -> nnx.Linear:
        """The layer that reads `Schedules.values`, and nothing else."""
        return self.step.values

    def rank(
        self, graph: GraphArrays, schedules: Schedules, hardware: Float[Array, "column"]
    ) -> Ranking:
        """Ranks candidates of one workload on one device.

        Args:
            graph: The compute graph, with at least the slots that the schedules address.
            schedules: The candidates.
            hardware: The encoded hardware card.
        """
        candidates, steps = schedules.kind.shape
        live = jnp.arange(steps)[None, :] < schedules.length[:, None]
        slots, whole = self.program(graph)
        initial = Latent(*(jnp.broadcast_to(z, (candidates, *z.shape)) for z in (slots, whole)))
        actions = self.step(schedules, hardware) * live[..., None]
        terminal = rollout(
            self.transition,
            initial,
            Action(actions.swapaxes(0, 1), schedules.stage.T, schedules.other.T, live.T),
        )
        latent = self.pool_latent(graph, schedules, live, terminal)
        device = self.hardware(hardware)
        device = jnp.broadcast_to(device, (candidates, *device.shape))
        beside = jnp.concatenate([initial.whole, self.pool_actions(actions), device], -1)
        return self.head(latent, beside)

    def pool_latent(
        self,
        graph: GraphArrays,
        schedules: Schedules,
        live: Bool[Array, "candidate step"],
        terminal: Latent,
    ) -> Float[Array, "candidate pooled"]:
        """Summarises terminal latents over the slots in use: of the graph, or addressed."""
        candidates, slots, _ = terminal.slots.shape
        addressed = jnp.zeros((candidates, slots))
        addressed = addressed.at[jnp.arange(candidates)[:, None], schedules.stage].max(
            live.astype(jnp.float32)
        )
        used = jnp.maximum(addressed, jnp.asarray(graph.present)[None, :])[..., None]
        mean = (terminal.slots * used).sum(1) / jnp.maximum(used.sum(1), 1)
        largest = jnp.where(used > 0, terminal.slots, -1).max(1)
        main = terminal.slots[:, main_slot(graph)]
        return jnp.concatenate(PooledLatent(terminal.whole, mean, largest, main), -1)

    @staticmethod
    def pool_actions(
        actions: Float[Array, "candidate step action"],
    ) -> Float[Array, "candidate sums"]:
        """Summarises actions, 0 in padding: scaled sums, and maxima of at least 0."""
        return jnp.concatenate([actions.sum(1) / _TYPICAL_STEPS, actions.max(1, initial=0)], -1)


def create_model(config: ModelConfig, seed: int) -> WorldModel:
    """Returns a world model with fresh parameters."""
    return WorldModel(config, rngs=nnx.Rngs(seed))
