"""Measurements of images and waveforms: operators with noise, for restoration."""

from tag_lightning.measurements.clipping import Clipping
from tag_lightning.measurements.gaussian_blur import GaussianBlur
from tag_lightning.measurements.inpainting import Inpainting, MissingIntervals
from tag_lightning.measurements.measurement import Measurement
from tag_lightning.measurements.super_resolution import SuperResolution

__all__ = ["Clipping", "GaussianBlur", "Inpainting", "Measurement", "MissingIntervals", "SuperResolution"]
