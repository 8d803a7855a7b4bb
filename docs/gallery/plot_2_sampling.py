"""
Is my sampling enough?
======================

Before a stack is recovered one may ask whether it *can* be. :func:`tensorcell.diagnose` compares what was measured with
what recovery needs, and does not need the truth for it. Here it is asked of one specimen that was sampled more and more
sparsely, and its answers are compared with the errors that follow.
"""

import matplotlib.pyplot as plt
import numpy as np

import tensorcell as tc
from tensorcell.solvers import complete_tucker


def specimen(**sampling):
    """Return the same cells, measured in another way."""
    return tc.datasets.simulate_cells(
        (17, 48, 48), cells=5, seed=2, spacing=(0.25, 0.2, 0.2), peak_photons=1000, **sampling
    )


# %%
# Planes
# ------
#
# Every second plane was measured. The first sentence is the answer; what follows are its reasons.

second = specimen(axial_factor=2)
print(tc.diagnose(second.measured, axial_factor=2, spacing=second.spacing))

# %%
# A plane that was never measured stands in no equation of a low-rank model. That is why planes are judged by another
# criterion: whether the finest structure along z is wider than the distance of the planes. ``aliased`` does not mean
# that nothing can be recovered, but that structures finer than this are blurred, or are a guess; ``unknown``, that
# noise or too few planes hide where the structure ends. The error between the planes grows in any case.

factors = (1, 2, 4)
stacks = [specimen(axial_factor=factor) for factor in factors]
rows = [("truth", stacks[0].truth)]
for factor, cells in zip(factors, stacks, strict=True):
    verdict = tc.diagnose(cells.measured, axial_factor=factor, spacing=cells.spacing).axial_verdict
    filled = tc.recover(cells.measured, axial_factor=factor, method="fast").volume.data
    score = tc.metrics.psnr(filled, cells.truth)
    rows.append((f"every plane: {verdict}" if factor == 1 else f"1 of {factor} planes: {verdict}", filled))
    print(f"1 of {factor} planes: {verdict}, PSNR {score:.1f} dB")

figure, axes = plt.subplots(len(rows), 1, figsize=(5, 7), layout="constrained")
top = float(np.percentile(rows[0][1], 99.8))
for axis, (title, volume) in zip(axes, rows, strict=True):
    axis.imshow(volume[:, 24], cmap="gray", vmin=0, vmax=top, aspect=1.25)
    axis.set(title=title, xticks=[], yticks=[])

# %%
# Pixels
# ------
#
# Pixels left out at random are another matter: every plane, row and column still holds some. Here the counts decide.
# ``degrees_of_freedom`` is what nobody can do without; ``empirical_threshold`` is where simulated recoveries begin to
# succeed. A tensor of known rank shows what the verdicts are worth.

shares = (0.03, 0.06, 0.12, 0.24)
errors, verdicts = [], []
for share in shares:
    planted = tc.datasets.planted_tucker((20, 22, 24), rank=(3, 3, 3), observed=share, seed=0)
    report = tc.diagnose(planted.data, planted.mask, rank=3)
    found = complete_tucker(planted.data, planted.mask, rank=3)
    errors.append(np.linalg.norm(found.value - planted.truth) / np.linalg.norm(planted.truth))
    verdicts.append(report.verdict)

figure, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
axis.loglog(shares, errors, "o-", color="#2f6690")
for share, error, verdict in zip(shares, errors, verdicts, strict=True):
    axis.annotate(verdict, (share, error), textcoords="offset points", xytext=(6, 6))
size = planted.truth.size
axis.axvline(report.bound.degrees_of_freedom / size, color="#d1495b", label="degrees of freedom")
axis.axvline(report.empirical_threshold / size, color="#d1495b", linestyle="--", label="empirical threshold")
axis.set(xlabel="share of the voxels that was measured", ylabel="relative error", xlim=(0.015, 0.4), ylim=(None, 200))
axis.set_xticks(shares, [f"{share:.0%}" for share in shares])
axis.minorticks_off()
axis.legend(loc="lower left")

# %%
# ``likely`` is a matter of chance: just above the threshold a recovery may still fail, well above it is exact.
#
# From a terminal: ``tensorcell diagnose stack.tif --axial-factor 2 --html diagnosis.html``. With
# ``--fail-under likely`` the exit status tells a script whether the answer is good enough.
