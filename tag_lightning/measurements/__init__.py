"""Measurements of images: linear operators with noise, one per file, for restoration."""

from tag_lightning.measurements.gaussian_blur import GaussianBlur
from tag_lightning.measurements.inpainting import Inpainting
from tag_lightning.measurements.measurement import Measurement
from tag_lightning.measurements.super_resolution import SuperResolution

__all__ = ["GaussianBlur", "Inpainting", "Measurement", "SuperResolution"]
