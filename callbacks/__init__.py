"""Lightning callbacks: guided sampling at validation, what it writes, and the habits of a run."""

from tag_lightning.callbacks.adaptive_clipping import AdaptiveGradientClipping
from tag_lightning.callbacks.arms import Arm, default_arms
from tag_lightning.callbacks.ema import WarmedUpEMA
from tag_lightning.callbacks.guided_sampling import GuidedSampling
from tag_lightning.callbacks.progress import PlainProgress, progress_bars
from tag_lightning.callbacks.save_pretrained import SavePretrained

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
