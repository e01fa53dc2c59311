"""Examples in docstrings run as they are written."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import cwm_jax

PARTS = ("records", "features", "model", "ranking", "search", "training")
ROOT = Path(__file__).parent.parent


def modules() -> list[str]:
    found = []
    for part in PARTS:
        package = importlib.import_module(f"cwm_jax.{part}")
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            text = Path(info.module_finder.path, f"{info.name.split('.')[-1]}.py")
            if text.exists() and ">>>" in text.read_text():
                found.append(info.name)
    return found


@pytest.mark.parametrize("name", modules())
def test_examples_run(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0


def test_public_names_have_a_docstring():
    for name in dir(cwm_jax):
        if name != "__version__":
            text = getattr(cwm_jax, name).__doc__
            assert text
            assert text.splitlines()[0].endswith((".", "`."))
