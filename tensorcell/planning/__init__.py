"""How sparsely the next stacks may be imaged, told from a small, densely sampled pilot stack.

=================  ================================================================================================
`sampling`         :func:`plan`: its arguments, and the order of the steps
`pilot`            the pilot stack: what it must hold, the part that is used, blocks for the intervals
`noise`            the variance of the pilot's noise at each voxel, and what a lower exposure adds to it
`trials`           one degradation of the pilot, its recovery, and sums of squared errors over what was left out
`prediction`       PSNR, NRMSE and their intervals from these sums
`decision`         the choice that saves most among those that meet the wanted error
`result`           :class:`SamplingPlan` and what it holds
`page`             the HTML page of a plan
=================  ================================================================================================
"""

from tensorcell.planning import page  # noqa: F401  (the import registers the page of a plan)
from tensorcell.planning.result import PlannedChoice, SamplingPlan, Target
from tensorcell.planning.sampling import plan

__all__ = ["PlannedChoice", "SamplingPlan", "Target", "plan"]
