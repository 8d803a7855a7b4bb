#!/usr/bin/env bash
# scikit-image 0.26.0: optical_flow_ilk finds no motion between images of small numbers.
#
# The flow of an image does not depend on its unit: Lucas and Kanade's equations are linear in it. optical_flow_ilk,
# however, takes a pixel's system of equations for singular where its determinant is below 1e-14, which goes with the
# fourth power of the unit. Images as floats with a range of some 0.01 and less, as reflectance, absorption or ratios
# have it (and 12-bit images that were divided by 65535, in their darker parts), get a flow of exactly 0 in many or all
# pixels. Nothing is warned of. With the images divided by their standard deviation the flow is right.
#
# Seen: for a texture that is shifted by 1.5 pixels the median flow is 1.50 with a range of the image of 1000, 1 and 0.1;
# 1.49 with 0.01, where a sixth of the pixels has none; and exactly 0 everywhere with 0.001 and 0.0001.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet scikit-image==0.26.0 numpy==2.4.6 scipy==1.17.1
"$work/env/bin/python" - <<'PYTHON'
import numpy as np
import skimage
from scipy.ndimage import gaussian_filter, shift
from skimage.registration import optical_flow_ilk

assert skimage.__version__ == "0.26.0"
texture = gaussian_filter(np.random.default_rng(0).standard_normal((64, 64)), 3)
texture /= np.ptp(texture)
moved = shift(texture, (1.5, 0), mode="nearest", order=3)

flows = {}
for unit in (1e3, 1.0, 1e-1, 1e-2, 1e-3, 1e-4):
    flow = optical_flow_ilk((unit * texture).astype(np.float32), (unit * moved).astype(np.float32))[0]
    flows[unit] = float(np.median(flow)), float(np.mean(flow == 0))
    print(f"range {unit:g}: median flow {flows[unit][0]:.3f} of 1.5 pixels, none in {flows[unit][1]:.0%} of the pixels")

for unit in (1e3, 1.0, 1e-1):
    assert abs(flows[unit][0] - 1.5) < 0.01 and flows[unit][1] < 0.01, flows[unit]
assert 0.05 < flows[1e-2][1] < 0.5, flows[1e-2]
for unit in (1e-3, 1e-4):
    assert flows[unit] == (0.0, 1.0), flows[unit]
PYTHON
