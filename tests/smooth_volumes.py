"""Smooth random volumes and noise, for the tests of denoising."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage


def smooth(shape: tuple[int, ...], seed: int = 0, width: float = 2.0) -> np.ndarray:
    """A smooth random volume of mean 0 and standard deviation 1."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), width, mode="wrap")
    return ((field - field.mean()) / field.std()).astype(np.float32)


def noise_like(volume: np.ndarray, sigma: float, seed: int) -> np.ndarray:
    """White Gaussian noise in float32."""
    return np.float32(sigma) * np.random.default_rng(seed).standard_normal(volume.shape).astype(np.float32)


def rms(values: np.ndarray) -> float:
    """Root mean square."""
    return math.sqrt(float(np.mean(np.square(values, dtype=np.float64))))
