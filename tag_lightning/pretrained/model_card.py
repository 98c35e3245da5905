"""The card of an exported network: where it comes from and what was measured."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from tag_lightning.diffusion import NoiseSchedule

_POINTS = 10


def model_card(
    network: nn.Module, schedule: NoiseSchedule | None, figures: Mapping[str, float], data: str, command: str
) -> str:
    """Markdown with the header that the Hugging Face Hub reads.

    Args:
        network: The network; a time predictor's typical NLL is listed.
        schedule: Noise schedule of its training.
        figures: Figures of the last validation, by their names in the logs, as in ``val/time_gap``.
        data: The data that it was trained on.
        command: The command that made it.
    """
    kind, count = type(network).__name__, sum(p.numel() for p in network.parameters())
    lines = ["---", "library_name: tag_lightning", "tags: [diffusion, tag_lightning]", "---", "", f"# {kind}", ""]
    lines += [f"{count:,} parameters. Trained on {data} by", "", "```", command, "```", ""]
    if schedule is not None:
        first, last = (float(schedule.alphas_cumprod[i]) for i in (0, -1))
        lines += [f"T = {schedule.num_timesteps} timesteps, `alphas_cumprod` from {first:.6g} to {last:.3g}.", ""]
    own = {name.removeprefix("val/"): value for name, value in figures.items() if name.startswith("val/")}
    gaps = {name: value for name, value in own.items() if name.startswith("time_gap_tenth_")}
    plain = {name: value for name, value in own.items() if name not in gaps}
    if plain:
        lines += _table("The last validation", ("figure", "value"), [(n, f"{v:.4g}") for n, v in sorted(plain.items())])
    if gaps:
        rows = [(f"{10 * i} to {10 * i + 10} %", f"{gaps[f'time_gap_tenth_{i}']:.4g}") for i in _tenths(gaps)]
        lines += _table("Time-Gap on forward-noised data, by the timestep", ("part of 0 .. T-1", "timesteps"), rows)
    typical = getattr(network, "typical_nll", None)
    if typical is not None and bool(typical.isfinite().any()):
        chosen = torch.linspace(0, len(typical) - 1, min(_POINTS, len(typical))).round().long().tolist()
        rows = [(str(t), f"{float(typical[t]):.4g}") for t in chosen]
        lines += _table("Typical NLL H[t] of forward-noised data, nats", ("timestep t", "H[t]"), rows)
    lines += ['Load it by `tag_lightning.load_pretrained("<this folder>")`, or `hf://owner/name` from the Hub.', ""]
    return "\n".join(lines)


def _tenths(gaps: Mapping[str, float]) -> list[int]:
    return sorted(int(name.rpartition("_")[2]) for name in gaps)


def _table(title: str, head: tuple[str, str], rows: list[tuple[str, str]]) -> list[str]:
    return [f"## {title}", "", f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows), ""]
