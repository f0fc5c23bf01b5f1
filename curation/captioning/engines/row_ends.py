"""Where each answer of a batch ends, and what is drawn less often: by the row, as transformers itself does not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    import torch

_BROKEN: Final = "\ufffd"  # what is decoded of a letter that was cut off between its tokens


@dataclass(frozen=True, slots=True)
class Answer:
    """What a row of a batch said.

    Attributes:
        text: without special tokens, up to the stop string; a letter that was cut off is not there.
        token_ids: the one that ended it included.
    """

    text: str
    status: Literal["success", "truncated"]
    token_ids: tuple[int, ...]


class RowEnds:
    """A stopping criterion: rows end by themselves, by a stop string, or at a limit of their own."""

    def __init__(
        self,
        tokenizer: Any,
        *,
        prompt_length: int,
        limits: Sequence[int],
        end_ids: frozenset[int],
        stop: Sequence[str],
        on_step: Callable[[], None],
    ) -> None:
        """Prepare for a batch.

        Args:
            tokenizer: the model's.
            prompt_length: tokens of the padded prompts.
            limits: tokens of each answer at most.
            end_ids: tokens that end an answer.
            stop: strings that end it and do not belong to it.
            on_step: called after each token.
        """
        self._tokenizer = tokenizer
        self._prompt_length = prompt_length
        self._limits = limits
        self._end_ids = end_ids
        self._stop = stop
        self._tail = max((len(word.encode()) for word in stop), default=0) + 1  # a token is a byte at least
        self._on_step = on_step
        self._lengths: list[int | None] = [None] * len(limits)
        self._truncated = [False] * len(limits)

    def __call__(self, input_ids: "torch.Tensor", scores: object, **_: object) -> "torch.Tensor":
        """Which rows have ended, bool, shape (batch,)."""
        self._on_step()
        length = input_ids.shape[1] - self._prompt_length
        tails = input_ids[:, -min(length, self._tail) :].tolist()
        for row, tail in enumerate(tails):
            if self._lengths[row] is None:
                has_ended = tail[-1] in self._end_ids or self._has_stop(tail)
                if has_ended or length >= self._limits[row]:
                    self._lengths[row], self._truncated[row] = length, not has_ended
        return input_ids.new_tensor([length is not None for length in self._lengths]).bool()

    def answers(self, output_ids: "torch.Tensor") -> list[Answer]:
        """What each row said.

        Args:
            output_ids: prompts and answers, shape (batch, length).
        """
        rows = output_ids[:, self._prompt_length :].tolist()
        return [
            self._answer(tuple(row[:length]), is_truncated=is_truncated)
            for row, length, is_truncated in zip(rows, self._lengths, self._truncated, strict=True)
        ]

    def _answer(self, token_ids: tuple[int, ...], *, is_truncated: bool) -> Answer:
        text = self._decoded(token_ids)
        text = text[: self._stops_at(text)].rstrip(_BROKEN).strip()
        return Answer(text, "truncated" if is_truncated else "success", token_ids)

    def _decoded(self, token_ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def _has_stop(self, token_ids: Sequence[int]) -> bool:
        return bool(self._stop) and self._stops_at(self._decoded(token_ids)) is not None

    def _stops_at(self, text: str) -> int | None:
        """Where the first stop string begins; None without one."""
        return min((text.index(word) for word in self._stop if word in text), default=None)


class RepetitionPenalty:
    """Lowers the scores of tokens that the prompt or the answer has; padding is no part of a prompt.

    The processor of transformers takes the padding token for one that was said, so that what a row answers would depend
    on the rows beside it.
    """

    def __init__(self, penalty: float, prompt_mask: "torch.Tensor") -> None:
        """
        Args:
            penalty: what positive scores are divided by and negative ones multiplied with.
            prompt_mask: 1 for tokens of the prompts, 0 for padding, shape (batch, length).
        """
        self._penalty = penalty
        self._padding = prompt_mask == 0

    def __call__(self, input_ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
        """Scores of the next token, shape (batch, vocabulary)."""
        import torch

        said = input_ids.clone()
        width = self._padding.shape[1]
        said[:, :width] = torch.where(self._padding, input_ids[:, width - 1 : width], input_ids[:, :width])
        score = scores.gather(1, said)
        return scores.scatter(1, said, torch.where(score < 0, score * self._penalty, score / self._penalty))
