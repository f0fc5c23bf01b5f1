"""What a reply says of its window: the caption's status, and whether someone should look at it. Pure."""

from collections.abc import Sequence

from curation.captioning.requests import CaptionReply
from curation.model import CaptionOutcome

_MIN_REPEATED_TOKENS = 32
_MAX_PERIOD = 16


def outcome_of(reply: CaptionReply) -> CaptionOutcome:
    """A reply's status, with flags for a text that is empty or goes round in a circle."""
    flags = []
    if reply.status != "error":
        if not reply.text.strip():
            flags.append("empty")
        if goes_round(reply.token_ids):
            flags.append("repeated")
    return CaptionOutcome(reply.status, reply.reason, reply.prompt_tokens, reply.output_tokens, tuple(flags))


def goes_round(token_ids: Sequence[int]) -> bool:
    """Whether a text holds 32 tokens or more in which a piece of at most 16 tokens stands three times or more.

    Source:
        docs/rules.md, Captions. A model that is caught in a loop goes on to the token limit.
    """
    for period in range(1, _MAX_PERIOD + 1):
        run = 0
        for token, before in zip(token_ids[period:], token_ids, strict=False):
            run = run + 1 if token == before else 0
            if run >= max(_MIN_REPEATED_TOKENS - period, 2 * period):
                return True
    return False
