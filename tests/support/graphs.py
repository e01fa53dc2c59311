"""Small compute graphs."""

from cwm_jax.records.graph import Axis, ComputeGraph, Stage, shape_only_graph

SHAPE_ONLY = shape_only_graph('["f", 8, 8]')


def matmul(m: int, n: int, k: int) -> ComputeGraph:
    """The stages of a matmul, without reads."""

    def placeholder(name: str, shape: tuple[int, ...]) -> Stage:
        return Stage(name, "placeholder", "", "float32", shape, (), (), (0,) * 7)

    axes = (Axis("i", m, False), Axis("j", n, False), Axis("k", k, True))
    compute = Stage("C", "compute", "", "float32", (m, n), axes, (), (1, 1, 0, 0, 0, 0, 0))
    stages = (placeholder("A", (m, k)), placeholder("B", (k, n)), compute)
    return ComputeGraph('["matmul"]', stages, 2.0 * m * n * k)
