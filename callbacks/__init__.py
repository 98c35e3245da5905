"""Lightning callbacks: guided sampling at validation, what it writes, and the habits of a run."""

from callbacks.adaptive_clipping import AdaptiveGradientClipping
from callbacks.arms import Arm, default_arms
from callbacks.ema import WarmedUpEMA
from callbacks.guided_sampling import GuidedSampling
from callbacks.progress import PlainProgress, progress_bars
from callbacks.save_pretrained import SavePretrained

__all__ = [
    "AdaptiveGradientClipping",
    "Arm",
    "GuidedSampling",
    "PlainProgress",
    "SavePretrained",
    "WarmedUpEMA",
    "default_arms",
    "progress_bars",
]
