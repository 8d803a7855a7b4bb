"""
Bring a prior
=============

Every fourth plane was measured. Neighbouring planes tell little of what lies between; other stacks of the same kind
may tell more. A prior is a small network that learned what lateral slices look like. It may propose, and what is left
out of *your* measurement decides how much of the proposal is taken, which may be nothing.
"""

import matplotlib.pyplot as plt
import numpy as np

import tensorcell as tc
from tensorcell.diffusion_guidance import fit_lateral_prior

# %%
# The stack to recover, and two stacks of the same kind that were measured well. A prior is fitted to these from
# nothing. A real fit takes minutes; this one takes seconds, and should be worth little.

cells = tc.datasets.simulate_cells((41, 40, 40), cells=8, seed=4, axial_factor=4, peak_photons=1000)
others = [tc.datasets.simulate_cells((12, 40, 40), cells=4, seed=seed, peak_photons=1000).measured for seed in (1, 2)]
prior = fit_lateral_prior(others, axial_factor=4, steps=5)

# %%
# Three recoveries: without a prior, with that one, and with a prior fitted to the stack itself, which begins with one
# of simulated cells that is part of the package.

few = {"axial_factor": 4, "method": "diffusion", "samples": 2, "steps": 3}
results = {
    "without a prior": tc.recover(cells.measured, axial_factor=4),
    "a prior of seconds": tc.recover(cells.measured, prior=prior, **few),
    "fitted to the stack": tc.recover(cells.measured, fit_steps=5, **few),
}
between = ~results["without a prior"].measured
for name, result in results.items():
    print(f"{name}: {tc.metrics.psnr(result.volume.data, cells.truth, mask=between):.2f} dB between the planes")
    for note in result.notes:
        if "the prior proposed" in note:
            print("   ", note)

# %%
# The share that is taken is judged by left-out planes, which are twice as far apart, and by rows left out of the
# measured planes, in which the gap is the true one. Both are only like the real gap: before you trust a prior, compare
# on a stack of which you measured all planes (``tensorcell evaluate``).
#
# ``invented`` says for each voxel which share of the local variance the measurement leaves open: 0 where it was
# measured, near 1 where the prior alone determines it. What is bright there is a guess, however sharp it looks.

fitted = results["fitted to the stack"]
rows = {
    "truth": cells.truth,
    "without a prior": results["without a prior"].volume.data,
    "a prior fitted to the stack": fitted.volume.data,
    "invented": fitted.invented,
}
top = float(np.percentile(cells.truth, 99.8))
figure, axes = plt.subplots(2, 2, figsize=(9, 9.6), layout="constrained")
for axis, (title, volume) in zip(axes.flat, rows.items(), strict=True):
    is_share = title == "invented"
    axis.imshow(volume[:, 20], cmap="magma" if is_share else "gray", vmin=0, vmax=1 if is_share else top, aspect=1)
    axis.set(title=title, xticks=[], yticks=[])

# %%
# From a terminal, ``tensorcell train good1.tif good2.tif --axial-factor 4 --out prior`` fits a prior, and
# ``tensorcell recover stack.tif finer.tif --axial-factor 4 --method diffusion --prior prior --invented invented.tif``
# uses it. Without ``--prior``, one is fitted to the stack itself.
