"""Which part of the package imports which: arrows go down only, and in no circle."""

import ast
from pathlib import Path

import pytest

import cwm_jax

PACKAGE = Path(cwm_jax.__file__).parent
FLOW = ["records", "features", "model", "ranking", "search", "training", "evaluation"]
FLOW += ["workloads", "tvm_bridge", "tuning", "bench", "cli"]
"""From the bottom up: a part imports only parts that stand before it."""
WITHOUT_TVM = FLOW[: FLOW.index("tvm_bridge")]
BRIDGE_NEEDS = ["records", "features", "model", "ranking", "search"]
ENGINES = ["ansor", "metaschedule"]


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {name_of(path): path for path in PACKAGE.rglob("*.py")}


def imported(module: str) -> set[str]:
    """Names of all that a module imports, inside functions, too; ours without `cwm_jax.`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                ours = full.removeprefix("cwm_jax.")
                found.add(ours if ours in MODULES else node.module.removeprefix("cwm_jax."))
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


GRAPH = {module: imported(module) for module in MODULES}


def part_of(module: str) -> str:
    return module.split(".")[0]


def test_every_package_has_its_place_in_the_flow():
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages == set(FLOW)


@pytest.mark.parametrize("part", FLOW)
def test_a_part_imports_only_what_stands_before_it(part):
    later = FLOW[FLOW.index(part) + 1 :]
    arrows = {
        (module, other)
        for module, others in GRAPH.items()
        if part_of(module) == part
        for other in others & MODULES.keys()
    }
    assert any(part_of(module) == part for module in GRAPH)
    assert not {arrow for arrow in arrows if part_of(arrow[1]) in later}


def test_no_circle_of_imports():
    """Kahn's algorithm: what is left when nothing without imports is left is a circle."""
    left = {m: {o for o in others if o in MODULES and o != m} for m, others in GRAPH.items()}
    while free := {module for module, others in left.items() if not others & left.keys()}:
        left = {module: others for module, others in left.items() if module not in free}
    assert not left


@pytest.mark.parametrize("part", WITHOUT_TVM)
def test_only_the_bridge_and_tuning_need_tvm(part):
    for module, others in GRAPH.items():
        if part_of(module) == part:
            assert not {name for name in others if name.split(".")[0] == "tvm"}, module


def test_the_bridge_is_thin():
    arrows = {
        part_of(o) for m, others in GRAPH.items() if part_of(m) == "tvm_bridge" for o in others
    }
    assert not arrows & set(FLOW) - {*BRIDGE_NEEDS, "tvm_bridge"}


def test_engines_stand_side_by_side():
    for part in ("tvm_bridge", "tuning"):
        for engine, other in (ENGINES, ENGINES[::-1]):
            inside = [module for module in MODULES if module.startswith(f"{part}.{engine}")]
            assert inside
            for module in inside:
                assert not {o for o in GRAPH[module] if o.startswith(f"{part}.{other}")}, module
