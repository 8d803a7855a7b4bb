"""
Recover a sparse stack
======================

Half of the pixels were never measured, and one in twenty of those that were is wrong. What does the whole stack look
like, and how far can each voxel of it be trusted?
"""

import matplotlib.pyplot as plt
import numpy as np

import tensorcell as tc

cells = tc.datasets.simulate_cells((16, 48, 48), cells=5, keep_pixels=0.5, outliers=0.05, seed=0)

# %%
# ``cells.measured`` is what a microscope would give: NaN where nothing was measured. With a stack of your own, this
# line is ``stack = tc.read("stack.tif")``, and voxel size and axes come from the file.

stack = tc.Volume(cells.measured, spacing=cells.spacing)
result = tc.recover(stack)

print(result.volume)
print(result.status)
for note in result.notes:
    print("-", note)

# %%
# The notes say what was decided, and why. They are part of the result: read them before the picture.
#
# Below, blue was not measured, and all images have one grey scale. The gaps are filled, and most wrong pixels are
# gone. Those that remain have intensities that the specimen has, too; what was measured keeps its noise.

top = float(np.percentile(cells.truth, 99.8))
grey = plt.get_cmap("gray").with_extremes(bad="#2f6690")


def show(panels, plane=8, row=24):
    """Draw an xy slice of each stack, and an xz slice below it."""
    dz, dy, _ = cells.spacing
    ratios = {"height_ratios": [cells.truth.shape[1] * dy, len(cells.truth) * dz]}
    axes = plt.subplots(2, len(panels), figsize=(7.5, 4.6), gridspec_kw=ratios, layout="constrained")[1]
    for (title, volume), column in zip(panels.items(), axes.T, strict=True):
        column[0].imshow(volume[plane], cmap=grey, vmin=0, vmax=top)
        column[1].imshow(volume[:, row], cmap=grey, vmin=0, vmax=top, aspect=dz / dy)
        column[0].set_title(title)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    axes[0, 0].set_ylabel("xy")
    axes[1, 0].set_ylabel("xz")


show({"measured": cells.measured, "recovered": result.volume.data, "truth": cells.truth})

# %%
# What was measured stays as it was measured, bit for bit, unless it was found to be wrong.

wrong = result.outliers != 0
kept = cells.mask & ~wrong
print("measured voxels that were kept are unchanged:", np.array_equal(result.volume.data[kept], cells.measured[kept]))
print(f"wrong pixels found: {np.mean(wrong[cells.outliers]):.0%}")
print(f"right pixels taken for wrong: {np.mean(wrong[cells.mask & ~cells.outliers]):.2%}")

# %%
# ``result.uncertainty`` is a standard deviation for every voxel, in the unit of the data. ``volume +- 1.645`` times it
# is to hold the true intensity in 90 % of the voxels. Here the truth is known, so that this can be checked.

error = np.abs(result.volume.data - cells.truth)
inside = error <= 1.645 * result.uncertainty
gaps = ~result.measured
print(f"intervals that hold the truth, in the gaps: {inside[gaps].mean():.0%}")
print(f"PSNR in the gaps: {tc.metrics.psnr(result.volume.data, cells.truth, mask=gaps):.1f} dB")

figure, axes = plt.subplots(1, 2, figsize=(7, 3.2), layout="constrained")
for axis, (title, values) in zip(axes, {"uncertainty": result.uncertainty, "error": error}.items(), strict=True):
    image = axis.imshow(values[8], cmap="magma", vmin=0, vmax=float(np.percentile(error, 99)))
    axis.set(title=title, xticks=[], yticks=[])
figure.colorbar(image, ax=axes, label="intensity")

# %%
# The errors are larger where the uncertainty says so; where exactly a large one lies cannot be known. The intervals of
# a single stack may hold more than 90 %, or less: :doc:`/trust` says when.
#
# To keep the result, ``tc.write("recovered.tif", result.volume)``; from a terminal, all of this is
# ``tensorcell recover stack.tif recovered.tif --uncertainty u.tif``.
