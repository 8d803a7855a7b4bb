"""
Bring a prior
=============

Every second plane was measured. Neighbouring planes tell little of what lies between; other stacks of the same kind
tell more. A prior is a small network that learned from such stacks what lateral slices look like. It may propose, and
left-out planes of *your* stack decide how much of the proposal is taken, which may be nothing.
"""

import matplotlib.pyplot as plt
import numpy as np

import tensorcell as tc
from tensorcell.diffusion_guidance import fit_lateral_prior

# %%
# Two stacks of the same kind were measured well. A prior is fitted to them; a real fit takes minutes, this one seconds.

others = [tc.datasets.simulate_cells((12, 40, 40), cells=4, seed=seed, peak_photons=1000).measured for seed in (1, 2)]
prior = fit_lateral_prior(others, axial_factor=2, steps=5)
print(prior.report["ended"])

# %%
# The stack to recover, once without the prior and once with it:

cells = tc.datasets.simulate_cells((17, 40, 40), cells=4, seed=3, axial_factor=2, peak_photons=1000)
without = tc.recover(cells.measured, axial_factor=2)
with_prior = tc.recover(cells.measured, axial_factor=2, method="diffusion", prior=prior, samples=2, steps=3)

for note in with_prior.notes:
    print("-", note)
between = ~with_prior.measured
for name, result in {"without": without, "with the prior": with_prior}.items():
    print(f"{name}: {tc.metrics.psnr(result.volume.data, cells.truth, mask=between):.2f} dB between the planes")

# %%
# A prior that was fitted for seconds is worth little. The notes say which share of its correction was taken. That was
# judged on nine measured planes here, which is coarse, and the result may lie below the one without a prior. Before you
# trust a prior, compare both on a stack of which you measured all planes (``tensorcell evaluate``).
#
# ``invented`` says for each voxel which share of the local variance the measurement leaves open: 0 where it was
# measured, near 1 where the prior alone determines it. What is bright there is a guess, however sharp it looks.

rows = {
    "truth": cells.truth,
    "without the prior": without.volume.data,
    "with the prior": with_prior.volume.data,
    "invented": with_prior.invented,
}
top = float(np.percentile(cells.truth, 99.8))
figure, axes = plt.subplots(2, 2, figsize=(9, 5.4), layout="constrained")
for axis, (title, volume) in zip(axes.flat, rows.items(), strict=True):
    is_share = title == "invented"
    axis.imshow(volume[:, 20], cmap="magma" if is_share else "gray", vmin=0, vmax=1 if is_share else top, aspect=2.5)
    axis.set(title=title, xticks=[], yticks=[])

# %%
# From a terminal, ``tensorcell train good1.tif good2.tif --axial-factor 2 --out prior`` fits a prior, and
# ``tensorcell recover stack.tif finer.tif --axial-factor 2 --method diffusion --prior prior --invented invented.tif``
# uses it. Without ``--prior``, one is fitted to the stack itself.
