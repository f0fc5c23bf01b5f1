"""The text side of InternVideo2 Stage2: the layers of a BERT-large that look at the text alone.

The attribute names are those of the published checkpoint. Its last layers look at the video as well and score pairs; a
vector of a text comes from before them.
"""

from torch import Tensor, nn
from torch.nn import functional

_NUM_HEADS = 16  # of BERT-large; shapes do not tell it
_NORM_EPSILON = 1e-12


class TextEncoder(nn.Module):
    """Gives a text the hidden state of its first token."""

    def __init__(self, *, width: int, depth: int, hidden: int, vocabulary: int, positions: int) -> None:
        super().__init__()
        self.embeddings = _TokenEmbeddings(width, vocabulary, positions)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(_Layer(width, hidden) for _ in range(depth))})

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Encode texts.

        Args:
            tokens: int64, shape (batch, num_tokens); the first of each is [CLS].
            mask: bool, shape (batch, num_tokens); False where a shorter text is padded.

        Returns:
            float, shape (batch, width).
        """
        states: Tensor = self.embeddings(tokens)
        layers = self.encoder["layer"]
        assert isinstance(layers, nn.ModuleList)
        for layer in layers:
            states = layer(states, mask[:, None, None, :])
        return states[:, 0]


class _TokenEmbeddings(nn.Module):
    """A vector for each token from what it is, where it stands, and that there is one text only."""

    def __init__(self, width: int, vocabulary: int, positions: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, width)
        self.position_embeddings = nn.Embedding(positions, width)
        self.token_type_embeddings = nn.Embedding(2, width)
        self.LayerNorm = nn.LayerNorm(width, eps=_NORM_EPSILON)

    def forward(self, tokens: Tensor) -> Tensor:
        places = self.position_embeddings.weight[: tokens.shape[1]]
        normed: Tensor = self.LayerNorm(self.word_embeddings(tokens) + self.token_type_embeddings.weight[0] + places)
        return normed


class _Layer(nn.Module):
    """Attention and perceptron, each added to its input and then normed."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": _SelfAttention(width), "output": _AddedAndNormed(width, width)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, hidden)})
        self.output = _AddedAndNormed(hidden, width)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        attended = self.attention["output"](self.attention["self"](states, mask), states)
        result: Tensor = self.output(functional.gelu(self.intermediate["dense"](attended)), attended)
        return result


class _SelfAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        query, key, value = (
            projection(states).view(*states.shape[:2], _NUM_HEADS, -1).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)


class _AddedAndNormed(nn.Module):
    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width_in, width)
        self.LayerNorm = nn.LayerNorm(width, eps=_NORM_EPSILON)

    def forward(self, states: Tensor, before: Tensor) -> Tensor:
        normed: Tensor = self.LayerNorm(self.dense(states) + before)
        return normed
