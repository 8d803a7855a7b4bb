"""Perceptual scores of planes: LPIPS against a reference, NIQE, PIQE and NRQM without one.

They were made for photographs and are trained or tuned on them. For microscopy they compare methods on one kind of
data; their numbers say nothing absolute, and none of them notices that a structure is invented.

LPIPS, NIQE and NRQM need published parameters, which are files of their authors: each function takes the path of such
a file, says what it expects where the file is another one, and never downloads anything. PIQE has no parameters.

All of them score planes (2-D) or every plane of a stack (3-D) and return the mean, with the score of each plane in
``planes``. Intensities from 0 to ``data_range`` are black to white; what lies beyond is clipped.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import scipy.io
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.fft import dctn
from scipy.ndimage import correlate1d
from scipy.special import gammaln

from tensorcell import metrics
from tensorcell.errors import InputError
from tensorcell.metrics import PlaneScore

Array = NDArray[np.float64]
PathLike = str | os.PathLike[str]

# --------------------------------------------------------------------------------------------- planes, 0 to 1


def _planes(
    name: str, data: Any, data_range: float | None, axis: int | None, smallest: int, score: str
) -> tuple[Iterator[Array], float]:
    """Planes on [0, 1], one after the other, and the intensity that is white."""
    axis = metrics._planes_axis(data, axis=axis)
    array = metrics._array(name, data)
    if array.size == 0:
        raise InputError(f"{name} has no voxel to score, its shape is {array.shape}")
    metrics._refuse_not_finite(name, metrics._count_not_finite(array), "among its voxels")
    white = _white(name, array, data_range)
    planes = metrics._as_planes(array, axis)
    if min(planes.shape[1:]) < smallest:
        raise InputError(f"planes are {metrics._size(planes)}, {score} expects sides of at least {smallest} pixels")
    return (np.clip(plane.astype(np.float64) / white, 0, 1) for plane in planes), white


def _white(name: str, array: NDArray[Any], data_range: float | None) -> float:
    if data_range is not None:
        if not (math.isfinite(data_range) and data_range > 0):
            raise InputError(f"data_range is {data_range}, expected a positive finite number")
        return float(data_range)
    if array.dtype == np.uint8:
        return 255.0
    low, high = float(array.min()), float(array.max())
    if array.dtype == np.bool_ or (array.dtype.kind == "f" and low >= 0 and high <= 1):
        return 1.0
    raise InputError(
        f"{name} is {array.dtype} from {low:g} to {high:g}, expected data_range=, the intensity that is white "
        "(known only of uint8 and of floating data on [0, 1])"
    )


def _mean(planes: Sequence[float]) -> PlaneScore:
    return PlaneScore(float(np.nanmean(planes)), planes=tuple(planes))


def _in_bytes(plane: Array) -> Array:
    """[0, 1] to whole numbers from 0 to 255, halves upwards."""
    return np.floor(255 * plane + 0.5)


def _contrast_normalized(image: Array) -> Array:
    """Mean-subtracted, contrast-normalised coefficients: Gaussian window of 7 x 7 with sigma 7/6, constant 1."""
    kernel = np.exp(-0.5 * (np.arange(-3, 4) / (7 / 6)) ** 2)
    kernel /= kernel.sum()

    def mean(values: Array) -> Array:
        return np.asarray(correlate1d(correlate1d(values, kernel, axis=0, mode="nearest"), kernel, 1, mode="nearest"))

    local = mean(image)
    return np.asarray((image - local) / (np.sqrt(np.abs(mean(image * image) - local * local)) + 1))


def _blocks(image: Array, side: int) -> Array:
    """Whole blocks ``(blocks, side, side)``, row by row."""
    rows, columns = image.shape[0] // side, image.shape[1] // side
    cut = image[: rows * side, : columns * side].reshape(rows, side, columns, side)
    return cut.swapaxes(1, 2).reshape(-1, side, side)


# ------------------------------------------------------------------------------------------------------ LPIPS


class _Layer(NamedTuple):
    """A convolution with a ReLU after it."""

    number: int
    """In ``features.<number>`` of torchvision's state dict."""
    channels_in: int
    channels_out: int
    kernel: int
    stride: int = 1
    padding: int = 1
    pool: int = 0
    """Side of the max pool (stride 2) before it; 0 = none."""
    scored: bool = True
    """Whether the distance is taken of its output."""


def _vgg16() -> tuple[_Layer, ...]:
    layers: list[_Layer] = []
    number, channels = 0, 3
    for block, (width, depth) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
        for k in range(depth):
            pool = 2 if block and k == 0 else 0
            layers.append(_Layer(number, channels, width, 3, pool=pool, scored=k == depth - 1))
            number, channels = number + 2, width
        number += 1  # the pool
    return tuple(layers)


_NETWORKS = {
    "AlexNet": (
        _Layer(0, 3, 64, 11, stride=4, padding=2),
        _Layer(3, 64, 192, 5, padding=2, pool=3),
        _Layer(6, 192, 384, 3, pool=3),
        _Layer(8, 384, 256, 3),
        _Layer(10, 256, 256, 3),
    ),
    "VGG-16": _vgg16(),
}
_LPIPS_SIDE = 32
_LPIPS_SHIFT, _LPIPS_SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_EXPECTED_LPIPS = (
    "expected the tensors features.0.weight ... of torchvision's AlexNet or VGG-16 and lin0.model.1.weight ... "
    "lin4.model.1.weight of LPIPS 0.1, in one state dict or in two"
)


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
        network and the linear weights, or two paths, one of each. Understood are the names of torchvision
        (``features.0.weight``) and of the LPIPS authors (``net.slice1.0.weight``, ``lin0.model.1.weight``). Which
        network it is, the shapes say.
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
    with weights that have a closed form; with the published ones it has not been compared with a published score.

    References
    ----------
    Zhang et al. 2018, CVPR, doi:10.1109/CVPR.2018.00068, Eq. 1.
    """
    axis = metrics._planes_axis(reference, estimate, axis=axis)
    axis = None if metrics._array("reference", reference).ndim == 2 else axis
    checked, other, _ = metrics._checked(reference, estimate, None)
    planes, white = _planes("reference", checked, data_range, axis, _LPIPS_SIDE, "lpips")
    others, _ = _planes("estimate", other, white, axis, _LPIPS_SIDE, "lpips")
    torch = _torch()
    layers, tensors = _lpips_weights(weights)
    with torch.inference_mode():
        scores = [_lpips_plane(a, b, layers, tensors) for a, b in zip(planes, others, strict=True)]
    return _mean(scores)


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise InputError("lpips needs torch, which is not installed: install tensorcell[diffusion]") from None
    return torch


def _lpips_plane(a: Array, b: Array, layers: tuple[_Layer, ...], tensors: Mapping[str, Any]) -> float:
    import torch
    from torch.nn import functional

    pair = torch.from_numpy(np.stack([a, b])).float()[:, None].expand(-1, 3, -1, -1)  # (2, 3, rows, columns)
    shift, scale = (torch.tensor(values)[:, None, None] for values in (_LPIPS_SHIFT, _LPIPS_SCALE))
    x = (2 * pair - 1 - shift) / scale
    total, scored = 0.0, 0
    for layer in layers:
        if layer.pool:
            x = functional.max_pool2d(x, layer.pool, stride=2)
        weight, bias = (tensors[f"features.{layer.number}.{part}"] for part in ("weight", "bias"))
        x = functional.relu(functional.conv2d(x, weight, bias, layer.stride, layer.padding))
        if layer.scored:
            unit = x.double() / (x.double().square().sum(dim=1, keepdim=True).sqrt() + 1e-10)
            difference = (unit[0] - unit[1]).square().mean(dim=(1, 2))  # (channels,)
            total += float((tensors[f"lin{scored}"].double() * difference).sum())
            scored += 1
    return total


def _lpips_weights(paths: PathLike | Sequence[PathLike]) -> tuple[tuple[_Layer, ...], dict[str, Any]]:
    """Layers of the network in the files, and its tensors by torchvision's names, with lin0 ... lin4."""
    listed = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not listed:
        raise InputError(f"weights names no file, {_EXPECTED_LPIPS}")
    tensors: dict[str, Any] = {}
    for path in listed:
        for key, value in _state_dict(_existing("weights", path)).items():
            tensors[_lpips_name(key)] = value
    where = ", ".join(str(path) for path in listed)
    first = tensors.get("features.0.weight")
    if first is None:
        raise InputError(f"{where} has no tensor features.0.weight, {_EXPECTED_LPIPS}")
    layers = _NETWORKS["AlexNet" if tuple(first.shape[2:]) == (11, 11) else "VGG-16"]
    wanted: dict[str, tuple[int, ...]] = {}
    for layer in layers:
        wanted[f"features.{layer.number}.weight"] = (layer.channels_out, layer.channels_in, layer.kernel, layer.kernel)
        wanted[f"features.{layer.number}.bias"] = (layer.channels_out,)
    for k, layer in enumerate([layer for layer in layers if layer.scored]):
        wanted[f"lin{k}"] = (1, layer.channels_out, 1, 1)
    for key, shape in wanted.items():
        if key not in tensors:
            raise InputError(f"{where} has no tensor {key}, {_EXPECTED_LPIPS}")
        if tuple(tensors[key].shape) != shape:
            raise InputError(f"{key} in {where} has shape {tuple(tensors[key].shape)}, expected {shape}")
    unknown = sorted(key for key in tensors if key.startswith(("features.", "lin")) and key not in wanted)
    if unknown:
        raise InputError(f"{where} holds {unknown[0]}, which neither network has, {_EXPECTED_LPIPS}")
    return layers, {
        key: tensors[key].reshape(-1).float() if key.startswith("lin") else tensors[key].float() for key in wanted
    }


def _lpips_name(key: str) -> str:
    """``features.<n>.weight`` or ``lin<k>`` for every way of naming them."""
    if found := re.fullmatch(r"(?:net\.)?slice\d+\.(\d+)\.(weight|bias)", key):
        return f"features.{found[1]}.{found[2]}"
    if found := re.fullmatch(r"lin(?:s\.)?(\d)\.model\.\d\.weight", key):
        return f"lin{found[1]}"
    return key


def _state_dict(path: Path) -> Mapping[str, Any]:
    torch = _torch()
    try:
        if path.suffix == ".safetensors":
            import safetensors.torch

            loaded: Any = safetensors.torch.load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"{path} cannot be read as a state dict ({reason}), {_EXPECTED_LPIPS}") from None
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise InputError(f"{path} holds no state dict of tensors, {_EXPECTED_LPIPS}")
    return loaded


def _existing(what: str, path: Any) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"{what} is {path!r}, expected the path of a file")
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{what}: no file {file}; expected the published one, nothing is downloaded")
    return file


# ------------------------------------------------------------------------------------------------------- NIQE

_NIQE_NAMES = (("mu_prisparam", "mu_pris_param"), ("cov_prisparam", "cov_pris_param"))
_NIQE_FEATURES = 36
_EXPECTED_NIQE = "expected mu_prisparam of 36 numbers and cov_prisparam of 36 x 36, as .mat, .npz or .h5"


def niqe(
    volume: Any,
    parameters: PathLike,
    *,
    data_range: float | None = None,
    axis: int | None = None,
    block: int = 96,
) -> PlaneScore:
    """Natural image quality evaluator of planes: distance of their statistics from those of photographs.

    36 features a block (fits of generalised Gaussians to contrast-normalised pixels and to products of neighbours, at
    two scales), mean m and covariance S over the blocks, and
    ``sqrt((m - mu)' ((S + Sigma) / 2)^+ (m - mu))`` for mu, Sigma of pristine photographs. Smaller is better.

    Parameters
    ----------
    volume
        One plane (2-D) or a stack (3-D), array or Volume, finite everywhere.
    parameters
        Path of the pristine model: ``mu_prisparam`` (36) and ``cov_prisparam`` (36 x 36), or the names with
        ``pris_param``, in a ``.mat`` (``modelparameters.mat`` of the authors), ``.npz`` or ``.h5`` file.
    data_range
        The intensity that is white. Default: 255 for uint8, 1 for floating data on [0, 1].
    axis
        Axis across which the planes lie. Default: Z of a Volume, the first axis of an array.
    block
        Side of the blocks: 96 in the published model, an even number. Smaller blocks make scores of their own.

    Returns
    -------
    PlaneScore
        Mean over the planes with at least two blocks that vary, and ``planes`` with NaN for the others.

    Raises
    ------
    InputError
        The path does not exist or holds something else, planes that hold fewer than two blocks (in microscopy often:
        96 x 192 pixels at least), no plane with two blocks that vary, intensities without a known white.

    Notes
    -----
    Flat blocks have no fit and are left out whole; the published code lets those of their features that are finite
    into the mean. Each part is tested against its definition; with the published model the whole has not been compared
    with a published score.

    References
    ----------
    Mittal, Soundararajan, Bovik 2013, IEEE Signal Processing Letters, doi:10.1109/LSP.2012.2227726, Eq. 10.
    """
    if not isinstance(block, int | np.integer) or block < 8 or block % 2:
        raise InputError(f"block is {block}, expected an even number of at least 8")
    mean, covariance = _niqe_parameters(_existing("parameters", parameters))
    planes, _ = _planes("volume", volume, data_range, axis, block, "niqe")
    scores = []
    for plane in planes:
        if (plane.shape[0] // block) * (plane.shape[1] // block) < 2:
            raise InputError(
                f"planes are {plane.shape[0]} x {plane.shape[1]}, niqe expects room for two blocks of {block} x {block}"
            )
        scores.append(_niqe_plane(_in_bytes(plane), mean, covariance, int(block)))
    if all(math.isnan(score) for score in scores):
        raise InputError(f"no plane of the volume has two blocks of {block} x {block} pixels that vary")
    return _mean(scores)


def _niqe_plane(image: Array, mean: Array, covariance: Array, block: int) -> float:
    image = image[: image.shape[0] // block * block, : image.shape[1] // block * block]
    half = _resized(image, (image.shape[0] // 2, image.shape[1] // 2))
    features = np.concatenate(
        [
            [_natural_features(b) for b in _blocks(_contrast_normalized(scale), side)]
            for scale, side in ((image, block), (half, block // 2))
        ],
        axis=1,
    )
    features = features[np.isfinite(features).all(axis=1)]
    if len(features) < 2:
        return math.nan
    difference = features.mean(axis=0) - mean
    pooled = (covariance + np.cov(features, rowvar=False)) / 2
    return math.sqrt(max(0.0, float(difference @ np.linalg.pinv(pooled) @ difference)))


def _natural_features(block: Array) -> Array:
    """18 features of a block: fits to its pixels and to their products with four neighbours (cyclic)."""
    shape, left, right = _asymmetric_gaussian(block)
    features = [shape, (left + right) / 2]
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
        shape, left, right = _asymmetric_gaussian(block * np.roll(block, shift, axis=(0, 1)))
        mean = (right - left) * math.exp(gammaln(2 / shape) - gammaln(1 / shape))
        features += [shape, mean, left, right]
    return np.array(features)


_SHAPES = np.arange(200, 10001) / 1000
_SHAPE_RATIOS = np.exp(2 * gammaln(2 / _SHAPES) - gammaln(1 / _SHAPES) - gammaln(3 / _SHAPES))
"""(mean |x|)^2 / mean x^2 of a generalised Gaussian with each shape; increasing."""


def _asymmetric_gaussian(values: Array) -> tuple[float, float, float]:
    """Shape, left and right scale of an asymmetric generalised Gaussian by its moments; NaN where a side is empty."""
    negative, positive = values[values < 0], values[values > 0]
    if negative.size == 0 or positive.size == 0:
        return (math.nan,) * 3
    left, right = math.sqrt(np.square(negative).mean()), math.sqrt(np.square(positive).mean())
    ratio = left / right
    moment = np.abs(values).mean() ** 2 / np.square(values).mean()
    moment *= (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    shape = float(_SHAPES[_nearest(_SHAPE_RATIOS, np.array([moment]))[0]])
    scale = math.exp(0.5 * (gammaln(1 / shape) - gammaln(3 / shape)))
    return shape, left * scale, right * scale


def _nearest(increasing: Array, values: Array) -> NDArray[np.intp]:
    """Index of the entry nearest to each value."""
    after = np.clip(np.searchsorted(increasing, values), 1, len(increasing) - 1)
    return after - (values - increasing[after - 1] <= increasing[after] - values)


def _niqe_parameters(path: Path) -> tuple[Array, Array]:
    found = []
    for names, value in zip(_NIQE_NAMES, _named_arrays(path, _NIQE_NAMES, _EXPECTED_NIQE), strict=True):
        if value is None:
            raise InputError(f"{path} has no {names[0]}, {_EXPECTED_NIQE}")
        found.append(np.asarray(value, dtype=np.float64))
    mean, covariance = found[0].ravel(), found[1]
    if mean.shape != (_NIQE_FEATURES,) or covariance.shape != (_NIQE_FEATURES, _NIQE_FEATURES):
        raise InputError(f"{path} holds arrays of shape {found[0].shape} and {covariance.shape}, {_EXPECTED_NIQE}")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise InputError(f"{path} holds NaN or infinite values, {_EXPECTED_NIQE}")
    return mean, covariance


def _named_arrays(path: Path, names: Sequence[Sequence[str]], expected: str) -> list[NDArray[Any] | None]:
    """The first array that goes by one of each group of names."""
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                stored = {key: np.asarray(item) for key, item in file.items() if isinstance(item, h5py.Dataset)}
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                stored = {key: file[key] for key in file.files}
        else:
            stored = scipy.io.loadmat(path)
    except Exception as error:
        raise InputError(f"{path} cannot be read ({str(error).splitlines()[0]}), {expected}") from None
    arrays = [next((stored[name] for name in group if name in stored), None) for group in names]
    for group, array in zip(names, arrays, strict=True):
        if array is not None and array.dtype.kind not in "buif":
            raise InputError(f"{group[0]} in {path} has dtype {array.dtype}, {expected}")
    return arrays


def _resized(image: Array, size: tuple[int, int]) -> Array:
    """Bicubic resampling (a = -1/2), widened where it shrinks, mirrored at the borders: MATLAB's ``imresize``."""
    return _resampling(image.shape[0], size[0]) @ image @ _resampling(image.shape[1], size[1]).T


def _resampling(before: int, after: int) -> Array:
    """Matrix ``(after, before)`` of the resampling along one axis."""
    if before == after:
        return np.eye(before)
    scale = after / before
    narrow = min(1.0, scale)
    centre = (np.arange(after) + 0.5) / scale - 0.5
    first = np.floor(centre - 2 / narrow).astype(int)
    index = first[:, None] + np.arange(math.ceil(4 / narrow) + 2)
    distance = np.abs(narrow * (centre[:, None] - index))
    inner = (1.5 * distance - 2.5) * distance**2 + 1
    outer = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weight = np.where(distance <= 1, inner, np.where(distance <= 2, outer, 0))
    weight /= weight.sum(axis=1, keepdims=True)
    mirrored = index % (2 * before)
    mirrored = np.where(mirrored < before, mirrored, 2 * before - 1 - mirrored)
    matrix = np.zeros((after, before))
    np.add.at(matrix, (np.arange(after)[:, None], mirrored), weight)
    return matrix


# ------------------------------------------------------------------------------------------------------- PIQE

_PIQE_BLOCK, _PIQE_SEGMENT = 16, 6
_PIQE_ACTIVE, _PIQE_IMPAIRED = 0.1, 0.1


def piqe(volume: Any, *, data_range: float | None = None, axis: int | None = None) -> PlaneScore:
    """Perception-based image quality evaluator of planes: 0 is best, 100 worst.

    Contrast-normalised pixels in blocks of 16 x 16 (the last ones completed by repeating the border). A block is
    active where its variance v is above .1. An active block is distorted by an artefact where the standard deviation
    of any 6 neighbouring pixels along one of its four edges is below .1 (it counts 1 - v), and by noise where
    ``sqrt(v) > 2 beta`` (it counts v); ``beta = |s - c| / max(s, c)`` for s = sqrt(v) and c the ratio of standard
    deviations of the two middle columns and the rest. The score is ``100 (sum + 1) / (active blocks + 1)``; a plane
    without active blocks has 100.

    A plane without any noise has edges of blocks that hardly vary, which count as artefacts: on smooth structure a
    little noise lowers the score, and only strong noise raises it.

    Parameters
    ----------
    volume
        One plane (2-D) or a stack (3-D), array or Volume, finite everywhere.
    data_range
        The intensity that is white: it decides which blocks are active, so give one value for all that is compared.
        Default: 255 for uint8, 1 for floating data on [0, 1].
    axis
        Axis across which the planes lie. Default: Z of a Volume, the first axis of an array.

    Returns
    -------
    PlaneScore
        Mean over the planes, and ``planes``.

    Raises
    ------
    InputError
        Not 2 or 3 axes, NaN or infinite values, intensities without a known white.

    Notes
    -----
    Follows the implementation in MATLAB's ``piqe`` in that "the rest" lacks the middle column and, once that is taken
    out, the one after the next, and in that planes are rounded to 8 bits.

    References
    ----------
    Venkatanath et al. 2015, NCC, doi:10.1109/NCC.2015.7084843.

    Examples
    --------
    >>> import numpy as np
    >>> piqe(np.zeros((32, 32)))
    100.0
    """
    planes, _ = _planes("volume", volume, data_range, axis, 1, "piqe")
    return _mean([_piqe_plane(_in_bytes(plane)) for plane in planes])


def _piqe_plane(image: Array) -> float:
    image = np.pad(image, [(0, -side % _PIQE_BLOCK) for side in image.shape], mode="edge")
    blocks = _blocks(_contrast_normalized(image), _PIQE_BLOCK)
    variance = blocks.var(axis=(1, 2), ddof=1)
    active = variance > _PIQE_ACTIVE
    blocks, variance = blocks[active], variance[active]

    edges = np.stack([blocks[:, 0], blocks[:, -1], blocks[:, :, 0], blocks[:, :, -1]], axis=1)
    segments = sliding_window_view(edges, _PIQE_SEGMENT, axis=2)
    impaired = (segments.std(axis=3, ddof=1) < _PIQE_IMPAIRED).any(axis=(1, 2))

    middle = _PIQE_BLOCK // 2 - 1
    centre = blocks[:, :, middle : middle + 2].std(axis=(1, 2), ddof=1)
    rest = np.delete(blocks, [middle, middle + 2], axis=2).std(axis=(1, 2), ddof=1)
    deviation = np.sqrt(variance)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where((rest == 0) & (centre == 0), 0, centre / rest)
        noisy = deviation > 2 * np.abs(deviation - ratio) / np.maximum(deviation, ratio)

    total = float((impaired * (1 - variance) + noisy * variance).sum())
    return 100 * (total + 1) / (len(blocks) + 1)


# ------------------------------------------------------------------------------------------------------- NRQM

_NRQM_FEATURES = (18, 45, 75)
_NRQM_SIDE = 84
"""Below it the coarsest of three scales has fewer than 25 patches of 5 x 5, so fewer singular values."""
_BANDS, _LEVELS, _GUARD = 6, 2, 16
_EXPECTED_NRQM = (
    "expected a .mat file with the struct model: linear of 4 numbers, and rf, a cell of 3 regression forests with "
    "lDau, rDau, nodestatus, upper, avnode, mbest (18, 45 and 75 features)"
)


class _Forest(NamedTuple):
    """Regression trees as columns; nodes and features count from 0."""

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    leaf: NDArray[np.bool_]
    threshold: Array
    value: Array
    feature: NDArray[np.int64]


def nrqm(volume: Any, model: PathLike, *, data_range: float | None = None, axis: int | None = None) -> PlaneScore:
    """No-reference quality metric for super-resolution of planes: about 0 to 10, larger is better.

    Three regression forests, on 18 features of local DCT blocks at three scales, 45 of a steerable pyramid after
    divisive normalisation and 75 singular values of patches at three scales, and a linear combination of the three.

    Parameters
    ----------
    volume
        One plane (2-D) or a stack (3-D), array or Volume, finite everywhere, sides of at least 84 pixels.
    model
        Path of the published ``model.mat``: a struct ``model`` with ``linear`` (4 numbers) and ``rf`` (3 forests).
    data_range
        The intensity that is white. Default: 255 for uint8, 1 for floating data on [0, 1].
    axis
        Axis across which the planes lie. Default: Z of a Volume, the first axis of an array.

    Returns
    -------
    PlaneScore
        Mean over the planes, and ``planes``.

    Raises
    ------
    InputError
        The path does not exist or holds something else, planes that are too small, intensities without a known white.

    Notes
    -----
    The features follow the authors' published program, its peculiarities included: the sixth band of the finer level
    has no parent, and the divisor of the normalisation counts the window and the parent but not the other bands.
    Filters are evaluated instead of read from a table of 256 values. Each part is tested against its definition; the
    whole has not been compared with a published score.

    References
    ----------
    Ma, Yang, Yang, Yang 2017, Computer Vision and Image Understanding 158, doi:10.1016/j.cviu.2016.12.009.
    """
    linear, forests = _nrqm_model(_existing("model", model))
    planes, _ = _planes("volume", volume, data_range, axis, _NRQM_SIDE, "nrqm")
    scores = []
    for plane in planes:
        image = _in_bytes(plane)
        parts = [_predicted(f, x) for f, x in zip(forests, _nrqm_features(image), strict=True)]
        scores.append(float(linear @ np.array([1.0, *parts])))
    return _mean(scores)


def _nrqm_features(image: Array) -> tuple[Array, Array, Array]:
    """18, 45 and 75 features of an image of whole numbers from 0 to 255."""
    pyramid = [image / 255]
    kernel = np.exp(-0.5 * (np.arange(-1, 2) / 0.5) ** 2)
    kernel /= kernel.sum()
    for _ in range(2):
        smooth = correlate1d(correlate1d(pyramid[-1], kernel, axis=0, mode="constant"), kernel, 1, mode="constant")
        pyramid.append(smooth[1::2, 1::2])
    local = np.concatenate([_dct_features(scale) for scale in pyramid])
    singular = np.concatenate([_patch_singular_values(scale) for scale in pyramid])
    return local, _pyramid_features(image), singular


def _dct_features(image: Array) -> Array:
    """Pooled statistics of the DCT of 7 x 7 blocks around every 3 x 3 pixels (zeros outside)."""
    padded = np.pad(image, [(2, 2 + -side % 3) for side in image.shape])
    blocks = sliding_window_view(padded, (7, 7))[::3, ::3].reshape(-1, 7, 7)
    spectra = dctn(blocks, axes=(1, 2), norm="ortho")
    waves = spectra.reshape(-1, 49)[:, 1:]
    shape = np.sort(_gaussian_shape(waves))
    variation = np.sort(_variation(waves, 1e-7))
    row, column = np.indices((7, 7))
    oriented = [_variation(spectra[:, part], 1e-8) for part in _orientations(row, column)]
    spread = np.sort(np.var(oriented, axis=0, ddof=1))
    count = len(blocks)
    low, high = math.ceil(0.1 * count), math.floor(0.9 * count) - 1
    return np.array(
        [
            shape[:low].mean(),
            shape.mean(),
            variation[high:].mean(),
            variation.mean(),
            spread[high:].mean(),
            spread.mean(),
        ]
    )


def _orientations(row: NDArray[Any], column: NDArray[Any]) -> tuple[NDArray[np.bool_], ...]:
    """Masks of the mostly horizontal, diagonal and mostly vertical waves of a 7 x 7 DCT."""
    first = np.array([1, 2, 4, 5, 7, 7, 7])
    along = column >= first[row]
    across = (row >= first[column]).astype(bool)
    between = ~along & ~across & (row + column > 0)
    return along, between, across


def _variation(values: Array, eps: float) -> Array:
    """Standard deviation over mean of the absolute values."""
    size = np.abs(values)
    return np.asarray(size.std(axis=-1, ddof=1) / (size.mean(axis=-1) + eps))


_GAUSSIAN_SHAPES = np.arange(30, 10001) / 1000
_GAUSSIAN_RATIOS = np.exp(
    gammaln(1 / _GAUSSIAN_SHAPES) + gammaln(3 / _GAUSSIAN_SHAPES) - 2 * gammaln(2 / _GAUSSIAN_SHAPES)
)
"""Variance over squared mean deviation of a generalised Gaussian with each shape; decreasing."""


def _gaussian_shape(values: Array) -> Array:
    """Shape of a generalised Gaussian along the last axis, by its moments."""
    deviation = np.abs(values - values.mean(axis=-1, keepdims=True)).mean(axis=-1)
    ratio = values.var(axis=-1, ddof=1) / (deviation**2 + 1e-7)
    index = len(_GAUSSIAN_RATIOS) - 1 - _nearest(_GAUSSIAN_RATIOS[::-1], np.atleast_1d(ratio))
    return _GAUSSIAN_SHAPES[index]


def _patch_singular_values(image: Array) -> Array:
    """Singular values of the matrix of all 5 x 5 patches side by side (zeros outside), largest first."""
    padded = np.pad(image, [(0, -side % 5) for side in image.shape])
    return np.asarray(np.linalg.svd(_blocks(padded, 5).reshape(-1, 25), compute_uv=False))


def _pyramid_features(image: Array) -> Array:
    """45 features: shapes of the normalised bands, and how alike bands are across scales and orientations."""
    high, levels = _steerable_pyramid(image)
    normalized = [[_normalized_band(levels, level, k) for k in range(_BANDS)] for level in range(_LEVELS)]
    fine, coarse = normalized
    features = [_gaussian_shape(band.ravel())[0] for band in [*fine, *coarse]]
    features += [_gaussian_shape(np.concatenate([a.ravel(), b.ravel()]))[0] for a, b in zip(fine, coarse, strict=True)]
    features += [_structure(_resized(band, high.shape), high) for level in levels for band in level]
    features += [_structure(fine[a], fine[b]) for a in range(_BANDS) for b in range(a + 1, _BANDS)]
    return np.array(features)


def _steerable_pyramid(image: Array) -> tuple[Array, list[list[Array]]]:
    """High-pass residual, and 6 oriented bands on 2 levels (Simoncelli & Freeman 1995), in the Fourier domain."""

    def transition(log_radius: Array, high: bool) -> Array:
        angle = np.pi / 2 * np.clip(log_radius, -1, 0)
        return np.cos(angle) if high else np.abs(np.sin(angle))

    def inverse(spectrum: NDArray[np.complex128]) -> Array:
        return np.asarray(np.fft.ifft2(np.fft.ifftshift(spectrum)).real)

    y, x = np.meshgrid(*[(np.arange(n) - n // 2) / (n / 2) for n in image.shape], indexing="ij")
    direction = np.arctan2(y, x)
    radius = np.hypot(y, x)
    radius[image.shape[0] // 2, image.shape[1] // 2] = 2 / image.shape[1]  # any value of the lowest band does
    log_radius = np.log2(radius)
    spectrum = np.fft.fftshift(np.fft.fft2(image))
    high = inverse(spectrum * transition(log_radius, True))
    spectrum = spectrum * transition(log_radius, False)

    order = _BANDS - 1
    gain = math.sqrt(2 ** (2 * order) * math.factorial(order) ** 2 / (_BANDS * math.factorial(2 * order)))
    levels = []
    for level in range(1, _LEVELS + 1):
        band = (-1j) ** order * spectrum * transition(log_radius + level, True)
        levels.append([inverse(band * gain * np.cos(direction - np.pi * k / _BANDS) ** order) for k in range(_BANDS)])
        inner = tuple(
            slice(n // 2 - ((n + 1) // 2) // 2, n // 2 - ((n + 1) // 2) // 2 + (n + 1) // 2) for n in spectrum.shape
        )
        spectrum = (spectrum * transition(log_radius + level, False))[inner]
        log_radius, direction = log_radius[inner], direction[inner]
    return high, levels


def _normalized_band(levels: list[list[Array]], level: int, k: int) -> Array:
    """A band divided by the local size of its neighbours in space, scale and orientation."""
    band = levels[level][k]
    rows, columns = band.shape
    inside = np.s_[1 : rows - 1, 1 : columns - 1]
    neighbours = [np.roll(band, (dy, dx), axis=(0, 1))[inside] for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    if level == 0 and k < _BANDS - 1:
        parent = levels[1][k]
        neighbours.append(_resized(parent, (2 * parent.shape[0], 2 * parent.shape[1]))[:rows, :columns][inside])
    size = len(neighbours)
    neighbours += [other[inside] for j, other in enumerate(levels[level]) if j != k]
    matrix = np.stack([values.ravel() for values in neighbours], axis=1)
    covariance = matrix.T @ matrix / len(matrix)
    local = np.sqrt(np.maximum(0, ((matrix @ np.linalg.pinv(covariance)) * matrix).sum(axis=1) / size))
    centred = (band[inside] - band[inside].mean()).ravel()
    result = np.divide(centred, local, out=np.zeros_like(centred), where=local > 0).reshape(rows - 2, columns - 2)
    guard = _GUARD // 2**level
    result = result[guard:-guard, guard:-guard]
    return np.asarray(result - result.mean())


def _structure(a: Array, b: Array) -> float:
    """Mean contrast and structure term of SSIM (window of 11 x 11 with sigma 1.5, range 255)."""
    mean: Callable[[Array], Array] = metrics._gaussian_mean
    constant = (0.03 * 255) ** 2
    mean_a, mean_b = mean(a), mean(b)
    spread = mean(a * a) - mean_a**2 + mean(b * b) - mean_b**2
    return float(((2 * (mean(a * b) - mean_a * mean_b) + constant) / (spread + constant)).mean())


def _predicted(forest: _Forest, features: Array) -> float:
    """Mean of the trees: left where the feature is at most the threshold."""
    trees = np.arange(forest.left.shape[1])
    node = np.zeros(len(trees), np.int64)
    for _ in range(len(forest.left)):
        inner = ~forest.leaf[node, trees]
        if not inner.any():
            break
        goes_left = features[forest.feature[node, trees]] <= forest.threshold[node, trees]
        child = np.where(goes_left, forest.left[node, trees], forest.right[node, trees])
        node = np.where(inner, child, node)
    return float(forest.value[node, trees].mean())


def _nrqm_model(path: Path) -> tuple[Array, list[_Forest]]:
    try:
        model = scipy.io.loadmat(path, squeeze_me=False, struct_as_record=True)["model"][0, 0]
        linear = np.asarray(model["linear"], dtype=np.float64).ravel()
        cells = model["rf"].ravel()
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} is no model of nrqm ({type(error).__name__}: {reason}), {_EXPECTED_NRQM}") from None
    if linear.shape != (4,) or len(cells) != 3:
        raise InputError(f"{path} holds {linear.size} linear numbers and {len(cells)} forests, {_EXPECTED_NRQM}")
    return linear, [_forest(path, k, cell) for k, cell in enumerate(cells)]


def _forest(path: Path, k: int, cell: Any) -> _Forest:
    try:
        fields = cell[0, 0] if cell.dtype.names is None else cell.ravel()[0]
        left, right, status, upper, value, feature = (
            np.asarray(fields[name]) for name in ("lDau", "rDau", "nodestatus", "upper", "avnode", "mbest")
        )
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise InputError(f"forest {k + 1} of {path} lacks a part ({error}), {_EXPECTED_NRQM}") from None
    if left.ndim != 2 or any(part.shape != left.shape for part in (right, status, upper, value, feature)):
        raise InputError(f"forest {k + 1} of {path} has parts of different shapes, {_EXPECTED_NRQM}")
    leaf = status == -1
    inner = ~leaf & (left > 0)  # unused rows of shorter trees hold zeros
    children = np.concatenate([left[inner], right[inner]]).astype(np.int64)
    if (children < 1).any() or (children > len(left)).any():
        raise InputError(f"forest {k + 1} of {path} has children outside its {len(left)} nodes, {_EXPECTED_NRQM}")
    if (feature[inner] < 1).any() or (feature[inner] > _NRQM_FEATURES[k]).any():
        raise InputError(
            f"forest {k + 1} of {path} asks for feature {feature[inner].max()} of {_NRQM_FEATURES[k]}, {_EXPECTED_NRQM}"
        )
    value = value.astype(np.float64)
    if "coef" in (fields.dtype.names or ()) and np.any(fields["coef"]):  # the trainer's correction of bias
        offset, slope = np.asarray(fields["coef"], dtype=np.float64).ravel()
        value = offset + slope * value
    return _Forest(
        left=np.where(inner, left.astype(np.int64) - 1, 0),
        right=np.where(inner, right.astype(np.int64) - 1, 0),
        leaf=~inner,
        threshold=upper.astype(np.float64),
        value=value,
        feature=np.where(inner, feature.astype(np.int64) - 1, 0),
    )
