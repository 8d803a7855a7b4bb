#!/usr/bin/env bash
# scikit-image 0.26.0: masked phase_cross_correlation of images of different sizes measures from centre to centre.
#
# With masks, phase_cross_correlation accepts a moving image that is smaller than the reference, such as a small field of
# view that is looked for in a large one. The documentation says that it returns the shift that registers the moving
# image with the reference, and for images of one size that is where the first pixel of the moving image lies. For a
# smaller image, half of the difference of the sizes is missing: the shift is that between the centres of the two.
# The result may hold half pixels although the method finds whole ones. Nothing is warned of. (An open pull request of
# the project, number 8267, describes the same.)
#
# Seen: crops of 41 x 52 pixels of an image of 80 x 90 that begin at (10, 7), (0, 0) and (25, 30) get the shifts
# (-9.5, -12), (-19.5, -19) and (5.5, 11): each is the corner less (19.5, 19).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet scikit-image==0.26.0 numpy==2.4.6 scipy==1.17.1
"$work/env/bin/python" - <<'PYTHON'
import numpy as np
import skimage
from scipy.ndimage import gaussian_filter
from skimage.registration import phase_cross_correlation

assert skimage.__version__ == "0.26.0"
large = gaussian_filter(np.random.default_rng(0).standard_normal((80, 90)), 1.5)
for corner in ((10, 7), (0, 0), (25, 30)):
    small = large[corner[0] : corner[0] + 41, corner[1] : corner[1] + 52]
    shift, *_ = phase_cross_correlation(
        large, small, reference_mask=np.ones(large.shape, bool), moving_mask=np.ones(small.shape, bool)
    )
    missing = (np.array(large.shape) - small.shape) / 2
    print(f"scikit-image {skimage.__version__}: the crop at {corner} gets the shift {tuple(map(float, shift))}")
    assert np.array_equal(shift + missing, corner), (shift, corner)
PYTHON
