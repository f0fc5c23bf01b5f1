"""The fault campaign in its short form: see ``campaign`` for the long one."""

import pytest

from tests.slurm.campaign import SCENARIOS, Campaign, prepare
from tests.slurm.cluster import SlurmCluster
from tests.slurm.conftest import require_slurm


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    require_slurm(accounting=False)
    return prepare(tmp_path_factory.mktemp("campaign"), num_kills=5, seed=1)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_outputs_are_those_of_an_undisturbed_run(scenario: str, campaign: Campaign, slurm_env: SlurmCluster) -> None:
    print(SCENARIOS[scenario](campaign, slurm_env))
