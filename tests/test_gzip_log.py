"""Logs of gzip members: whatever a kill leaves, finished members stay readable."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cwm_jax.errors import RecordError
from cwm_jax.records.lines import append_member, drop_unfinished_member

LINES = st.lists(st.text("abc{}[]1", max_size=40), min_size=1, max_size=5)


@given(st.lists(LINES, min_size=1, max_size=4), st.data())
def test_a_cut_loses_the_member_that_it_cuts_and_nothing_else(tmp_path_factory, members, data):
    path = tmp_path_factory.mktemp("log") / "log.jsonl.gz"
    ends = [0]
    for lines in members:
        append_member(path, lines)
        ends.append(path.stat().st_size)
    cut = data.draw(st.integers(0, ends[-1]))
    with path.open("rb+") as file:
        file.truncate(cut)
    whole = sum(end <= cut for end in ends) - 1
    before, copy = path.read_bytes(), path.with_name(f"{path.name}.backup1")
    if cut == ends[whole]:
        assert drop_unfinished_member(path) == 0
        assert not copy.exists()
    else:
        with pytest.warns(UserWarning, match="backup1 is as it was"):
            assert drop_unfinished_member(path) == cut - ends[whole]
        assert copy.read_bytes() == before
    expected = [line for lines in members[:whole] for line in lines]
    assert gzip.decompress(path.read_bytes()).decode().split("\n")[:-1] == expected
    append_member(path, ["more"])
    assert gzip.decompress(path.read_bytes()).decode().split("\n")[:-1] == [*expected, "more"]


def test_a_file_of_another_kind_is_refused_and_kept(tmp_path):
    path = tmp_path / "log.jsonl.gz"
    path.write_bytes(b"not gzip at all")
    with pytest.raises(RecordError, match="not a gzip file"):
        drop_unfinished_member(path)
    assert path.read_bytes() == b"not gzip at all"
