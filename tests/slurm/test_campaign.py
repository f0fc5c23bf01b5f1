"""The fault campaign in its short form: see ``campaign`` for the long one."""

import pytest

from tests.slurm.campaign import SCENARIOS, Campaign, on_cluster, prepare
from tests.slurm.conftest import require_slurm


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    require_slurm(accounting=False)
    return prepare(tmp_path_factory.mktemp("campaign"), num_kills=5, seed=1)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_outputs_are_those_of_an_undisturbed_run(scenario: str, campaign: Campaign) -> None:
    with on_cluster() as cluster:  # its own: what a fault leaves behind is no other scenario's
        print(SCENARIOS[scenario](campaign, cluster))
