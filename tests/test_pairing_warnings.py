"""A model that is asked about another device or engine says so."""

import dataclasses
import warnings

import pytest

from cwm_jax.features.hardware import kind_of_target, load_hardware
from cwm_jax.ranking.catalog import PairingWarning, warn_of_engine, warn_of_target
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.ansor_log import TRANSLATED
from cwm_jax.records.graph import load_graphs
from cwm_jax.records.logs import load_records

CPU, GPU = load_hardware("cpu-x86-2core"), load_hardware("cuda-v100")


@pytest.mark.parametrize(
    ("card", "target", "cores"),
    [
        (CPU, "llvm -mcpu=core-avx2", 2),
        (CPU, "llvm", None),
        (CPU, '{"kind":"llvm","num-cores":2}', 2),
        (GPU, "cuda -arch=sm_70", 80),
        (GPU, '{"kind": "cuda"}', None),
    ],
)
def test_what_fits_is_silent(card, target, cores):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_target(card, target, cores)
        warn_of_engine(("ansor", "metaschedule"), "metaschedule")


@pytest.mark.parametrize(
    ("card", "target", "cores", "says"),
    [
        (CPU, "cuda -arch=sm_70", None, "cpu-x86-2core, a cpu, but 'cuda -arch=sm_70' is a gpu"),
        (GPU, '{"kind":"llvm"}', 8, "ranks for cuda-v100, a gpu, but .* is a cpu"),
        (CPU, "llvm", 16, "a cpu of 2 cores, but 'llvm' is a cpu of 16 cores"),
    ],
)
def test_another_device_is_named(card, target, cores, says):
    with pytest.warns(PairingWarning, match=says) as caught:
        warn_of_target(card, target, cores)
    assert "--hardware CARD" in str(caught[0].message)
    assert "cwm train" in str(caught[0].message)


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("llvm -mcpu=core-avx2", "cpu"),
        (" llvm", "cpu"),
        ("llvm -keys=arm_cpu,cpu -device=arm_cpu", "cpu"),
        ("arm_cpu", "cpu"),
        ("hexagon -mcpu=hexagonv68", "cpu"),
        ("c -keys=arm_cpu,cpu", "cpu"),
        ("stackvm", "cpu"),
        ("raspberry-pi/4b-aarch64", "cpu"),
        ("aws/cpu/c5.large", "cpu"),
        ("qcom/hexagon-v68", "cpu"),
        ("opencl -keys=opencl,cpu", "cpu"),
        ('{"kind": "llvm", "keys": ["arm_cpu", "cpu"]}', "cpu"),
        ('{"tag": "arm/rasp4b64"}', "cpu"),
        ("cuda -arch=sm_80", "gpu"),
        ("opencl -device=mali", "gpu"),
        ("ext_dev -keys=gpu", "gpu"),
        ("vulkan", "gpu"),
        ("rocm", "gpu"),
        ("nvidia/nvidia-a100", "gpu"),
        ("qcom/adreno-opencl", "gpu"),
        ('{"kind": "metal"}', "gpu"),
        ("", None),
        (" ", None),
        ("ext_dev", None),
        ("nonsense", None),
        ("{", None),
        ("[]", None),
        ('{"kind": null, "keys": 3}', None),
    ],
)
def test_the_kind_of_device_of_a_target(target, kind):
    assert kind_of_target(target) == kind


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("", "records do not say their target"),
        ("ext_dev -model=x", "a cpu, but of which kind of device .* is unknown"),
    ],
)
def test_a_target_of_no_known_kind_is_said_so(target, message):
    with pytest.warns(PairingWarning, match=message):
        warn_of_target(CPU, target)


def test_a_scorer_looks_at_the_records_it_scores(measured_log):
    records = load_records(measured_log)[:3]
    scorer = Scorer.load("cpu-x86-2core", hardware="cuda-v100")
    with pytest.warns(PairingWarning, match="cuda-v100"):
        scorer.score(records)
    translated = [dataclasses.replace(record, version=TRANSLATED) for record in records]
    with pytest.warns(PairingWarning, match="steps of ansor only, but ranks those of metaschedule"):
        Scorer.load("cpu-x86-2core").score(translated)


def test_a_scorer_says_that_it_lacks_compute_graphs(measured_log):
    records = load_records(measured_log)[:3]
    scorer = Scorer.load("cpu-x86-2core", hardware="cpu-x86-1core")
    with pytest.warns(PairingWarning, match=r"without a compute graph .*load_graphs\(LOG\)"):
        scorer.score(records)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scorer.score(records, load_graphs(measured_log))
