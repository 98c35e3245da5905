"""Lightning callbacks: guided sampling at validation, averaged weights, clipping, progress, the record of a run."""

from tag_lightning.callbacks.adaptive_clipping import AdaptiveGradientClipping
from tag_lightning.callbacks.compiled_training import CompiledTraining
from tag_lightning.callbacks.ema import WarmedUpEMA
from tag_lightning.callbacks.guided_sampling import GuidedSampling
from tag_lightning.callbacks.pretrained_export import PretrainedExport
from tag_lightning.callbacks.progress import PlainProgress, progress_bars

__all__ = [
    "AdaptiveGradientClipping",
    "CompiledTraining",
    "GuidedSampling",
    "PlainProgress",
    "PretrainedExport",
    "WarmedUpEMA",
    "progress_bars",
]
