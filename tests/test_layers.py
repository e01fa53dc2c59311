"""Which part of the package imports which: what an engine needs is its own."""

import ast
from pathlib import Path

import pytest

import cwm_jax

PACKAGE = Path(cwm_jax.__file__).parent
FLOW = ["records", "features", "model", "ranking", "search"]
ENGINES = ["ansor", "metaschedule"]


def imported(folder: Path, pattern: str = "**/*.py") -> set[str]:
    """Names of all modules that the files of a folder import, inside functions, too."""
    found: set[str] = set()
    for path in folder.glob(pattern):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
    return found


def of(names: set[str], package: str) -> set[str]:
    return {name for name in names if name == package or name.startswith(f"{package}.")}


@pytest.mark.parametrize("part", FLOW)
def test_a_part_imports_only_what_stands_before_it(part):
    names = imported(PACKAGE / part)
    later = [*FLOW[FLOW.index(part) + 1 :], "training", "evaluation", "tvm_bridge", "cli"]
    assert len(names) > 10
    assert not {name for other in later for name in of(names, f"cwm_jax.{other}")}


@pytest.mark.parametrize("part", [*FLOW, "training", "evaluation"])
def test_only_the_bridge_needs_tvm(part):
    names = imported(PACKAGE / part)
    assert not of(names, "tvm") | of(names, "cwm_jax.tvm_bridge")


def test_engines_stand_side_by_side():
    bridge = PACKAGE / "tvm_bridge"
    for engine, other in (ENGINES, ENGINES[::-1]):
        names = imported(bridge / engine)
        assert of(names, f"cwm_jax.tvm_bridge.{engine}")
        assert not of(names, f"cwm_jax.tvm_bridge.{other}")
    shared = imported(bridge, "*.py")
    assert of(shared, "cwm_jax.tvm_bridge")
    assert not {name for engine in ENGINES for name in of(shared, f"cwm_jax.tvm_bridge.{engine}")}
