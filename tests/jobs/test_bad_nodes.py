"""The list of nodes that are left out; what tasks do with it is seen on a real cluster in tests/slurm."""

from pathlib import Path

from jobs.bad_nodes import bad_nodes, bad_nodes_path, excluded_nodes
from jobs.ledger import ShardLog
from jobs.rundir import RunDir
from tests.local_runs import make_videos, planned

HOUR_S = 3600.0


def note(run: RunDir, event: str, node: str) -> None:
    log = ShardLog(bad_nodes_path(run))
    log.append(event, node=node, check="gpu", message=f"{node} is dark", job="1_2")
    log.close()


def test_a_node_is_left_out_until_its_time_is_over(tmp_path: Path) -> None:
    run = planned(tmp_path, make_videos(tmp_path / "raw", 1), slurm={"exclude_bad_nodes_hours": 2.0})
    assert bad_nodes(run, 0.0) == []
    for node in ("n2", "n1", "n2"):
        note(run, "bad_node", node)
    found = bad_nodes(run, 0.0)
    assert [(each.node, each.message) for each in found] == [("n1", "n1 is dark"), ("n2", "n2 is dark")]
    last = found[1].time
    assert excluded_nodes(run, last + 1.9 * HOUR_S) == ["n1", "n2"]
    assert excluded_nodes(run, last + 2.1 * HOUR_S) == []


def test_a_forgiven_node_is_used_again_until_it_fails_anew(tmp_path: Path) -> None:
    run = planned(tmp_path, make_videos(tmp_path / "raw", 1))
    for event in ("bad_node", "forgiven"):
        note(run, event, "n1")
    assert excluded_nodes(run, 0.0) == []
    note(run, "bad_node", "n1")
    assert excluded_nodes(run, 0.0) == ["n1"]
