"""LPIPS: the distance of two planes in the features of a network that was trained on photographs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .axes import planes_axis
from .grey_images import grey_planes, mean_over_planes
from .inputs import as_array, checked_pair
from .lpips_network import Network, import_torch, read_network
from .parameter_files import PathLike
from .scores import PlaneScore

SMALLEST = 32
"""Shortest side of a plane that leaves pixels in the last layer of both networks."""

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Mean and standard deviation of the colour channels on [-1, 1] that the networks expect."""


def lpips(
    reference: Any,
    estimate: Any,
    weights: PathLike | Sequence[PathLike],
    *,
    data_range: float | None = None,
    axis: int | None = None,
) -> PlaneScore:
    """Learned perceptual image patch similarity (version 0.1) of planes: 0 for equal ones, larger is worse.

    Features of five layers of AlexNet or VGG-16, each pixel's vector scaled to length 1, squared differences weighted
    by channel, averaged over pixels and summed over the layers. A grey plane goes in as three equal channels.

    Parameters
    ----------
    reference, estimate
        One plane (2-D) or a stack (3-D), arrays or Volumes of one shape and one unit, finite everywhere, sides of at
        least 32 pixels.
    weights
        Path of a state dict (``.safetensors``, or ``.pth`` / ``.pt`` read with ``weights_only=True``) that holds the
        network and the linear weights, or two paths, one of each. The tensors may have the names of torchvision
        (``features.0.weight``) or those of the LPIPS authors (``net.slice1.0.weight``, ``lin0.model.1.weight``). The
        shapes of the tensors say which network it is.
    data_range
        The intensity that is white. Default: 255 for uint8, 1 for floating data of the reference on [0, 1].
    axis
        Axis across which the planes lie. Default: Z of a Volume, the first axis of an array.

    Returns
    -------
    PlaneScore
        Mean over the planes, and ``planes``.

    Raises
    ------
    InputError
        torch is not installed, a path does not exist or holds something else, planes that are too small, intensities
        without a known white, and as for `tensorcell.metrics.psnr`.

    Notes
    -----
    The network runs in float32 on the CPU, the distance is taken in float64. The arithmetic is tested against Eq. 1
    with weights that have a closed form; with the published weights it has not been compared with a published score.

    References
    ----------
    Zhang et al. 2018, CVPR, doi:10.1109/CVPR.2018.00068, Eq. 1.
    """
    axis = planes_axis(reference, estimate, axis=axis)
    axis = None if as_array("reference", reference).ndim == 2 else axis
    first, second, _ = checked_pair(reference, estimate, None)
    planes, white = grey_planes("reference", first, data_range, axis, smallest=SMALLEST, score="lpips")
    others, _ = grey_planes("estimate", second, white, axis, smallest=SMALLEST, score="lpips")
    torch = import_torch()
    network = read_network(weights)
    with torch.inference_mode():
        scores = [_distance(a, b, network) for a, b in zip(planes, others, strict=True)]
    return mean_over_planes(scores)


def _distance(a: NDArray[np.float64], b: NDArray[np.float64], network: Network) -> float:
    """LPIPS of two planes on [0, 1]."""
    import torch

    pair = torch.from_numpy(np.stack([a, b])).float()[:, None].expand(-1, 3, -1, -1)  # (2, 3, rows, columns)
    shift, scale = (torch.tensor(values)[:, None, None] for values in (SHIFT, SCALE))
    x = (2 * pair - 1 - shift) / scale
    total = 0.0
    for number, layer in enumerate(network.features):
        x = layer(x)
        if number in network.weights:
            unit = x.double() / (x.double().square().sum(dim=1, keepdim=True).sqrt() + 1e-10)
            difference = (unit[0] - unit[1]).square().mean(dim=(1, 2))  # (channels,)
            total += float((network.weights[number].flatten().double() * difference).sum())
    return total
