"""
Train and use MicroDiffuse3D
============================

A fast scan measures every fourth plane, in larger pixels, with little light. Slow, good stacks of the same kind exist.
The conditional latent diffusion transformer of MicroDiffuse3D learns from these what such a scan makes of them, and
draws stacks that may have been scanned.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

from tensorcell.datasets import simulate_cells
from tensorcell.diffusion_guidance.microdiffuse3d import (
    Degradation,
    FirstEstimate,
    MicroDiffuse3D,
    MicroDiffuse3DConfig,
    Parts,
    SliceAutoencoder,
    fit_autoencoder,
    fit_first_estimate,
    fit_network,
    restored,
    simulated,
)

# %%
# State what the scan does. Everything that the networks see of it is simulated from the good stacks.

slow = [simulate_cells((16, 32, 32), cells=3, seed=seed).truth for seed in range(3)]
scan = Degradation(axial_factor=4, lateral_factor=2, psf=(2, 1, 1), photons=100)

# %%
# Three networks are fitted one after the other: a regression that estimates the stack first, an autoencoder of slices,
# and the transformer that draws in its latent space what the estimate leaves open. A real fit takes from twenty minutes
# to hours; the few steps here only show how the parts meet.

examples = simulated(slow, scan, (8, 32, 32))
estimate = fit_first_estimate(examples, FirstEstimate(axial_factor=4, block=2, channels=16, blocks=1), steps=20).network
autoencoder = fit_autoencoder(slow, SliceAutoencoder.new(scale=4, width=16), side=32, steps=2).network
tiny = MicroDiffuse3D.new(MicroDiffuse3DConfig.named("tiny"))
network = fit_network(examples, tiny, autoencoder, estimate=estimate, steps=1).network

# %%
# A specimen that no network has seen is scanned, and restored by a few samples. All xz slices have one grey scale.

truth = simulate_cells((16, 32, 32), cells=3, seed=9).truth
unit = torch.as_tensor(truth / truth.max(), dtype=torch.float32)
scanned = scan(unit[None, None], torch.Generator().manual_seed(0))
found = restored(scanned[0], len(unit), Parts(network, autoencoder, estimate=estimate), steps=2, samples=2)
with torch.no_grad():
    first = estimate(scanned)

panels = {"truth": unit, "scan": scanned, "first estimate": first, "mean of samples": found.mean}
figure, axes = plt.subplots(2, 2, figsize=(9, 5), layout="constrained")
for axis, (title, volume) in zip(axes.flat, panels.items(), strict=True):
    values = np.asarray(volume).squeeze()
    middle = values[:, values.shape[1] // 2]
    axis.imshow(middle, cmap="gray", aspect="auto", vmin=0, vmax=0.8)
    axis.set(title=title, xticks=[], yticks=[])

# %%
# After seconds the networks know little, and the picture shows it: a network draws *something* in any case.
# That is why ``recover`` does not take a network at its word. It holds the scan against those that were learned, the
# restored stack against the scan, and the weights against plain interpolation at held-out examples; where one of these
# fails, it returns what ``auto`` gives, and a note says so.
#
# For work, leave the fit to the command, which also holds out examples and calibrates the errors on them:
#
# .. code-block:: none
#
#    tensorcell train slow.tif --kind microdiffuse3d --axial-factor 4 --lateral-factor 2 --photons 100 --out model
#    tensorcell recover fast.tif out.tif --method microdiffuse3d --weights model --axial-factor 4 --lateral-factor 2
