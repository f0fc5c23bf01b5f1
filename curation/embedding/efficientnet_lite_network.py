"""EfficientNet-Lite0, the image classifier of Tan and Le (2019, arXiv:1905.11946) in its form for small devices.

What it makes of a picture before it chooses among the 1000 classes of ImageNet describes the picture. The attribute
names are those of the published checkpoint, so that it loads with ``strict=True``; the classes are there for that, too.
"""

from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import fuse_conv_bn_eval

from curation.embedding.efficientnet_lite import NUM_FEATURES, TITLE, WEIGHTS_SHA256
from curation.weights import load_published

# repeats, kernel, stride of the first, expansion, channels in and out (the paper's table 1 and section 4.1)
_STAGES: Final = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
_NORM_EPSILON: Final = 1e-3
_PIXEL_MEAN, _PIXEL_SCALE = 127.0, 128.0  # the authors' for the Lite models


class EfficientNetLite0(nn.Module):
    """The network, with random weights; :func:`load_efficientnet_lite0` gives the trained one."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _SameConvolution(3, 32, kernel_size=3, stride=2)
        self._bn0 = _norm(32)
        self._blocks = nn.ModuleList(
            _Block(
                channels_in if k == 0 else channels_out, channels_out, kernel_size, stride if k == 0 else 1, expansion
            )
            for repeats, kernel_size, stride, expansion, channels_in, channels_out in _STAGES
            for k in range(repeats)
        )
        self._conv_head = _SameConvolution(320, NUM_FEATURES, kernel_size=1)
        self._bn1 = _norm(NUM_FEATURES)
        self._fc = nn.Linear(NUM_FEATURES, 1000)

    def forward(self, frames: Tensor) -> Tensor:
        """Describe pictures.

        Args:
            frames: uint8 RGB, shape (batch, height, width, 3), sides that 32 divides; trained on 224 x 224.

        Returns:
            float32, shape (batch, 1280): the mean over all places in the picture.
        """
        pixels = frames.permute(0, 3, 1, 2)  # channels stay side by side in memory, which is faster on a CPU
        features = functional.relu6(self._bn0(self._conv_stem((pixels.float() - _PIXEL_MEAN) / _PIXEL_SCALE)))
        for block in self._blocks:
            features = block(features)
        return functional.relu6(self._bn1(self._conv_head(features))).mean(dim=(2, 3))

    def fold(self) -> None:
        """Put the normalisation into the convolutions: the same within float32's rounding, in less time."""
        _fold(self, "_conv_stem", "_bn0")
        _fold(self, "_conv_head", "_bn1")
        for block in self._blocks:
            for convolution, norm in (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")):
                if hasattr(block, convolution):
                    _fold(block, convolution, norm)


def load_efficientnet_lite0(weights: Path, device: str) -> EfficientNetLite0:
    """The published network, folded for speed; see ``load_published``."""
    network = load_published(EfficientNetLite0, weights, title=TITLE, sha256=WEIGHTS_SHA256, device=device)
    network.fold()
    for parameter in network.parameters():
        if parameter.dim() == 4:  # of a convolution
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network


class _Block(nn.Module):
    """Widens the channels, filters each by itself, narrows them again; with a shortcut where the shape stays."""

    def __init__(self, channels_in: int, channels_out: int, kernel_size: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels_in * expansion
        if expansion > 1:
            self._expand_conv = _SameConvolution(channels_in, wide, kernel_size=1)
            self._bn0 = _norm(wide)
        self._depthwise_conv = _SameConvolution(wide, wide, kernel_size=kernel_size, stride=stride, groups=wide)
        self._bn1 = _norm(wide)
        self._project_conv = _SameConvolution(wide, channels_out, kernel_size=1)
        self._bn2 = _norm(channels_out)
        self._has_shortcut = stride == 1 and channels_in == channels_out

    def forward(self, features: Tensor) -> Tensor:
        wide = features
        if hasattr(self, "_expand_conv"):
            wide = functional.relu6(self._bn0(self._expand_conv(wide)))
        wide = functional.relu6(self._bn1(self._depthwise_conv(wide)))
        narrow: Tensor = self._bn2(self._project_conv(wide))
        return narrow + features if self._has_shortcut else narrow


class _SameConvolution(nn.Conv2d):
    """TensorFlow's padding ``SAME``: with stride 2 a picture with even sides gets more zeros below and on the right."""

    def __init__(
        self, channels_in: int, channels_out: int, *, kernel_size: int, stride: int = 1, groups: int = 1
    ) -> None:
        padding = kernel_size // 2 if stride == 1 else 0
        super().__init__(
            channels_in, channels_out, kernel_size, stride=stride, padding=padding, groups=groups, bias=False
        )

    def forward(self, features: Tensor) -> Tensor:
        if self.stride[0] == 2:
            after = self.kernel_size[0] // 2
            features = functional.pad(features, (after - 1, after, after - 1, after))
        return super().forward(features)


def _norm(num_channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(num_channels, eps=_NORM_EPSILON)


def _fold(module: nn.Module, convolution: str, norm: str) -> None:
    setattr(module, convolution, fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm)))
    setattr(module, norm, nn.Identity())
