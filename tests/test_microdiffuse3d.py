"""MicroDiffuse3D: the network against brute force, its own invariances, and the authors' published outputs."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'diffusion'")

from tensorcell.diffusion_guidance.microdiffuse3d import (  # noqa: E402
    MicroDiffuse3D,
    MicroDiffuse3DConfig,
    RefinementDecoder,
)
from tensorcell.diffusion_guidance.microdiffuse3d.attention import DecomposedAttention, SelfAttention  # noqa: E402
from tensorcell.diffusion_guidance.microdiffuse3d.conditioning import ConditioningNetwork, prime_factors  # noqa: E402
from tensorcell.diffusion_guidance.microdiffuse3d.published import network_key, refinement_key  # noqa: E402
from tensorcell.diffusion_guidance.microdiffuse3d.transformer import TimeCode, Transformer, position_code  # noqa: E402

TINY = MicroDiffuse3DConfig.named("tiny")


def drawn(*shape: int, seed: int = 0) -> Any:
    """A tensor of standard normal numbers."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def awake(module: Any, seed: int = 0) -> Any:
    """The module with weights that are nowhere 0, as after training."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(0.1 * torch.randn(weight.shape, generator=rng) + (weight.ndim == 1))
    return module.eval()


# ------------------------------------------------------------------------------------------------------- attention


def attended(attention: SelfAttention, tokens: np.ndarray) -> np.ndarray:
    """Softmax attention of tokens ``(n, width)`` in NumPy, one head after the other."""
    query, key, value = (
        tokens @ each.weight.detach().numpy().T.astype(float)
        for each in (attention.query, attention.key, attention.value)
    )
    heads = []
    for q, k, v in zip(*(np.split(each, attention.heads, axis=1) for each in (query, key, value)), strict=True):
        scores = q @ k.T / math.sqrt(q.shape[1])
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        heads.append(weights / weights.sum(axis=1, keepdims=True) @ v)
    out = attention.out
    return np.concatenate(heads, axis=1) @ out.weight.detach().numpy().T + out.bias.detach().numpy()


def test_decomposed_attention_is_attention_within_planes_and_then_along_z() -> None:
    attention, tokens = DecomposedAttention(12, heads=3, head_width=5), drawn(2, 4, 6, 12)
    expected = tokens.numpy().astype(float)
    for batch in expected:
        for plane in range(4):
            batch[plane] = attended(attention.lateral, batch[plane])
        for place in range(6):
            batch[:, place] = attended(attention.axial, batch[:, place])
    with torch.inference_mode():
        np.testing.assert_allclose(attention(tokens).numpy(), expected, atol=2e-6)


def test_decomposed_attention_of_permuted_tokens_is_permuted() -> None:
    """Nothing but the position code tells planes or places apart."""
    attention, tokens = DecomposedAttention(12, heads=3, head_width=4), drawn(1, 5, 7, 12)
    planes, places = torch.randperm(5), torch.randperm(7)
    with torch.inference_mode():
        torch.testing.assert_close(
            attention(tokens[:, planes][:, :, places]), attention(tokens)[:, planes][:, :, places]
        )


# ----------------------------------------------------------------------------------------------------- transformer


def test_the_velocity_is_zero_at_the_start_of_training() -> None:
    model = MicroDiffuse3D(TINY).eval()
    with torch.inference_mode():
        assert not model(drawn(1, 8, 4, 8, 8), torch.tensor([0.3]), None, torch.rand(1, 1, 2, 32, 32)).any()


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_patches_come_back_where_they_were(patch: int) -> None:
    """Without blocks, condition and position, a token that holds its patch is that patch in the velocity."""
    config = replace(TINY, patch=patch, latent_channels=3, token_width=3 * patch**2, condition_width=1, blocks=0)
    transformer, latent = Transformer(config), drawn(2, 3, 3, 8, 12)
    with torch.no_grad():
        # The channels of a token are ordered as in the output: row, column, channel.
        identity = torch.eye(3 * patch**2).reshape(patch, patch, 3, 3 * patch**2).permute(3, 2, 0, 1)
        transformer.patches.weight.copy_(identity)
        transformer.patches.bias.zero_()
        transformer.position.zero_()
        transformer.last.norm = torch.nn.Identity()
        transformer.last.linear.weight[:, : 3 * patch**2] = 0.5 * torch.eye(3 * patch**2)
        tokens = 3 * (8 // patch) * (12 // patch)
        found = transformer(
            latent, torch.zeros(2, config.width), torch.zeros(2, tokens, config.injected_width),
            torch.zeros(2, tokens, 1),
        )  # fmt: skip
    torch.testing.assert_close(found, latent)


def test_each_input_of_the_network_has_a_part_in_the_velocity() -> None:
    config = replace(TINY, image_features=6)
    model = awake(MicroDiffuse3D(config))
    inputs = {
        "x": drawn(1, 8, 4, 8, 8), "t": torch.tensor([0.3]), "y": drawn(1, 2, 9, 6),
        "lr": torch.rand(1, 1, 2, 32, 32),
    }  # fmt: skip
    with torch.inference_mode():
        velocity = model(**inputs)
        assert velocity.shape == inputs["x"].shape
        for name, value in inputs.items():
            other = model(**inputs | {name: 0.5 * value})
            assert (other - velocity).abs().max() > 1e-4 * velocity.abs().max(), name
        assert not torch.equal(model(**inputs | {"y": None}), velocity)


def test_volumes_of_a_batch_do_not_see_each_other() -> None:
    model = awake(MicroDiffuse3D(TINY))
    x, t, lr = drawn(2, 8, 4, 8, 8), torch.tensor([0.2, 0.9]), torch.rand(2, 1, 2, 32, 32)
    with torch.inference_mode():
        both = model(x, t, None, lr)
        for n in range(2):
            one = slice(n, n + 1)
            torch.testing.assert_close(both[one], model(x[one], t[one], None, lr[one]), rtol=1e-4, atol=1e-4)


def test_the_condition_can_be_computed_once_for_all_times() -> None:
    model = awake(MicroDiffuse3D(TINY))
    x, lr = drawn(1, 8, 4, 8, 8), torch.rand(1, 1, 2, 32, 32)
    with torch.inference_mode():
        condition = model.condition(lr, 8)
        for time in (0.1, 0.7):
            t = torch.tensor([time])
            assert torch.equal(model.velocity(x, t, None, condition), model(x, t, None, lr))


def test_alignment_sees_the_tokens_after_its_block_and_leaves_the_velocity_as_it_is() -> None:
    model = awake(MicroDiffuse3D(replace(TINY, aligned_block=2, aligned_features=5)))
    x, t, lr = drawn(1, 8, 4, 8, 8), torch.tensor([0.4]), torch.rand(1, 1, 2, 32, 32)
    with torch.inference_mode():
        condition = model.condition(lr, 8)
        velocity, aligned = model.velocity_and_alignment(x, t, None, condition)
        assert aligned.shape == (1, 8, 16, 5)
        assert torch.equal(velocity, model(x, t, None, lr))
        model.transformer.blocks[2].mlp[2].bias += 1  # after the block
        other, same = model.velocity_and_alignment(x, t, None, condition)
        assert torch.equal(same, aligned)
        assert not torch.equal(other, velocity)
        model.transformer.blocks[1].mlp[2].bias += 1  # in the block
        assert not torch.equal(model.velocity_and_alignment(x, t, None, condition)[1], aligned)
    with pytest.raises(ValueError, match="built without alignment"):
        MicroDiffuse3D(TINY).velocity_and_alignment(x, t, None, condition)


@pytest.mark.parametrize(("depth", "rows", "columns"), [(3, 8, 24), (20, 16, 8), (1, 8, 8)])
def test_depth_height_and_width_are_free(depth: int, rows: int, columns: int) -> None:
    model, x = awake(MicroDiffuse3D(TINY)), drawn(1, depth, 4, rows, columns)
    with torch.inference_mode():
        velocity = model(x, torch.tensor([0.5]), None, torch.rand(1, 1, depth, 4 * rows, 4 * columns))
    assert velocity.shape == x.shape
    assert bool(velocity.isfinite().all())


def test_time_code_is_cosines_and_sines_of_periods_up_to_ten_thousand() -> None:
    code = TimeCode(256)
    seen = []
    code.first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    code(torch.tensor([0.0, 0.7]))
    frequencies = 1e4 ** (-np.arange(128) / 128)
    np.testing.assert_array_equal(seen[0][0], np.repeat([1, 0], 128))
    np.testing.assert_allclose(
        seen[0][1], np.concatenate([np.cos(0.7 * frequencies), np.sin(0.7 * frequencies)]), atol=1e-6
    )


def test_position_code_tells_every_place_from_every_other() -> None:
    code = position_code(50, (4, 5, 6)).flatten(2)[0].T
    assert code.shape == (120, 50)
    assert torch.pdist(code).min() > 0.1


# ---------------------------------------------------------------------------------------------------- conditioning


@pytest.mark.parametrize("ratio", [1, 2, 3, 4, 6])
def test_the_condition_has_the_planes_of_the_restored_volume(ratio: int) -> None:
    config = replace(TINY, depth_ratios=(ratio,))
    condition = ConditioningNetwork(config)(torch.rand(1, 1, 3, 16, 24), ratio)
    tokens = 3 * ratio * 2 * 3
    assert condition.injected.shape == (1, tokens, config.injected_width)
    assert condition.concatenated.shape == (1, tokens, config.condition_width)


def test_prime_factors_multiply_to_the_number() -> None:
    for number in range(1, 40):
        assert math.prod(prime_factors(number)) == number
        assert all(all(p % q for q in range(2, p)) for p in prime_factors(number))


def test_a_token_sees_its_place_first_of_all() -> None:
    """A bright pixel changes the condition of the token above it more than that of the one furthest away."""
    network = awake(ConditioningNetwork(replace(TINY, depth_ratios=(1,))))
    volume = torch.zeros(1, 1, 2, 64, 64)
    other = volume.clone()
    other[0, 0, 1, 5, 5] = 100
    with torch.inference_mode():
        change = (network(other, 1).injected - network(volume, 1).injected).norm(dim=-1).reshape(2, 8, 8)
    assert change[1, 0, 0] > 2 * change[1, 7, 7]


# ------------------------------------------------------------------------------------------------------ refinement


def test_the_refinement_decoder_takes_latents_and_the_volume() -> None:
    decoder = awake(RefinementDecoder(latent_scale=4, channels=8, groups=2, blocks=1))
    volume, latent = torch.rand(1, 1, 3, 16, 24), drawn(1, 4, 6, 4, 6)
    with torch.inference_mode():
        found = decoder(volume, latent)
        assert found.shape == (1, 1, 6, 16, 24)
        assert not torch.equal(found, decoder(0.5 * volume, latent))
        assert not torch.equal(found, decoder(volume, 0.5 * latent))


# ----------------------------------------------------------------------------------------------------------- errors


def test_wrong_sizes_are_refused_in_one_line() -> None:
    model = MicroDiffuse3D(TINY)
    x, t, lr = torch.zeros(1, 8, 4, 8, 8), torch.zeros(1), torch.zeros(1, 1, 2, 32, 32)
    with pytest.raises(ValueError, match=r"restores 1 or 4 planes per plane measured, not 3"):
        model(x[:, :6], t, None, lr)
    with pytest.raises(ValueError, match=r"a whole number of planes per plane measured, got 7 from 2"):
        model(x[:, :7], t, None, lr)
    with pytest.raises(ValueError, match=r"multiples of 8, the pixels of a token, got \(32, 30\)"):
        model(x, t, None, lr[..., :30])
    with pytest.raises(ValueError, match=r"are 64 tokens, the condition has 128"):
        model(x[..., :4], t, None, lr)
    with pytest.raises(ValueError, match=r"a network that knows none"):
        model(x, t, torch.zeros(1, 2, 3, 4), lr)
    with pytest.raises(ValueError, match=r"decodes to planes of \(16, 16\), the volume has \(32, 32\)"):
        RefinementDecoder(latent_scale=2, channels=8, groups=1, blocks=1)(lr, torch.zeros(1, 4, 2, 8, 8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch": 3}, "patch must be a power of two, got 3"),
        ({"latent_scale": 0}, "latent_scale must be whole numbers from 1 to 65536, got 0"),
        ({"depth_ratios": ()}, "depth_ratios must name at least one ratio, got none"),
        ({"aligned_features": 5}, "aligned_features 5 and aligned_block 0 of 3 blocks do not belong together"),
        ({"aligned_block": 4, "aligned_features": 5}, "aligned_block 4 of 3 blocks do not belong together"),
        ({"depth_ratios": (0,)}, "depth_ratios must be whole numbers from 1 to 65536"),
        ({"encoder_multiples": (1, 1, 2, 2, 4)}, "5 resolutions, which are more than a stride of 8 has room for"),
    ],
)
def test_sizes_that_no_network_can_have_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


def test_unknown_size_and_scale() -> None:
    with pytest.raises(ValueError, match="'huge' is unknown, expected one of tiny, small, base, published"):
        MicroDiffuse3DConfig.named("huge")
    with pytest.raises(ValueError, match="latent_scale must be a power of two, got 6"):
        RefinementDecoder(latent_scale=6)


# ------------------------------------------------------------------------------------------------ published weights

SMALL_PUBLISHED = {
    "backbone": {
        "hidden_size": 16, "model_depth": 2, "patch_size": 2, "in_channels": 4, "num_heads": 2,
        "lr_embedding_dim": 8, "condition_dim": 8, "encoder_depth": 2,
    },
    "conditioning": {"lr_encoder_params": {}},
    "tasks": {"a": {"input_depth": 5, "output_depth": 20}, "b": {"input_depth": 8, "output_depth": 8}},
}  # fmt: skip
DECODER = {"base_channels": 8, "num_residual_blocks": 1, "num_residual_groups": 1}


def refinement_weights() -> dict[str, Any]:
    """Weights of a small decoder under their published names."""
    decoder = RefinementDecoder(channels=8, groups=1, blocks=1)
    return {refinement_key(name): weight for name, weight in decoder.state_dict().items()}


def test_published_weights_are_read_strictly() -> None:
    weights = refinement_weights()
    volume, latent = torch.rand(1, 1, 1, 16, 16), drawn(1, 4, 2, 2, 2)
    read = RefinementDecoder.from_published(weights, **DECODER)
    assert read(volume, latent).shape == (1, 1, 2, 16, 16)
    assert not read.training
    lacking = {key: weight for key, weight in weights.items() if key != "conv_last.bias"}
    with pytest.raises(ValueError, match=r"do not belong to this network: conv_last.bias lacks$"):
        RefinementDecoder.from_published(lacking, **DECODER)
    with pytest.raises(ValueError, match=r"extra.weight is not used$"):
        RefinementDecoder.from_published(weights | {"extra.weight": volume}, **DECODER)
    with pytest.raises(ValueError, match=r"conv_last.bias has shape \(2,\), expected \(1,\)$"):
        RefinementDecoder.from_published(weights | {"conv_last.bias": torch.zeros(2)}, **DECODER)
    with pytest.raises(ValueError, match=r"and \d+ more$") as error:
        RefinementDecoder.from_published({}, **DECODER)
    assert str(error.value).count(" lacks") == 10


def test_every_weight_of_the_network_has_a_published_name_of_its_own() -> None:
    config = replace(
        TINY, latent_scale=8, encoder_multiples=(1, 2, 4), image_features=7, aligned_block=1, aligned_features=3
    )
    with torch.device("meta"):
        names = list(MicroDiffuse3D(config).state_dict())
    keys = [network_key(config)(name) for name in names]
    assert len(set(keys)) == len(names)
    starts = ("backbone.", "t_embedder.mlp.", "lr_condition_modules.encoder.", "lr_condition_modules.decoder.")
    assert all(key.startswith((*starts, "y_embedders.")) for key in keys)
    assert "lr_condition_modules.decoder.decoder.0.2.block2.block.3.weight" in keys


def test_published_configurations_that_are_not_read_are_named() -> None:
    weights = {
        "backbone.pos_emb.pos_emb": torch.zeros(1, 24, 4, 4, 4),
        "y_embedders.emb_proj.weight": torch.zeros(512, 9),
    }
    added = SMALL_PUBLISHED | {"backbone": SMALL_PUBLISHED["backbone"] | {"cond_inject_method": "add"}}
    with pytest.raises(ValueError, match="cond_inject_method 'add' is not read"):
        MicroDiffuse3D.from_published(weights, **added)
    with pytest.raises(ValueError, match=r"no entry 'y_embedders.emb_proj.weight'"):
        MicroDiffuse3D.from_published({"backbone.pos_emb.pos_emb": torch.zeros(1, 24, 4, 4, 4)}, **SMALL_PUBLISHED)
    with pytest.raises(ValueError, match=r"no entry 'lr_encoder_params'"):
        MicroDiffuse3D.from_published(weights, **SMALL_PUBLISHED | {"conditioning": {}})


@pytest.fixture(scope="module")
def parity() -> Path:
    folder = Path(__file__).resolve().parents[2] / "shared" / "parity"
    if not folder.is_dir():
        pytest.skip(f"reference vectors of the published network not found in {folder}")
    return folder


def recipe(shapes: Mapping[str, list[int]]) -> dict[str, Any]:
    """Weights that follow from their names, as the reference vectors were made with."""
    weights = {}
    for key, shape in shapes.items():
        drawn_ = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape).astype(np.float32)
        if len(shape) > 1:
            values = drawn_ / np.sqrt(np.prod(shape[1:]))
        else:
            values = key.endswith(".weight") + 0.02 * drawn_
        weights[key] = torch.from_numpy(values.astype(np.float32))
    return weights


def relative(found: Any, expected: np.ndarray) -> float:
    """Largest difference, over the largest value."""
    return float(np.abs(found.numpy() - expected).max() / np.abs(expected).max())


def test_the_refinement_decoder_agrees_with_the_published_one(parity: Path) -> None:
    case = json.loads((parity / "adapted_decoder.json").read_text())
    decoder = RefinementDecoder.from_published(recipe(case["keys"]), **case["args"])
    rng = np.random.default_rng(case["seed"])
    volume = torch.from_numpy(rng.random((1, 1, 5, 64, 64)).astype(np.float32))
    latent = torch.from_numpy(rng.standard_normal((1, 4, 20, 8, 8)).astype(np.float32))
    with torch.inference_mode():
        assert relative(decoder(volume, latent), np.load(parity / "adapted_decoder.npz")["out"]) < 1e-4


@pytest.mark.slow
def test_the_network_agrees_with_the_published_one(parity: Path) -> None:
    case, vectors = json.loads((parity / "joint_sr4z.json").read_text()), np.load(parity / "joint_sr4z.npz")
    configurations = {name: case[name] for name in ("backbone", "conditioning", "tasks")}
    model = MicroDiffuse3D.from_published(recipe(case["keys"]), **configurations)
    rng, batch, fine, coarse = np.random.default_rng(case["seed"]), case["B"], case["D_hr"], case["D_lr"]
    x, t, y, lr = (
        torch.from_numpy(values.astype(np.float32))
        for values in (
            rng.standard_normal((batch, fine, 4, 32, 32), dtype=np.float64), rng.random(batch),
            rng.standard_normal((batch, coarse, 16, 1024)), rng.random((batch, 1, coarse, 256, 256)),
        )
    )  # fmt: skip
    with torch.inference_mode():
        condition = model.condition(lr)
        assert relative(condition.injected[:, ::64, :8], vectors["emb_slice"]) < 1e-4
        assert relative(condition.concatenated[:, ::64, :8], vectors["concat_slice"]) < 1e-4
        assert relative(model.velocity(x, t, y, condition), vectors["out"]) < 1e-4
