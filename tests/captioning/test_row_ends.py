import pytest

from curation.captioning.engines.row_ends import RepetitionPenalty

torch = pytest.importorskip("torch")


def test_the_padding_of_a_prompt_was_never_said(needs_transformers: None) -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    padding, scores = 0, torch.randn(2, 12, generator=torch.Generator().manual_seed(1))
    prompts = torch.tensor([[padding, padding, 3, 4], [5, 6, 7, padding]])  # its last token is one that was said
    said = torch.cat([prompts, torch.tensor([[8], [9]])], dim=1)
    ours = RepetitionPenalty(1.3, torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]))(said, scores)
    theirs = RepetitionPenaltyLogitsProcessor(1.3)
    assert torch.equal(ours[:1], theirs(said[:1, 2:], scores[:1]))
    assert torch.equal(ours[1:], theirs(said[1:], scores[1:]))
    assert ours[0, padding] == scores[0, padding]
