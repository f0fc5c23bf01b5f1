"""TransNet V2, the shot boundary detector of Soucek and Lokoc (2020, arXiv:2008.04838), for inference.

The attribute names are those of the published checkpoint, so that it loads with ``strict=True``. Two things in it are
only for training and are left out of the computation: dropout, and the second head, which marks *all* frames of a
transition; its weights are kept because the checkpoint has them. :func:`fold_for_cpu` reorders the convolutions, which
are nearly all of the cost, for a CPU's caches.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from curation.clipping.shot_model import TITLE, WEIGHTS_SHA256
from curation.weights import load_published

_NUM_NEIGHBOURS = 101  # each frame is compared with the 50 before it, itself and the 50 after it
_NUM_SIMILARITY_FEATURES = 128
_NUM_COLOURS = 512  # 8 levels of each of red, green and blue


class TransNetV2(nn.Module):
    """The network, with random weights; :func:`load_transnetv2` gives the trained one."""

    def __init__(self) -> None:
        super().__init__()
        self.SDDCNN = nn.ModuleList([_ConvolutionStack(3, 16), _ConvolutionStack(64, 32), _ConvolutionStack(128, 64)])
        self.frame_sim_layer = _FeatureSimilarity(64 + 128 + 256)
        self.color_hist_layer = _ColourSimilarity()
        # Three poolings leave 3 x 6 places of a frame of 27 x 48, with 256 channels each.
        self.fc1 = nn.Linear(3 * 6 * 256 + 2 * _NUM_SIMILARITY_FEATURES, 1024)
        self.cls_layer1 = nn.Linear(1024, 1)
        self.cls_layer2 = nn.Linear(1024, 1)

    def forward(self, frames: Tensor) -> Tensor:
        """Give each frame the probability that the shot changes between it and the next one.

        Args:
            frames: uint8 RGB, shape (batch, num_frames, 27, 48, 3). Trained on windows of 100 frames.

        Returns:
            float32 in 0..1, shape (batch, num_frames).
        """
        features = frames.permute(0, 4, 1, 2, 3).float().div_(255)  # (batch, channels, num_frames, height, width)
        features_of_stacks = []
        for stack in self.SDDCNN:
            features = stack(features)
            features_of_stacks.append(features)
        frame_vectors = torch.cat(
            [
                self.color_hist_layer(frames),
                self.frame_sim_layer(features_of_stacks),
                features.permute(0, 2, 3, 4, 1).flatten(start_dim=2),
            ],
            dim=2,
        )
        logits: Tensor = self.cls_layer1(functional.relu(self.fc1(frame_vectors)))
        return torch.sigmoid(logits).squeeze(2)


def load_transnetv2(weights: Path, device: str) -> TransNetV2:
    """The published network; see ``load_published``."""
    return load_published(TransNetV2, weights, title=TITLE, sha256=WEIGHTS_SHA256, device=device)


def fold_for_cpu(network: TransNetV2) -> TransNetV2:
    """Reorder the convolutions for a CPU: the same within float32's rounding, in about three quarters of the time.

    Pictures lie in memory with their channels side by side (``channels_last``), convolutions over frames become
    two-dimensional ones over (frames, places), and normalisation goes into their weights. Changes ``network``.
    """
    network.SDDCNN = nn.ModuleList([_FoldedStack(stack) for stack in network.SDDCNN])
    return network


class _ConvolutionStack(nn.Module):
    """Two blocks of dilated convolutions with a shortcut past the second; halves height and width."""

    def __init__(self, in_channels: int, channels_per_dilation: int) -> None:
        super().__init__()
        self.DDCNN = nn.ModuleList(
            [
                _DilatedConvolutions(in_channels, channels_per_dilation),
                _DilatedConvolutions(4 * channels_per_dilation, channels_per_dilation),
            ]
        )
        self.pool = nn.AvgPool3d(kernel_size=(1, 2, 2))

    def forward(self, features: Tensor) -> Tensor:
        """Map (batch, in_channels, num_frames, h, w) to (batch, 4 * channels, num_frames, h // 2, w // 2)."""
        first, second = self.DDCNN
        shortcut = functional.relu(first(features))
        pooled: Tensor = self.pool(functional.relu(second(shortcut)) + shortcut)
        return pooled


class _DilatedConvolutions(nn.Module):
    """Four convolutions side by side that look 1, 2, 4 and 8 frames back and ahead."""

    def __init__(self, in_channels: int, channels_per_dilation: int) -> None:
        super().__init__()
        self.Conv3D_1 = _SpaceThenTimeConvolution(in_channels, channels_per_dilation, dilation=1)
        self.Conv3D_2 = _SpaceThenTimeConvolution(in_channels, channels_per_dilation, dilation=2)
        self.Conv3D_4 = _SpaceThenTimeConvolution(in_channels, channels_per_dilation, dilation=4)
        self.Conv3D_8 = _SpaceThenTimeConvolution(in_channels, channels_per_dilation, dilation=8)
        self.bn = nn.BatchNorm3d(4 * channels_per_dilation, eps=1e-3)  # Keras' epsilon: the weights were trained there

    def forward(self, features: Tensor) -> Tensor:
        convolutions = (self.Conv3D_1, self.Conv3D_2, self.Conv3D_4, self.Conv3D_8)
        normalised: Tensor = self.bn(torch.cat([convolution(features) for convolution in convolutions], dim=1))
        return normalised


class _SpaceThenTimeConvolution(nn.Module):
    """A 3x3x3 convolution split in one over height and width and one over frames; keeps all three sizes."""

    def __init__(self, in_channels: int, out_channels: int, *, dilation: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(in_channels, 2 * out_channels, kernel_size=(1, 3, 3), padding=(0, 1, 1), bias=False),
            nn.Conv3d(
                2 * out_channels,
                out_channels,
                kernel_size=(3, 1, 1),
                dilation=(dilation, 1, 1),
                padding=(dilation, 0, 0),
                bias=False,
            ),
        )

    def forward(self, features: Tensor) -> Tensor:
        convolved: Tensor = self.layers(features)
        return convolved


class _FoldedStack(nn.Module):
    """What a ``_ConvolutionStack`` computes, with the channels last in memory."""

    def __init__(self, stack: nn.Module) -> None:
        super().__init__()
        assert isinstance(stack, _ConvolutionStack)
        self.blocks = nn.ModuleList([_FoldedConvolutions(block) for block in stack.DDCNN])

    def forward(self, features: Tensor) -> Tensor:
        """Map (batch, in_channels, num_frames, h, w) to (batch, 4 * channels, num_frames, h // 2, w // 2)."""
        first, second = self.blocks
        shortcut = functional.relu_(first(features.permute(0, 2, 3, 4, 1).contiguous()))
        summed = functional.relu_(second(shortcut)).add_(shortcut)
        pooled = functional.avg_pool2d(summed.flatten(end_dim=1).permute(0, 3, 1, 2), kernel_size=2)
        return pooled.view(*summed.shape[:2], *pooled.shape[1:]).transpose(1, 2)


class _FoldedConvolutions(nn.Module):
    """What a ``_DilatedConvolutions`` computes, from and to (batch, num_frames, height, width, channels)."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        assert isinstance(block, _DilatedConvolutions)
        norm = block.bn
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        bias = norm.bias - norm.running_mean * scale
        convolutions = (block.Conv3D_1, block.Conv3D_2, block.Conv3D_4, block.Conv3D_8)
        self.convolutions = nn.ModuleList(
            _FoldedSpaceThenTime(convolution, own_scale, own_bias)
            for convolution, own_scale, own_bias in zip(convolutions, scale.chunk(4), bias.chunk(4), strict=True)
        )

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([convolution(features) for convolution in self.convolutions], dim=-1)


class _FoldedSpaceThenTime(nn.Module):
    """What a ``_SpaceThenTimeConvolution`` and its part of the normalisation compute; channels last as above."""

    in_space: Tensor
    in_time: Tensor
    bias: Tensor

    def __init__(self, convolution: _SpaceThenTimeConvolution, scale: Tensor, bias: Tensor) -> None:
        super().__init__()
        in_space, in_time = convolution.layers
        assert isinstance(in_space, nn.Conv3d)
        assert isinstance(in_time, nn.Conv3d)
        last = torch.channels_last
        self.register_buffer("in_space", in_space.weight.squeeze(2).contiguous(memory_format=last))
        scaled = in_time.weight.squeeze(4) * scale[:, None, None, None]
        self.register_buffer("in_time", scaled.contiguous(memory_format=last))
        self.register_buffer("bias", bias.clone())
        self._dilation = in_time.dilation[0]

    def forward(self, features: Tensor) -> Tensor:
        pictures = features.flatten(end_dim=1).permute(0, 3, 1, 2)
        convolved = functional.conv2d(pictures, self.in_space, padding=1).permute(0, 2, 3, 1).contiguous()
        places = convolved.view(*features.shape[:2], -1, convolved.shape[3]).permute(0, 3, 1, 2)
        padding, dilation = (self._dilation, 0), (self._dilation, 1)
        summed = functional.conv2d(places, self.in_time, self.bias, padding=padding, dilation=dilation)
        return summed.permute(0, 2, 3, 1).view(*features.shape[:4], -1)


class _FeatureSimilarity(nn.Module):
    """How alike each frame's learned features are to those of its neighbours."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.projection = nn.Linear(num_channels, 128)
        self.fc = nn.Linear(_NUM_NEIGHBOURS, _NUM_SIMILARITY_FEATURES)

    def forward(self, features_of_stacks: Sequence[Tensor]) -> Tensor:
        """Map one (batch, channels, num_frames, height, width) a stack to (batch, num_frames, 128)."""
        means = torch.cat([features.mean(dim=(3, 4)) for features in features_of_stacks], dim=1)
        projected = self.projection(means.transpose(1, 2))
        return functional.relu(self.fc(_neighbour_similarities(projected)))


class _ColourSimilarity(nn.Module):
    """How alike each frame's colour histogram is to those of its neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(_NUM_NEIGHBOURS, _NUM_SIMILARITY_FEATURES)

    def forward(self, frames: Tensor) -> Tensor:
        """Map uint8 RGB (batch, num_frames, height, width, 3) to (batch, num_frames, 128)."""
        return functional.relu(self.fc(_neighbour_similarities(_colour_histograms(frames))))


def _colour_histograms(frames: Tensor) -> Tensor:
    """Count each frame's pixels by the top three bits of red, green and blue.

    Args:
        frames: uint8 RGB, shape (batch, num_frames, height, width, 3).

    Returns:
        float32 counts (exact: far below 2**24), shape (batch, num_frames, 512), index ``64 * red + 8 * green + blue``.
    """
    red, green, blue = (frames.flatten(start_dim=2, end_dim=3).long() >> 5).unbind(dim=3)
    colours = (red << 6) + (green << 3) + blue
    counts = torch.zeros((*colours.shape[:2], _NUM_COLOURS), device=frames.device)
    return counts.scatter_add_(2, colours, torch.ones_like(colours, dtype=counts.dtype))


def _neighbour_similarities(vectors: Tensor) -> Tensor:
    """Compare each frame with the frames around it; a neighbour outside of the window counts as 0.

    Args:
        vectors: float32, shape (batch, num_frames, size).

    Returns:
        float32 cosines, shape (batch, num_frames, 101): entry [:, i, k] is of the frames i and i + k - 50.
    """
    directions = functional.normalize(vectors, dim=2)
    cosines = functional.pad(directions @ directions.transpose(1, 2), (_NUM_NEIGHBOURS // 2, _NUM_NEIGHBOURS // 2))
    # Entry [:, i, j, k] of the unfolded tensor is cosines[:, i, j + k]; row i's own neighbours are those with j = i.
    return cosines.unfold(2, _NUM_NEIGHBOURS, 1).diagonal(dim1=1, dim2=2).transpose(1, 2)
