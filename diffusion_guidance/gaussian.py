"""A Gaussian prior whose denoiser and posterior are known exactly: the reference against which samplers are judged.

================ ==================================================== ===================
letter           meaning                                              shape
================ ==================================================== ===================
m                mean                                                 ``(C, *space)``
C = V diag(c) V' covariance: eigenbasis V, eigenvalues c (variances)  n x n, n = all voxels
l                level of the noise                                   number or ``(K,)``
A, s             operator and standard deviation of the measurement   m x n, number
================ ==================================================== ===================

``E[x0 | x0 + l eps = x] = m + C (C + l^2)^-1 (x - m)`` and ``Cov[x0 | x] = l^2 C (C + l^2)^-1``;
``E[x0 | y] = m + C A' (A C A' + s^2)^-1 (y - A m)`` and ``Cov[x0 | y] = C - C A' (A C A' + s^2)^-1 A C``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tensorcell.diffusion_guidance.operators import Operator, observed

DENSE_LIMIT = 4096
"""Largest number of voxels of which a dense covariance is made."""


@dataclass(frozen=True, eq=False)
class GaussianPrior:
    """``x0 ~ N(mean, V diag(variances) V')``.

    Parameters
    ----------
    mean : tensor ``(C, *space)``
        In prior units.
    variances : tensor ``(n,)`` with a basis, ``(C, *space)`` without
        Eigenvalues of the covariance, squared prior units, zero or above.
    basis : tensor ``(n, n)`` or None
        Orthonormal eigenvectors in its columns. None: the Fourier basis over the space axes of each channel, so the
        prior is stationary with periodic boundary and ``variances`` is its power spectrum in the order of
        ``torch.fft.fftn(norm="ortho")``, even under ``k -> -k``.

    Raises
    ------
    ValueError
        If the shapes do not fit, a variance is negative, or a spectrum is not even.

    >>> prior = GaussianPrior.from_covariance(torch.zeros(1, 2), torch.tensor([[2.0, 0.0], [0.0, 0.5]]))
    >>> prior.denoise(torch.ones(1, 1, 2), 1.0).flatten().tolist()  # 2 / (2 + 1) and .5 / (.5 + 1)
    [0.6666666865348816, 0.3333333432674408]
    """

    mean: Tensor
    variances: Tensor
    basis: Tensor | None = None

    def __post_init__(self) -> None:
        size = self.mean.numel()
        if bool((self.variances < 0).any()):
            raise ValueError(f"variances must be zero or above, got {float(self.variances.min()):.3g}")
        if self.basis is not None:
            if self.basis.shape != (size, size) or self.variances.shape != (size,):
                raise ValueError(
                    f"a mean of {size} voxels needs a basis {(size, size)} and variances {(size,)}, "
                    f"got {tuple(self.basis.shape)} and {tuple(self.variances.shape)}"
                )
            return
        if self.variances.shape != self.mean.shape:
            raise ValueError(
                f"a spectrum needs the shape of the mean {tuple(self.mean.shape)}, got {tuple(self.variances.shape)}"
            )
        axes = tuple(range(1, self.mean.ndim))
        mirrored = torch.roll(self.variances.flip(axes), [1] * len(axes), axes)
        if not torch.allclose(mirrored, self.variances, rtol=1e-5):
            raise ValueError("a spectrum must be even under k -> -k, or samples would not be real")

    @classmethod
    def from_covariance(cls, mean: Tensor, covariance: Tensor) -> GaussianPrior:
        """The prior of a dense covariance ``(n, n)``, by its eigenvectors (time n^3, once).

        Raises
        ------
        ValueError
            If the covariance is not a symmetric matrix of the mean's size, or not positive semi-definite.

        >>> float(GaussianPrior.from_covariance(torch.zeros(1, 3), torch.eye(3)).variances.sum())
        3.0
        """
        size = mean.numel()
        if covariance.shape != (size, size):
            raise ValueError(f"expected a covariance {(size, size)} for {size} voxels, got {tuple(covariance.shape)}")
        scale = float(covariance.abs().max())
        if float((covariance - covariance.T).abs().max()) > 1e-5 * scale:
            raise ValueError("a covariance must be symmetric")
        variances, basis = torch.linalg.eigh((covariance + covariance.T) / 2)
        if float(variances.min()) < -1e-5 * scale:
            raise ValueError(f"a covariance has no negative eigenvalue, got {float(variances.min()):.3g}")
        return cls(mean, variances.clamp(min=0), basis)

    @classmethod
    def power_law(
        cls, shape: Sequence[int], exponent: float = 3.0, *, dtype: torch.dtype = torch.float32
    ) -> GaussianPrior:
        """Zero mean, unit variance a voxel, power spectrum ``1 / (1 + (N k)^exponent)`` with k in cycles a voxel.

        N is the longest axis. Exponent 3 is about that of microscopy volumes' lateral planes: a smooth random field.

        Raises
        ------
        ValueError
            If there is no channel and space axis.

        >>> round(float(GaussianPrior.power_law((1, 8, 8)).variances.mean()), 5)
        1.0
        """
        if len(shape) < 2:
            raise ValueError(f"expected a shape (C, *space), got {tuple(shape)}")
        axes = [torch.fft.fftfreq(size, dtype=torch.float64) for size in shape[1:]]
        squared = torch.stack(torch.meshgrid([axis**2 for axis in axes], indexing="ij")).sum(0)
        spectrum = 1 / (1 + (max(shape[1:]) * torch.sqrt(squared)) ** exponent)
        spectrum = (spectrum / spectrum.mean()).to(dtype)
        return cls(torch.zeros(tuple(shape), dtype=dtype), spectrum.expand(tuple(shape)).contiguous())

    def denoise(self, x: Tensor, level: float | Tensor) -> Tensor:
        """``E[x0 | x0 + level eps = x]``, ``(K, C, *space)`` to the same; level a number or ``(K,)``.

        Cost: two products with the basis, or two FFTs.
        """
        squared = torch.as_tensor(level, dtype=x.dtype, device=x.device) ** 2
        if squared.ndim:
            squared = squared.reshape(-1, *(1,) * self.variances.ndim)
        variances = self.variances.to(x)
        # Along an eigenvector without variance the value is certain: the gain is 0 at every level, also at 0.
        gain = torch.where(variances > 0, variances / (variances + squared).clamp(min=torch.finfo(x.dtype).tiny), 0)
        mean = self.mean.to(x)
        return mean + self._filtered(x - mean, gain)

    def sample(self, samples: int = 1, generator: torch.Generator | None = None) -> Tensor:
        """Independent draws ``(samples, C, *space)``.

        >>> GaussianPrior.power_law((1, 4, 4)).sample(3, torch.Generator().manual_seed(0)).shape
        torch.Size([3, 1, 4, 4])
        """
        white = torch.randn((samples, *self.mean.shape), generator=generator, dtype=self.mean.dtype).to(
            self.mean.device
        )
        return self.mean + self._filtered(white, self.variances.sqrt())

    def covariance(self) -> Tensor:
        """Dense covariance ``(n, n)``.

        Raises
        ------
        ValueError
            If n is above 4096: the matrix would not fit.
        """
        size = self._dense_size()
        if self.basis is not None:
            return (self.basis * self.variances) @ self.basis.T
        unit = torch.eye(size, dtype=self.mean.dtype, device=self.mean.device).reshape(size, *self.mean.shape)
        return self._filtered(unit, self.variances).reshape(size, size)

    def posterior(self, operator: Operator, y: Tensor, sigma: float) -> GaussianPrior:
        """The exact law of x0 given ``y = A x0 + sigma eps``: again a Gaussian prior, with dense basis.

        Parameters
        ----------
        operator : Operator
            Linear; its matrix is found by applying it to the unit vectors.
        y : tensor ``(1, C, *measured)``
            One measurement; where a mask says that nothing was observed it may hold anything, NaN too.
        sigma : float
            Standard deviation of the noise, above zero.

        Raises
        ------
        ValueError
            If sigma is not above zero, n is above 4096, or y does not have the shape of ``operator.forward``.

        >>> from tensorcell.diffusion_guidance.operators import Identity
        >>> prior = GaussianPrior.from_covariance(torch.zeros(1, 2), torch.eye(2))
        >>> prior.posterior(Identity(), torch.ones(1, 1, 2), 1.0).mean.flatten().tolist()
        [0.5, 0.5]
        """
        if not sigma > 0:
            raise ValueError(f"sigma must be above zero, got {sigma}")
        size = self._dense_size()
        unit = torch.eye(size, dtype=torch.float64, device=self.mean.device).reshape(size, *self.mean.shape)
        images = operator.forward(unit)
        if y.shape != (1, *images.shape[1:]):
            raise ValueError(f"expected a measurement {(1, *images.shape[1:])}, got {tuple(y.shape)}")
        matrix = images.flatten(1).T
        mean, covariance = self.mean.double().flatten(), self.covariance().double()
        seen = matrix @ covariance
        noisy = seen @ matrix.T + sigma**2 * torch.eye(len(matrix), dtype=torch.float64, device=matrix.device)
        gain = torch.linalg.solve(noisy, seen).T
        values = torch.where(observed(operator, y), y.double(), 0.0).flatten()
        shifted = mean + gain @ (values - matrix @ mean)
        # Joseph's form stays symmetric and positive: (I - G A) C (I - G A)' + s^2 G G'
        kept = torch.eye(size, dtype=torch.float64, device=matrix.device) - gain @ matrix
        left = kept @ covariance @ kept.T + sigma**2 * gain @ gain.T
        dense = GaussianPrior.from_covariance(shifted.reshape(self.mean.shape), left)
        kind = self.mean.dtype
        return GaussianPrior(dense.mean.to(kind), dense.variances.to(kind), dense.basis.to(kind))  # type: ignore[union-attr]

    def _filtered(self, x: Tensor, gain: Tensor) -> Tensor:
        """``V diag(gain) V' x`` for ``(K, C, *space)``; gain with or without a leading axis K."""
        if self.basis is not None:
            basis = self.basis.to(x)
            flat = x.flatten(1) @ basis
            return ((flat * gain.to(x)) @ basis.T).reshape(x.shape)
        axes = tuple(range(2, x.ndim))
        filtered: Tensor = torch.fft.ifftn(torch.fft.fftn(x, dim=axes) * gain.to(x), dim=axes).real
        return filtered

    def _dense_size(self) -> int:
        size = self.mean.numel()
        if size > DENSE_LIMIT:
            raise ValueError(f"a dense covariance of {size} voxels would not fit, at most {DENSE_LIMIT} are supported")
        return size
