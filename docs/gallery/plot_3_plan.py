"""
Plan an acquisition
===================

Every plane that is not imaged saves time and light. How many may be left out? One small stack that was imaged as
densely as one could wish, a pilot, answers: :func:`tensorcell.plan` thins it out in every way that is asked for,
recovers what is left, and measures the error at what was left out.
"""

import matplotlib.pyplot as plt

import tensorcell as tc

pilot = tc.datasets.simulate_cells((17, 48, 48), cells=5, seed=0)
stack = tc.Volume(pilot.measured, spacing=pilot.spacing)

# %%
# State the error that you can live with, and the choices that your microscope has.

plan = tc.plan(stack, axial_factors=(2, 4), exposure_factors=(1.0, 0.5), target_psnr=24)
print(plan)

# %%
# Each point below is one way to image, with its 90 % interval: the further to the right, the more light is saved, and
# the higher, the smaller is the error. A choice meets the target where its whole interval lies above the line.

figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
for choice in plan.choices:
    name = f"1 of {choice.axial_factor} planes,\n{choice.exposure_factor:.0%} exposure"
    place = (100 * choice.dose_saved, choice.psnr)
    axis.plot([place[0]] * 2, choice.psnr_interval, color="#9aa5b1", zorder=1)
    axis.plot(*place, "o", color="#d1495b" if choice == plan.best else "#2f6690", zorder=2)
    axis.annotate(name, place, textcoords="offset points", xytext=(6, 0), va="center", fontsize=8)
axis.axhline(24, color="black", linewidth=0.8)
axis.text(41, 24, "target", va="bottom", fontsize=8)
axis.set(xlabel="light saved (%)", ylabel="predicted PSNR (dB)", xlim=(40, 105), xticks=range(40, 101, 20))

# %%
# What the plan promises can be tried here, since more of the same specimen can be simulated: another cluster of cells,
# imaged as the plan says.

best = plan.best
if best is not None:
    photons = 100.0 * best.exposure_factor
    other = tc.datasets.simulate_cells(
        (17, 48, 48), cells=5, axial_factor=best.axial_factor, peak_photons=photons, background=2.0, seed=1
    )
    result = tc.recover(other.measured, axial_factor=best.axial_factor)
    between = ~result.measured if best.axial_factor > 1 else None
    print(f"in other cells: {tc.metrics.psnr(result.volume.data, other.truth, mask=between):.1f} dB between the planes")

# %%
# The plan speaks for stacks that look like its pilot; other cells do better or worse than the interval. Take a pilot of
# your busiest and dimmest specimens: what suffices for these suffices for the others.
#
# From a terminal: ``tensorcell plan pilot.tif --axial-factors 2,4 --target-psnr 24 --html plan.html``.
