"""The network's preconditioning against the closed forms it must start from."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch", reason="needs the diffusion extra: torch")
pytest.importorskip("safetensors", reason="needs the diffusion extra: safetensors")

from tensorcell.diffusion_guidance.networks import SliceNetwork, SliceNetworkConfig  # noqa: E402

INFINITY = math.inf


def tiny(seed: int = 0, **changes) -> SliceNetwork:
    """A small network whose last layer is not zero, so that every part of it shows."""
    network = SliceNetwork(SliceNetworkConfig(**{"widths": (8, 8), "blocks": 1, "condition_error": 0.5, **changes}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in network.parameters():
            weights.copy_(0.2 * torch.randn(weights.shape, generator=generator))
    return network


def normal(*shape: int, seed: int = 0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_untrained_network_is_the_gaussian_posterior_mean():
    network = SliceNetwork(SliceNetworkConfig(widths=(8, 8), blocks=1, condition_error=0.5))
    x, c, levels = normal(5, 1, 9, 11), normal(5, 2, 9, 11, seed=1), torch.tensor([0.0, 0.1, 1.0, 30.0, INFINITY])
    for k, level in enumerate(levels.tolist()):  # prior N(c, 0.5^2) and N(0, 1)
        share = 0.25 / (0.25 + level**2)
        torch.testing.assert_close(network(x, levels, c)[k], (share * x + (1 - share) * c[:, :1])[k])
        torch.testing.assert_close(network(x, levels)[k], x[k] / (1 + level**2))


def test_level_zero_returns_the_state_and_infinite_level_ignores_it():
    network, x, c = tiny(), normal(2, 1, 8, 8), normal(2, 2, 8, 8, seed=1)
    torch.testing.assert_close(network(x, 0.0, c), x)
    assert torch.equal(network(x, INFINITY, c), network(1e3 * x, INFINITY, c))
    assert not torch.equal(network(x, INFINITY, c), c[:, :1])


def test_large_levels_tend_to_the_regression():
    network, x, c = tiny().double(), normal(1, 1, 8, 8).double(), normal(1, 2, 8, 8, seed=1).double()
    for layer in network.level.modules():  # without what tells the network that a level is not infinite
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.zeros_(layer.weight)
    torch.testing.assert_close(network(x, 1e9, c), network(x, INFINITY, c), rtol=0, atol=1e-7)  # x enters as 1e-9


def test_nan_condition_is_no_condition():
    network, x, c = tiny(), normal(2, 1, 8, 12), normal(2, 2, 8, 12, seed=1)
    c[0] = torch.nan
    mixed = network(x, torch.tensor([0.3, 0.3]), c)
    torch.testing.assert_close(mixed[:1], network(x[:1], 0.3))
    torch.testing.assert_close(mixed[1:], network(x[1:], 0.3, c[1:]))


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (13, 10), (8, 8)])
def test_any_size(shape):
    found = tiny()(normal(2, 1, *shape), 0.5, normal(2, 2, *shape, seed=1))
    assert found.shape == (2, 1, *shape)
    assert found.isfinite().all()


def test_shift_by_the_stride_shifts_the_result():
    network, x = tiny(), normal(1, 1, 96, 96)
    whole, part = network(x, 0.5), network(x[..., 4:, 8:], 0.5)
    assert network.stride == 4
    # The field of view is under 32 pixels a side; rounding differs with the size of the convolution.
    torch.testing.assert_close(whole[..., 44:-40, 48:-40], part[..., 40:-40, 40:-40], rtol=1e-4, atol=1e-5)


def test_three_dimensions_and_several_channels():
    network = tiny(dimensions=3, channels=2, condition_channels=3)
    assert network(normal(1, 2, 5, 6, 7), 1.0, normal(1, 3, 5, 6, 7)).shape == (1, 2, 5, 6, 7)


def test_seed_gives_the_weights_and_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    one, two, other = (SliceNetwork(SliceNetworkConfig(widths=(8,)), seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one.enter.weight, two.enter.weight)
    assert not torch.equal(one.enter.weight, other.enter.weight)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": ()}, "widths must name at least one"),
        ({"widths": (8, 0)}, r"widths\[1\] must be a whole number of at least 1, got 0"),
        ({"dimensions": 4}, "dimensions must be 2 or 3, got 4"),
        ({"condition_channels": 1}, "must be 0 or channels \\+ 1 = 2, got 1"),
        ({"condition_error": 0.0}, "condition_error must be positive"),
    ],
)
def test_config_says_what_is_wrong(changes, message):
    with pytest.raises(ValueError, match=message):
        SliceNetworkConfig(**changes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(2, 8, 8), 1.0), "x must have 4 axes"),
        ((torch.zeros(2, 3, 8, 8), 1.0), r"for 1 channel\(s\), got data of 3"),
        ((torch.zeros(2, 1, 8, 8), 1.0, torch.zeros(2, 1, 8, 8)), "condition must have shape"),
        ((torch.zeros(2, 1, 8, 8), -1.0), "level must not be negative"),
        ((torch.zeros(2, 1, 8, 8), torch.ones(3)), "level must be one number or one a sample, 2"),
    ],
)
def test_forward_says_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny()(*arguments)


def test_condition_for_a_network_without():
    with pytest.raises(ValueError, match="built without a condition"):
        tiny(condition_channels=0)(torch.zeros(1, 1, 8, 8), 1.0, torch.zeros(1, 2, 8, 8))
