"""Pieces that many PyTorch networks are made of, added to a graph under the names of their source."""

from __future__ import annotations

from singleshot.weights.foreign_state import ForeignState
from singleshot.weights.graph_builder import GraphBuilder

Activation = str | float


class TorchBuilder(GraphBuilder):
    """A GraphBuilder that takes the weights of its layers from a checkpoint of PyTorch's.

    Each method adds one block and returns its last layer's name; it raises CheckpointError where a tensor is missing or
    misshapen. eps, momentum: of the source's batch normalisations from here on. activation: a kind of layer, the
    slope of a LeakyReLU, or "" for none.
    """

    def __init__(self, tensors: ForeignState, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.tensors, self.eps, self.momentum = tensors, eps, momentum

    def conv_norm(
        self,
        x: str,
        conv: str,
        norm: str,
        activation: Activation = "",
        kernel: int | None = None,
        stride: int = 1,
        padding: int | None = None,
        depthwise: bool = False,
    ) -> str:
        """A convolution without bias, its batch normalisation, and an activation.

        conv, norm: names in the checkpoint, and of the layers; kernel: None for that of the weight; padding: None for
        half the kernel, which keeps the side at stride 1.
        """
        channels = self.channels[x]
        shape = (channels, 1) if depthwise else (None, channels)
        weight = self.tensors.take(f"{conv}.weight", *shape, kernel, kernel)
        half = weight.shape[-1] // 2 if padding is None else padding
        y = self.conv(conv, x, weight, stride=stride, padding=half, groups=channels if depthwise else 1)
        return self.active(norm, self.batch_norm(y, norm), activation)

    def separable_norm(self, x: str, block: str, activation: Activation, stride: int = 1) -> str:
        """MobileNetV1's block: a depthwise 3x3 and a 1x1, each normalised and activated ({block}.0, .1, .3, .4)."""
        y = self.conv_norm(x, f"{block}.0", f"{block}.1", activation, 3, stride, depthwise=True)
        return self.conv_norm(y, f"{block}.3", f"{block}.4", activation, 1)

    def conv_bias(
        self,
        x: str,
        conv: str,
        activation: Activation = "",
        kernel: int | None = None,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
    ) -> str:
        """A convolution with bias, and an activation."""
        weight = self.tensors.take(f"{conv}.weight", None, self.channels[x], kernel, kernel)
        bias = self.tensors.take(f"{conv}.bias", weight.shape[0])
        y = self.conv(conv, x, weight, bias, stride=stride, padding=padding, dilation=dilation)
        return self.active(conv, y, activation)

    def batch_norm(self, x: str, name: str) -> str:
        """A batch normalisation alone."""
        weight, bias, mean, variance = (
            self.tensors.take(f"{name}.{part}", self.channels[x])
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        self.tensors.ignore(f"{name}.num_batches_tracked")
        return self.norm(name, x, weight, bias, mean, variance, self.eps, self.momentum)

    def l2_norm(self, x: str, name: str) -> str:
        """conv4_3's normalisation with its learned scale."""
        return self.l2norm(name, x, self.tensors.take(f"{name}.weight", self.channels[x]))

    def squeeze_excitation(self, x: str, name: str) -> str:
        """MobileNetV3's: the map times a gate per channel that two 1x1 layers (fc1, fc2) make of its mean."""
        pooled = self.add(f"{name}.avgpool", "avgpool", x)
        squeezed = self.conv_bias(pooled, f"{name}.fc1", "relu", kernel=1)
        gate = self.conv_bias(squeezed, f"{name}.fc2", "hardsigmoid", kernel=1)
        return self.add(f"{name}.mul", "mul", x, gate)

    def residual_stage(self, x: str, name: str, bottleneck: bool, stride: int) -> tuple[str, int]:
        """As many blocks of torchvision's ResNet as there are: the last layer's name, and how many they were.

        A block has two 3x3 convolutions, or (`bottleneck`) 1x1, 3x3, 1x1; the stride is the first block's first 3x3's.
        """
        kernels, strided = ((1, 3, 1), 2) if bottleneck else ((3, 3), 1)
        count = 0
        while count == 0 or f"{name}.{count}.conv1.weight" in self.tensors:
            block, start, first = f"{name}.{count}", x, count == 0
            own = stride if first else 1
            for k, kernel in enumerate(kernels, start=1):
                activation = "relu" if k < len(kernels) else ""
                x = self.conv_norm(
                    x, f"{block}.conv{k}", f"{block}.bn{k}", activation, kernel, own if k == strided else 1
                )
            short = f"{block}.downsample"
            if f"{short}.0.weight" in self.tensors or (first and bottleneck):
                start = self.conv_norm(start, f"{short}.0", f"{short}.1", kernel=1, stride=own)
            x = self.add(f"{block}.relu", "relu", self.add(f"{block}.add", "add", start, x))
            count += 1
        return x, count

    def active(self, name: str, x: str, activation: Activation) -> str:
        """The activation behind the layer of that name; x itself where it is ""."""
        if isinstance(activation, float):
            return self.add(f"{name}.leakyrelu", "leakyrelu", x, slope=activation)
        return self.add(f"{name}.{activation}", activation, x) if activation else x
