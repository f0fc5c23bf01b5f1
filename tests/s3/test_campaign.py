"""The fault campaign with outputs on S3, in short: the long form is a command (``tests.s3.campaign``)."""

from pathlib import Path

from tests.s3.campaign import Campaign, away, kills
from tests.s3.server import S3Server

NUM_FAULTS = 4


def test_after_kills_and_outages_every_byte_is_what_it_is_without(s3_env: S3Server, tmp_path: Path) -> None:
    campaign = Campaign.prepare(tmp_path, s3_env, seed=1)
    away(campaign)
    kills(campaign, NUM_FAULTS)
