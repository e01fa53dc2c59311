"""README's figures are those of the results, and docstrings describe the arguments there are."""

import importlib.util
import logging
from pathlib import Path

import griffe
import orjson

ROOT = Path(__file__).parents[1]


def test_the_readme_table_is_what_the_results_give():
    spec = importlib.util.spec_from_file_location("plot", ROOT / "tools" / "plot_searches.py")
    assert spec is not None and spec.loader is not None
    plot = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plot)
    files = {c.file: (plot.RESULTS / f"{c.file}.json").read_bytes() for c in plot.COMPARISONS}
    table = plot.table({name: orjson.loads(content) for name, content in files.items()})
    assert "\n".join(table) in (ROOT / "README.md").read_text()


def test_docstrings_name_only_arguments_that_exist(caplog):
    with caplog.at_level(logging.WARNING):
        package = griffe.load(
            "cwm_jax",
            search_paths=[ROOT],
            docstring_parser="google",
            docstring_options={"warn_unknown_params": True},
        )
        assert parse_docstrings(package) > 1000
    assert not [record.getMessage() for record in caplog.records if record.name == "griffe"]


def parse_docstrings(item):
    """Parses all docstrings below an object and returns how many there are."""
    count = 0
    for member in item.members.values():
        if not member.is_alias:
            if member.docstring:
                count += 1
                assert member.docstring.parsed
            count += parse_docstrings(member)
    return count
