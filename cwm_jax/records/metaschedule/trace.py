"""MetaSchedule's traces as JSON: what `Trace::AsJSON` writes and `ApplyJSONToSchedule` reads.

A trace is `[[[kind, inputs, attributes, outputs], ...], [[instruction, decision], ...]]`
(`src/s_tir/schedule/trace.cc` of TVM 0.27). Inputs name earlier outputs (`"b0"`, `"l3"`, `"v6"`),
or are numbers, quoted strings or `"None"`.
"""

import re
from typing import Any, NamedTuple

import orjson

from cwm_jax.errors import RecordError

MAX_INSTRUCTIONS = 4096
POSTPROCESSING = "EnterPostproc"
"""The instruction behind which all is derived from what stands before."""

_VARIABLE = re.compile(r"[blv]\d{1,9}")


class Instruction(NamedTuple):
    """One instruction of a trace.

    Attributes:
        kind: TVM's name of it, such as `Split`.
        inputs: `Variable`s, numbers, `None`, words, and of lists of these.
        attributes: Fixed arguments: numbers, words, nested lists.
        outputs: Names of the variables that it sets.
    """

    kind: str
    inputs: tuple[Any, ...]
    attributes: tuple[Any, ...]
    outputs: tuple[str, ...]


class Variable(str):
    """Name of a random variable; a type of its own tells it from a plain string."""

    __slots__ = ()


class Trace(NamedTuple):
    """A schedule of MetaSchedule, without its postprocessing.

    Attributes:
        instructions: Instructions in order.
        decisions: What was drawn, by position of the sampling instruction.
    """

    instructions: tuple[Instruction, ...]
    decisions: dict[int, Any]


def parse_trace(data: Any) -> Trace:
    """Reads a trace from its JSON form; postprocessing is left out.

    Raises:
        RecordError: It is none; the message names the instruction.
    """
    instructions, decisions = _both_parts(data)
    return Trace(_parse_instructions(instructions), _as_drawn(decisions))


class Skeletons:
    """The instructions that traces share: each list of them is read once, and is one object."""

    def __init__(self) -> None:
        self._parsed: dict[bytes, tuple[Instruction, ...]] = {}
        self._json: dict[int, list[Any]] = {}

    def parse(self, data: Any) -> Trace:
        """Reads a trace as `parse_trace` does.

        Raises:
            RecordError: It is none; the message names the instruction.
        """
        instructions, decisions = _both_parts(data)
        text = orjson.dumps(instructions)
        if text not in self._parsed:
            self._parsed[text] = _parse_instructions(instructions)
            self._json[id(self._parsed[text])] = instructions
        return Trace(self._parsed[text], _as_drawn(decisions))

    def format(self, trace: Trace) -> list[Any]:
        """Returns the JSON form of a trace whose instructions were read here."""
        drawn = [[at, decision] for at, decision in trace.decisions.items()]
        return [self._json[id(trace.instructions)], drawn]


def _both_parts(data: Any) -> tuple[list[Any], list[Any]]:
    match data:
        case [list(instructions), list(decisions)]:
            return instructions, decisions
        case _:
            raise RecordError("trace: expected [instructions, decisions]")


def _parse_instructions(instructions: list[Any]) -> tuple[Instruction, ...]:
    if len(instructions) > MAX_INSTRUCTIONS:
        raise RecordError(f"trace: {len(instructions)} instructions, at most {MAX_INSTRUCTIONS}")
    parsed: list[Instruction] = []
    for position, instruction in enumerate(instructions):
        if isinstance(instruction, list) and instruction[:1] == [POSTPROCESSING]:
            break
        parsed.append(_parse_instruction(instruction, position))
    return tuple(parsed)


def _as_drawn(decisions: list[Any]) -> dict[int, Any]:
    drawn: dict[int, Any] = {}
    for decision in decisions:
        match decision:
            case [int(position), drawn_value] if position >= 0:
                drawn[position] = drawn_value
            case _:
                raise RecordError("trace: a decision is not [instruction, value]")
    return drawn


def _parse_instruction(data: Any, position: int) -> Instruction:
    match data:
        case [str(kind), list(inputs), list(attributes), list(outputs)] if all(
            isinstance(name, str) for name in outputs
        ):
            return Instruction(
                kind,
                tuple(map(_parse_input, inputs)),
                tuple(attributes),
                tuple(outputs),
            )
        case _:
            raise RecordError(
                f"instruction {position}: expected [kind, inputs, attributes, outputs]"
            )


def _parse_input(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_parse_input, value))
    if not isinstance(value, str):
        return value
    if value == "None":
        return None
    if _VARIABLE.fullmatch(value):
        return Variable(value)
    return value[1:-1] if len(value) >= 2 and value[0] == value[-1] == '"' else value
