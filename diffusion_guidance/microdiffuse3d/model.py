"""The whole network: the velocity of a latent volume, given a low-resolution volume."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from tensorcell.diffusion_guidance.microdiffuse3d.conditioning import Condition, ConditioningNetwork, ImageCondition
from tensorcell.diffusion_guidance.microdiffuse3d.config import MicroDiffuse3DConfig
from tensorcell.diffusion_guidance.microdiffuse3d.published import config_of, network_key, read_weights
from tensorcell.diffusion_guidance.microdiffuse3d.transformer import TimeCode, Transformer

PROJECTOR_WIDTH = 1024
"""Hidden features of the projection to an image encoder's features."""


def projector(config: MicroDiffuse3DConfig) -> nn.Sequential:
    """From tokens to the features of an image encoder."""
    widths = config.width, PROJECTOR_WIDTH, PROJECTOR_WIDTH, config.aligned_features
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


class MicroDiffuse3D(nn.Module):
    """Velocity of the latent of a restored volume.

    Parameters
    ----------
    config : MicroDiffuse3DConfig
        Its sizes.

    Notes
    -----
    Time, of ``D`` planes of ``N`` tokens: ``O(D N^2 + N D^2)`` a block and call. The condition is the same for all
    times: a sampler computes it once (:meth:`condition`) and then calls :meth:`velocity`.

    Examples
    --------
    >>> model = MicroDiffuse3D(MicroDiffuse3DConfig.named("tiny"))
    >>> latent, volume = torch.zeros(1, 8, 4, 8, 8), torch.zeros(1, 1, 2, 32, 32)
    >>> model(latent, torch.tensor([0.5]), None, volume).shape
    torch.Size([1, 8, 4, 8, 8])
    """

    def __init__(self, config: MicroDiffuse3DConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer = Transformer(config)
        self.time = TimeCode(config.width)
        self.conditioning = ConditioningNetwork(config)
        self.images = ImageCondition(config.image_features, config.width) if config.image_features else None
        self.alignment = projector(config) if config.aligned_features else None

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None, lr: Tensor) -> Tensor:
        """The velocity.

        Parameters
        ----------
        x : tensor ``(B, D, C, h, w)``
            Latent at time `t`: ``(1 - t) x0 + t eps`` on the linear path.
        t : tensor ``(B,)``
            Times between 0 (data) and 1 (noise).
        y : tensor ``(B, d, n, features)``, or None
            Features of the `d` slices of `lr` by the frozen image encoder. None: none are told.
        lr : tensor ``(B, 1, d, H, W)``
            The low-resolution volume, between 0 and 1; ``D`` is `d` times one of the network's depth ratios.

        Returns
        -------
        tensor ``(B, D, C, h, w)``
            ``d x / d t``.

        Raises
        ------
        ValueError
            If the sizes do not belong together.
        """
        return self.velocity(x, t, y, self.condition(lr, x.shape[1]))

    def condition(self, lr: Tensor, planes: int | None = None) -> Condition:
        """The low-resolution volume ``(B, 1, d, H, W)``, encoded.

        ``planes`` is the depth wanted; by default it is the largest that the network has a head for.
        """
        depth = lr.shape[2]
        if planes is None:
            planes = max(self.config.depth_ratios) * depth
        if planes % depth:
            raise ValueError(f"expected a whole number of planes per plane measured, got {planes} from {depth}")
        return self.conditioning(lr, planes // depth)  # type: ignore[no-any-return]

    def velocity(self, x: Tensor, t: Tensor, y: Tensor | None, condition: Condition) -> Tensor:
        """The same as a call, with the condition given."""
        return self.transformer(x, self._vector(x, t, y, condition), *condition)  # type: ignore[no-any-return]

    def velocity_and_alignment(
        self, x: Tensor, t: Tensor, y: Tensor | None, condition: Condition
    ) -> tuple[Tensor, Tensor]:
        """The velocity, and the tokens ``(B, D, N, aligned_features)`` that training aligns with an image encoder's.

        S. Yu et al., Representation alignment for generation, arXiv:2410.06940.
        """
        if self.alignment is None:
            raise ValueError("this network was built without alignment (aligned_features is 0)")
        velocity, tokens = self.transformer.with_tokens(
            x, self._vector(x, t, y, condition), *condition, self.config.aligned_block
        )
        return velocity, self.alignment(tokens)

    def _vector(self, x: Tensor, t: Tensor, y: Tensor | None, condition: Condition) -> Tensor:
        """What all tokens are told, after checking that the sizes belong together."""
        tokens = x.shape[1] * (x.shape[3] // self.config.patch) * (x.shape[4] // self.config.patch)
        if condition.injected.shape[1] != tokens:
            raise ValueError(
                f"latents of shape {tuple(x.shape)} are {tokens} tokens, "
                f"the condition has {condition.injected.shape[1]}"
            )
        vector: Tensor = self.time(t)
        if y is not None:
            if self.images is None:
                raise ValueError("features of an image encoder were given to a network that knows none; pass None")
            vector = vector + self.images(y)
        return vector

    @staticmethod
    def new(config: MicroDiffuse3DConfig, *, seed: int = 0) -> MicroDiffuse3D:
        """An untrained one, whose weights depend on the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return MicroDiffuse3D(config)

    @staticmethod
    def from_published(
        state_dict: Mapping[str, Tensor], *, backbone: Mapping[str, Any], conditioning: Mapping[str, Any],
        tasks: Mapping[str, Mapping[str, Any]],
    ) -> MicroDiffuse3D:  # fmt: skip
        """The authors' network with their weights.

        Parameters
        ----------
        state_dict : mapping of tensors
            Their checkpoint. The weights are not copied.
        backbone, conditioning, tasks : mapping
            The contents of their three configuration files.

        Raises
        ------
        ValueError
            If weights lack, are of another shape or are not used (at most ten are named), or the configurations ask for
            what is not read.
        """
        config = config_of(state_dict, backbone, conditioning, tasks)
        with torch.device("meta"):
            model = MicroDiffuse3D(config)
        read_weights(model, state_dict, network_key(config))
        return model.eval()
