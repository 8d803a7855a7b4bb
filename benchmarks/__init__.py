"""``compare_completion.py`` and ``run_large.py`` are scripts, the ``bench_*`` files are asv suites."""
