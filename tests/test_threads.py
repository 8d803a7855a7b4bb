from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from tensorcell import recover
from tensorcell.solvers import complete_tucker, threads

COUNTS = (1, 2, 3, 5)


@pytest.fixture
def number_of_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """A function that sets how many threads a pass uses."""

    def set_to(count: int) -> None:
        monkeypatch.setattr(threads, "thread_count", lambda: count)
        threads._pool.cache_clear()

    yield set_to
    threads._pool.cache_clear()


def stack() -> np.ndarray:
    """Waves with noise, 100 to 300, half of the voxels NaN."""
    z, y, x = np.mgrid[:14, :30, :34] / 6
    rng = np.random.default_rng(0)
    noisy = 200 + 90 * np.sin(x + z) * np.cos(y) + 5 * rng.standard_normal(z.shape)
    return np.where(rng.random(z.shape) < 0.5, noisy, np.nan).astype(np.float32)


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 100])
@pytest.mark.parametrize("count", COUNTS)
def test_shares_cover_everything_once_in_order(number_of_threads: Callable[[int], None], size: int, count: int) -> None:
    number_of_threads(count)
    for share_out in (threads.share_out, threads.share_out_sums):
        parts = share_out(lambda first, last: list(range(first, last)), size)
        assert [index for part in parts for index in part] == list(range(size))
    assert len(threads.share_out_sums(lambda *share: share, size)) == min(size, threads.SHARES)


@pytest.mark.parametrize("method", ["tucker", "local"])
def test_a_recovery_is_the_same_bit_for_bit_for_any_number_of_threads(
    number_of_threads: Callable[[int], None], method: str
) -> None:
    found = []
    for count in COUNTS:
        number_of_threads(count)
        found.append(recover(stack(), method=method))
    for other in found[1:]:
        np.testing.assert_array_equal(other.volume.data, found[0].volume.data)
        np.testing.assert_array_equal(other.uncertainty, found[0].uncertainty)


def test_a_completion_is_the_same_bit_for_bit_for_any_number_of_threads(
    number_of_threads: Callable[[int], None],
) -> None:
    data = stack()
    mask = ~np.isnan(data)
    found = []
    for count in COUNTS:
        number_of_threads(count)
        found.append(complete_tucker(data, mask, (3, 4, 4)).value)
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])
