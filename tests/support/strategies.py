"""Hypothesis strategies for steps, schedules and records."""

from hypothesis import strategies as st

from cwm_jax.records.record import Record, TaskDetails
from cwm_jax.records.steps import ANSOR_STEPS, PRAGMAS, SCOPES, Role, Step

_small = st.integers(0, 6)
_sizes = st.one_of(st.integers(1, 512), st.integers(0, 2**31 - 1))

_BY_ROLE = {
    Role.STAGE: _small,
    Role.STAGES: st.lists(_small, min_size=1, max_size=3).map(tuple),
    Role.ITERATOR: _small,
    Role.ITERATORS: st.lists(_small, max_size=5, unique=True).map(tuple),
    Role.STEP: _small,
    Role.STEPS: st.lists(_small, min_size=1, max_size=4).map(tuple),
    Role.LEVEL: st.integers(0, 3),
    Role.NUMBER: _sizes,
    Role.NUMBERS: st.lists(_sizes, max_size=4).map(tuple),
}
_TAGS = {
    "AN": st.integers(0, 11),
    "PR": st.one_of(
        st.sampled_from(PRAGMAS),
        st.sampled_from([0, 16, 64, 512]).map(lambda n: f"auto_unroll_max_step${n}"),
    ),
}


def steps() -> st.SearchStrategy[Step]:
    """Any well-formed step."""

    def of_kind(kind: str) -> st.SearchStrategy[Step]:
        fields = [
            _TAGS.get(kind, st.sampled_from(SCOPES)) if role is Role.TAG else _BY_ROLE[role]
            for _, role in ANSOR_STEPS[kind]
        ]
        return st.tuples(*fields).map(lambda values: Step(kind, values))

    return st.sampled_from(sorted(ANSOR_STEPS)).flatmap(of_kind)


def schedules(max_size: int = 24) -> st.SearchStrategy[tuple[Step, ...]]:
    """Sequences of steps; they need not make sense to TVM."""
    return st.lists(steps(), max_size=max_size).map(tuple)


def records() -> st.SearchStrategy[Record]:
    """Records with any measurement."""
    cost = st.floats(1e-7, 1e3, allow_nan=False)
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    return st.builds(
        Record,
        workload_key=text,
        target=text,
        task=st.builds(
            TaskDetails,
            hardware_parameters=st.lists(st.integers(-1, 2**31 - 1), max_size=8).map(tuple),
            rest=st.tuples(text, st.integers(0, 2), st.lists(text, max_size=2).map(tuple)),
        ),
        steps=schedules(),
        costs=st.lists(cost, min_size=1, max_size=3).map(tuple),
        error_code=st.integers(0, 8),
        measure_seconds=cost,
        timestamp=st.integers(0, 2**40),
        version=st.just("v0.6"),
    )
