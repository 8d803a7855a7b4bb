"""The authors' checkpoints: which of their weights each of ours is, and their settings in our words.

Facts of the published network (github.com/SocraLee/MicroDiffuse3D, MIT, commit 69da400).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from tensorcell.diffusion_guidance.microdiffuse3d.config import MicroDiffuse3DConfig

MOST_NAMED = 10
"""Wrong keys that an error names."""

_ATTENTION = {
    r"lateral\.": "spatial_attn.", r"axial\.": "depth_attn.", r"query\.": "to_q.", r"key\.": "to_k.",
    r"value\.": "to_v.", r"(attn\.)out\.": r"\1to_out.0.",
}  # fmt: skip

_RESIDUAL = {r"^first\.": "block1.block.", r"^second\.": "block2.block.", r"block\.2\.": "block.3.",
             r"^shortcut\.": "res_conv."}  # fmt: skip

_NETWORK = {
    r"^transformer\.position$": "backbone.pos_emb.pos_emb",
    r"^transformer\.patches\.": "backbone.x_embedder.proj.",
    r"^transformer\.last\.": "backbone.final_layer.",
    r"^transformer\.": "backbone.",
    r"\.attention\.": ".attn.",
    r"\.modulation\.": ".adaLN_modulation.",
    r"\.condition_norm\.": ".norm3.",
    r"\.condition\.": ".cond_projector.",
    r"\.mlp\.0\.": ".mlp.fc1.",
    r"\.mlp\.2\.": ".mlp.fc2.",
    r"^time\.first\.": "t_embedder.mlp.0.",
    r"^time\.second\.": "t_embedder.mlp.2.",
    r"^conditioning\.compression\.": "lr_condition_modules.decoder.compression_head.",
    r"^images\.each\.": "y_embedders.emb_proj.",
    r"^images\.whole\.": "y_embedders.global_proj.",
    r"^alignment\.": "backbone.projectors.dinov2.mlp.",
} | _ATTENTION

_REFINEMENT = {
    r"^up\.(\d+)\.0\.": r"latent_up.\1.conv.",
    r"^up\.(\d+)\.1\.": r"latent_up.\1.rcab.",
    r"^first\.": "conv_first.",
    r"^after\.": "conv_after_body.",
    r"^last\.": "conv_last.",
    r"\.blocks\.": ".rcabs.",
    r"\.convolution\.": ".conv.",
    r"\.weights\.1\.": ".ca.fc.0.",
    r"\.weights\.3\.": ".ca.fc.2.",
}


def renamed(key: str, rules: Mapping[str, str]) -> str:
    """A key after all substitutions, in their order."""
    for pattern, replacement in rules.items():
        key = re.sub(pattern, replacement, key)
    return key


def refinement_key(key: str) -> str:
    """The published name of a weight of the refinement decoder.

    >>> refinement_key("groups.1.blocks.0.weights.3.bias"), refinement_key("groups.1.convolution.weight")
    ('groups.1.rcabs.0.ca.fc.2.bias', 'groups.1.conv.weight')
    """
    return renamed(key, _REFINEMENT)


def network_key(config: MicroDiffuse3DConfig) -> Callable[[str], str]:
    """A function from the names of our weights to the published ones."""
    stem = 2 + 2 * config.stem_stages
    downs = len(config.encoder_multiples) * (config.encoder_blocks + 1) - 1

    def encoder(place: int, rest: str) -> str:
        part, at = ("stem", place) if place < stem else ("downs", place - stem)
        if at >= downs and part == "downs":
            part, at = "mid", at - downs
        if rest.startswith(("norm.", "attention.")):
            rest = "attn." + renamed(rest.replace("attention.", "attn_layer.", 1), _ATTENTION).replace(
                "_attn.out.", "_attn.to_out.0."
            )
        elif rest in ("weight", "bias"):
            rest = rest if place == 0 else f"conv.{rest}"
        else:
            rest = ("" if part == "stem" else "res_block.") + renamed(rest, _RESIDUAL)
        return f"lr_condition_modules.encoder.{part}.{at}.{rest}"

    def key(name: str) -> str:
        if found := re.fullmatch(r"conditioning\.encoder\.(\d+)\.(.*)", name):
            return encoder(int(found[1]), found[2])
        if found := re.fullmatch(r"conditioning\.heads\.(\d+)\.(\d+)\.(.*)", name):
            ratio, place, rest = found[1], int(found[2]), renamed(found[3], _RESIDUAL)
            part = f"decoder.0.{place}" if ratio == "1" else f"upsampler.{place // 3}.{place % 3}"
            return f"lr_condition_modules.decoder.{part}.{rest}"
        return renamed(name, _NETWORK)

    return key


def config_of(
    state_dict: Mapping[str, Tensor], backbone: Mapping[str, Any], conditioning: Mapping[str, Any],
    tasks: Mapping[str, Mapping[str, Any]],
) -> MicroDiffuse3DConfig:  # fmt: skip
    """Our sizes of a network that the authors' three configurations and its weights describe.

    Raises
    ------
    ValueError
        If the configurations lack an entry, ask for what is not read, or the weights lack what tells a size.
    """
    try:
        encoder = conditioning["lr_encoder_params"]
        position = state_dict["backbone.pos_emb.pos_emb"].shape
        images = state_dict["y_embedders.emb_proj.weight"].shape[1]
        aligned = state_dict.get("backbone.projectors.dinov2.mlp.4.weight")
        ratios = {task["output_depth"] // task["input_depth"] for task in tasks.values()}
        if backbone.get("cond_inject_method", "concat") != "concat":
            raise ValueError(f"cond_inject_method {backbone['cond_inject_method']!r} is not read, expected 'concat'")
        return MicroDiffuse3DConfig(
            latent_channels=backbone["in_channels"], patch=backbone["patch_size"],
            depth_ratios=tuple(sorted(ratios)), token_width=backbone["hidden_size"],
            condition_width=backbone["lr_embedding_dim"], injected_width=backbone["condition_dim"],
            blocks=backbone["model_depth"], heads=backbone["num_heads"], head_width=backbone.get("dim_head", 32),
            mlp_ratio=backbone.get("mlp_ratio", 4.0), positions=(position[2], position[3], position[4]),
            encoder_groups=encoder.get("norm_groups", 8), image_features=images,
            aligned_block=0 if aligned is None else backbone["encoder_depth"],
            aligned_features=0 if aligned is None else aligned.shape[0],
        )  # fmt: skip
    except KeyError as error:
        raise ValueError(f"the published configuration or its weights have no entry {error}") from error


def read_weights(module: nn.Module, state_dict: Mapping[str, Tensor], key_of: Callable[[str], str]) -> None:
    """Give a module weights under other names, without a copy.

    Raises
    ------
    ValueError
        If weights lack, are of another shape, are not finite or are not used; at most ten are named.
    """
    expected = {key_of(name): (name, tuple(weight.shape)) for name, weight in module.state_dict().items()}
    wrong = [f"{key} lacks" for key in expected if key not in state_dict]
    wrong += [f"{key} is not used" for key in state_dict if key not in expected]
    wrong += [
        f"{key} has shape {tuple(state_dict[key].shape)}, expected {shape}"
        for key, (_, shape) in expected.items()
        if key in state_dict and tuple(state_dict[key].shape) != shape
    ]
    wrong += [f"{key} is not finite" for key in expected if key in state_dict and not state_dict[key].isfinite().all()]
    if wrong:
        more = f" and {len(wrong) - MOST_NAMED} more" if len(wrong) > MOST_NAMED else ""
        raise ValueError(f"the weights do not belong to this network: {'; '.join(wrong[:MOST_NAMED])}{more}")
    module.load_state_dict({name: state_dict[key] for key, (name, _) in expected.items()}, assign=True)
