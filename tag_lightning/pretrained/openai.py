"""UNets of OpenAI's improved-diffusion and guided-diffusion, as models of diffusers.

A ``.pt`` file holds tensors by name; their names and shapes tell the architecture but for the attention heads, and
nothing of the noise schedule. These come from a ``.json`` file of the same name beside it, with the flags of OpenAI's
command line, or from ``_PUBLISHED`` if the file still has the name under which OpenAI published it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from diffusers import UNet2DModel
from torch import Tensor, nn

from tag_lightning.diffusion import CosineSchedule, LinearSchedule, NoiseSchedule, PredictionType
from tag_lightning.networks import OpenAIUNet
from tag_lightning.pretrained.pretrained_network import Pretrained, frozen
from tag_lightning.tensor_file import load_weights, reason, require_finite

_GUIDED = {"num_head_channels": 64, "rescale_timesteps": False}
_IMPROVED = {"diffusion_steps": 4000, "noise_schedule": "cosine", "rescale_timesteps": True}
_PUBLISHED: dict[str, dict[str, Any]] = {
    "64x64_diffusion": _GUIDED | {"image_size": 64, "noise_schedule": "cosine", "use_new_attention_order": True},
    "128x128_diffusion": {"image_size": 128, "num_heads": 4},
    "256x256_diffusion": _GUIDED | {"image_size": 256},
    "256x256_diffusion_uncond": _GUIDED | {"image_size": 256},
    "512x512_diffusion": _GUIDED | {"image_size": 512},
    "lsun_bedroom": _GUIDED | {"image_size": 256},
    "lsun_cat": _GUIDED | {"image_size": 256},
    "lsun_horse": _GUIDED | {"image_size": 256},
    "cifar10_uncond_50M_500K": _IMPROVED | {"image_size": 32},
    "cifar10_uncond_vlb_50M_500K": _IMPROVED | {"image_size": 32},
    "imagenet64_uncond_100M_1500K": _IMPROVED | {"image_size": 64},
    "imagenet64_uncond_vlb_100M_1500K": _IMPROVED | {"image_size": 64},
    "imagenet64_cond_270M_250K": _IMPROVED | {"image_size": 64, "rescale_timesteps": False},
    "lsun_uncond_100M_1200K_bs128": {"image_size": 256, "num_heads": 1},
    "lsun_uncond_100M_2400K_bs64": {"image_size": 256, "num_heads": 1},
}
# Defaults of guided-diffusion's command line; the tensors do not tell these.
_DEFAULTS: dict[str, Any] = {
    "num_heads": 4,
    "num_head_channels": -1,
    "num_heads_upsample": -1,
    "use_new_attention_order": False,
    "diffusion_steps": 1000,
    "noise_schedule": "linear",
    "predict_xstart": False,
    "rescale_timesteps": False,
}
# The tensors tell these, or they matter in training or for OpenAI's own sampler only.
_TOLD_BY_TENSORS = frozenset(
    {
        *("num_channels", "num_res_blocks", "channel_mult", "attention_resolutions", "learn_sigma", "class_cond"),
        *("use_scale_shift_norm", "resblock_updown", "dropout", "use_checkpoint", "use_fp16", "use_kl"),
        *("rescale_learned_sigmas", "sigma_small", "timestep_respacing"),
    }
)


class _Part(NamedTuple):
    """A layer of OpenAI's and its counterpart in diffusers, both as prefixes of names."""

    openai: str
    diffusers: str
    kind: str


def load_openai(path: Path) -> Pretrained:
    """Load a UNet; a learned variance is dropped.

    Args:
        path: The ``.pt`` file.

    Raises:
        ValueError: If it is not such a UNet, its flags are unknown, or diffusers has no such architecture.
    """
    weights = load_weights(path, "UNet of OpenAI")
    require_finite(weights, path)
    flags = _flags(path)
    schedule = _schedule(flags, path)
    try:
        parts = list(_parts(weights))
        network = _build(weights, parts, flags)
        converted = _converted(weights, parts, flags, network)
        network.load_state_dict(converted)
    except (KeyError, IndexError, RuntimeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(
            f"{path} is not a UNet of improved- or guided-diffusion that diffusers can represent: {reason(error)}; "
            f"check the flags in {path.with_suffix('.json')}"
        ) from error
    prediction: PredictionType = "sample" if flags["predict_xstart"] else "epsilon"
    return frozen(without_variance(network), schedule, prediction)


def without_variance(network: Any) -> nn.Module:
    """Drop the second half of the output channels of a UNet of diffusers, its predicted variance."""
    config = network.config
    if config["out_channels"] == 2 * config["in_channels"]:
        head = network.conv_out
        for name in ("weight", "bias"):
            setattr(head, name, nn.Parameter(getattr(head, name).detach()[: config["in_channels"]].clone()))
        head.out_channels = config["in_channels"]
        network.register_to_config(out_channels=config["in_channels"])
    return network


def _flags(path: Path) -> dict[str, Any]:
    file = path.with_suffix(".json")
    if file.is_file():
        try:
            given = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{file} is not JSON: {error}; write OpenAI's flags as an object") from error
        if not isinstance(given, dict):
            raise ValueError(f"{file} must hold an object of OpenAI's flags, got {type(given).__name__}")
        unknown = given.keys() - _DEFAULTS.keys() - _TOLD_BY_TENSORS - {"image_size"}
        if unknown:
            raise ValueError(
                f"{file} has {', '.join(sorted(map(str, unknown)))}, not a flag of OpenAI's; expected some of "
                f"image_size, {', '.join(_DEFAULTS)}"
            )
    elif path.stem in _PUBLISHED:
        given = _PUBLISHED[path.stem]
    else:
        raise ValueError(
            f"{path} does not state its noise schedule and attention heads, and OpenAI published no file of its name; "
            f'write the flags it was trained with into {file}, for example {{"image_size": 256, '
            '"num_head_channels": 64, "diffusion_steps": 1000, "noise_schedule": "linear"}'
        )
    flags = _DEFAULTS | given
    if not isinstance(flags.get("image_size"), int) or flags["image_size"] < 1:
        raise ValueError(
            f"{file} must have image_size, the side of the images in pixels, got {flags.get('image_size')}"
        )
    for name, default in _DEFAULTS.items():
        if type(flags[name]) is not type(default):
            raise ValueError(f"{name} in {file} must be like {json.dumps(default)}, got {json.dumps(flags[name])}")
    return flags


def _schedule(flags: Mapping[str, Any], path: Path) -> NoiseSchedule:
    steps, kind = flags["diffusion_steps"], flags["noise_schedule"]
    if kind == "cosine":
        return CosineSchedule(steps)
    if kind != "linear":
        raise ValueError(f"noise_schedule of {path} must be linear or cosine, got {kind}")
    if steps < 21:
        raise ValueError(f"diffusion_steps of {path} must be at least 21 with a linear schedule, got {steps}")
    return LinearSchedule(steps, 0.1 / steps, 20 / steps)


def _parts(weights: Mapping[str, Tensor]) -> Iterator[_Part]:
    """Every layer, by the order in which OpenAI's constructor appends blocks."""
    yield from (_Part("time_embed.0", "time_embedding.linear_1", "plain"),)
    yield from (_Part("time_embed.2", "time_embedding.linear_2", "plain"),)
    if "label_emb.weight" in weights:
        yield _Part("label_emb", "class_embedding", "plain")
    yield _Part("input_blocks.0.0", "conv_in", "plain")
    levels, layers = _shape(weights)
    for level in range(levels):
        for i in range(layers + (level < levels - 1)):
            block = f"input_blocks.{1 + level * (layers + 1) + i}"
            if i < layers:
                yield from _residual(weights, block, f"down_blocks.{level}", i)
            else:
                yield _resampling(weights, f"{block}.0", f"down_blocks.{level}.downsamplers.0", "op")
    for i in (0, 1):
        yield _Part(f"middle_block.{2 * i}", f"mid_block.resnets.{i}", "residual")
    yield _Part("middle_block.1", "mid_block.attentions.0", "attention")
    for level in range(levels):
        for i in range(layers + 1):
            block = f"output_blocks.{level * (layers + 1) + i}"
            yield from _residual(weights, block, f"up_blocks.{level}", i)
            if level < levels - 1 and i == layers:
                child = 1 + (f"{block}.1.qkv.weight" in weights)
                yield _resampling(weights, f"{block}.{child}", f"up_blocks.{level}.upsamplers.0", "conv")
    yield from (_Part("out.0", "conv_norm_out", "plain"), _Part("out.2", "conv_out", "plain"))


def _shape(weights: Mapping[str, Tensor]) -> tuple[int, int]:
    """Number of levels and of residual blocks per level on the way down."""
    blocks = {int(name.split(".")[1]) for name in weights if name.startswith("output_blocks.")}
    if not blocks:
        raise ValueError("it has no output_blocks")

    def ends_level(block: int) -> bool:
        last = 1 + (f"output_blocks.{block}.1.qkv.weight" in weights)
        return any(f"output_blocks.{block}.{last}.{name}.weight" in weights for name in ("conv", "in_layers.0"))

    layers = next((block for block in sorted(blocks) if ends_level(block)), max(blocks))
    if layers < 1 or len(blocks) % (layers + 1):
        raise ValueError(f"its {len(blocks)} output_blocks are not levels of equally many")
    return len(blocks) // (layers + 1), layers


def _residual(weights: Mapping[str, Tensor], block: str, target: str, index: int) -> Iterator[_Part]:
    yield _Part(f"{block}.0", f"{target}.resnets.{index}", "residual")
    if f"{block}.1.qkv.weight" in weights:
        yield _Part(f"{block}.1", f"{target}.attentions.{index}", "attention")


def _resampling(weights: Mapping[str, Tensor], block: str, target: str, convolution: str) -> _Part:
    if f"{block}.{convolution}.weight" in weights:
        return _Part(f"{block}.{convolution}", f"{target}.conv", "plain")
    return _Part(block, target, "residual")


def _build(weights: Mapping[str, Tensor], parts: list[_Part], flags: Mapping[str, Any]) -> Any:
    levels, layers = _shape(weights)
    targets = {part.diffusers: part for part in parts}
    widths = [
        weights[f"{targets[f'down_blocks.{i}.resnets.0'].openai}.out_layers.3.weight"].shape[0] for i in range(levels)
    ]
    attends = [f"down_blocks.{i}.attentions.0" in targets for i in range(levels)]
    by_residual = any(
        part.kind == "residual" and part.diffusers.endswith((".downsamplers.0", ".upsamplers.0")) for part in parts
    )
    plain = "Resnet{}sampleBlock2D" if by_residual else "{}Block2D"
    config: dict[str, Any] = {
        "sample_size": flags["image_size"],
        "in_channels": weights["input_blocks.0.0.weight"].shape[1],
        "out_channels": weights["out.2.weight"].shape[0],
        "block_out_channels": widths,
        "layers_per_block": layers,
        "down_block_types": ["AttnDownBlock2D" if a else plain.format("Down") for a in attends],
        "up_block_types": ["AttnUpBlock2D" if a else plain.format("Up") for a in reversed(attends)],
        "downsample_type": "resnet" if by_residual else "conv",
        "upsample_type": "resnet" if by_residual else "conv",
        "resnet_time_scale_shift": _time_injection(weights),
        "attn_norm_num_groups": 32,
        "num_class_embeds": weights["label_emb.weight"].shape[0] if "label_emb.weight" in weights else None,
    }
    beyond: dict[str, Any] = {}
    if flags["num_heads_upsample"] not in (-1, flags["num_heads"]):
        raise ValueError("num_heads_upsample differs from num_heads")
    attended = {width for width, a in zip(widths, attends, strict=True) if a} | {widths[-1]}
    if flags["num_head_channels"] != -1:
        config["attention_head_dim"] = flags["num_head_channels"]
    elif len(attended) == 1:
        config["attention_head_dim"] = attended.pop() // flags["num_heads"]
    else:
        config["attention_head_dim"] = None
        beyond["num_heads"] = flags["num_heads"]
    if flags["rescale_timesteps"] and flags["diffusion_steps"] != 1000:
        beyond["timestep_scale"] = 1000 / flags["diffusion_steps"]
    if (channels := weights["time_embed.0.weight"].shape[1]) != widths[0]:
        beyond["model_channels"] = channels
    return OpenAIUNet(**beyond, **config) if beyond else UNet2DModel(**config)


def _time_injection(weights: Mapping[str, Tensor]) -> str:
    width = weights["middle_block.0.out_layers.3.weight"].shape[0]
    return "scale_shift" if weights["middle_block.0.emb_layers.1.weight"].shape[0] == 2 * width else "default"


_RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}


def _converted(
    weights: Mapping[str, Tensor], parts: list[_Part], flags: Mapping[str, Any], network: Any
) -> dict[str, Tensor]:
    """The weights under diffusers' names, every one used once.

    Raises:
        KeyError: Names one that is missing, as OpenAI does.
        ValueError: If some were not used.
    """
    left = {name: value.float() for name, value in weights.items()}
    made: dict[str, Tensor] = {}
    expected = network.state_dict().keys()

    def move(source: str, target: str) -> None:
        for name in ("weight", "bias"):
            if f"{target}.{name}" in expected:
                made[f"{target}.{name}"] = left.pop(f"{source}.{name}")

    for part in parts:
        if part.kind == "plain":
            move(part.openai, part.diffusers)
        elif part.kind == "residual":
            for source, target in _RESIDUAL.items():
                move(f"{part.openai}.{source}", f"{part.diffusers}.{target}")
        elif f"{part.diffusers}.to_q.weight" in expected:
            move(f"{part.openai}.norm", f"{part.diffusers}.group_norm")
            attention = network.get_submodule(part.diffusers)
            for name in ("weight", "bias"):
                joint = left.pop(f"{part.openai}.qkv.{name}")
                split = _queries_keys_values(joint, attention.heads, flags["use_new_attention_order"])
                made |= {f"{part.diffusers}.to_{key}.{name}": value for key, value in zip("qkv", split, strict=True)}
                output = left.pop(f"{part.openai}.proj_out.{name}")
                made[f"{part.diffusers}.to_out.0.{name}"] = output.flatten(1) if output.ndim > 1 else output
    if left:
        raise ValueError(f"nothing corresponds to its {', '.join(sorted(left)[:3])}")
    return made


def _queries_keys_values(joint: Tensor, heads: int, together: bool) -> tuple[Tensor, ...]:
    """Split ``[3 C, C, 1]`` or ``[3 C]``, ordered as (q, k, v) x heads if ``together``, else as heads x (q, k, v)."""
    joint = joint.flatten(1) if joint.ndim > 1 else joint
    if joint.shape[0] % (3 * heads):
        raise ValueError(f"attention of width {joint.shape[0] // 3} has no {heads} heads of equal width")
    if together:
        return joint.chunk(3)
    parts = joint.unflatten(0, (heads, 3, -1))
    return tuple(parts[:, i].flatten(0, 1) for i in range(3))
