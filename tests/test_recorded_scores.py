"""Three shipped checkpoints rank as they did when their scores were recorded.

`data/scores.json` holds the scores of every fourth valid record of a log, with and without its
graphs, computed by commit d63c656. They are recorded anew only when a checkpoint is.
"""

import json
from pathlib import Path

import numpy as np
import pytest

import cwm_jax

DATA = Path(__file__).parent / "data"
RECORDED = json.loads((DATA / "scores.json").read_text())


@pytest.mark.parametrize("checkpoint", RECORDED)
@pytest.mark.filterwarnings("ignore::cwm_jax.ranking.catalog.PairingWarning")
def test_scores_are_those_recorded(checkpoint):
    recorded = RECORDED[checkpoint]
    log = DATA / recorded["log"]
    records = cwm_jax.load_records(log, valid_only=True)
    scorer = cwm_jax.Scorer.load(checkpoint)
    with_graphs = scorer.score(records, cwm_jax.load_graphs(log))[::4]
    without = scorer.score(records)[::4]
    # Machines add up in another order; scores spread over several units.
    np.testing.assert_allclose(with_graphs, recorded["scores"], atol=2e-3)
    np.testing.assert_allclose(without, recorded["without_graphs"], atol=2e-3)
