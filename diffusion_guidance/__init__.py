"""Score priors whose sampling is guided by the solvers' projections.

This module needs the optional dependencies of ``pip install "tensorcell[diffusion]"``.
It is empty so far: schedules, networks and samplers arrive in a later release.
"""
