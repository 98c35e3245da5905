"""Data: every source yields the same ``Batch``. Nothing here knows of diffusion."""

from datamodules.batch import Batch
from datamodules.images import CIFAR10DataModule, DigitsDataModule, ImageDataModule, ImageFolderDataModule

__all__ = ["Batch", "CIFAR10DataModule", "DigitsDataModule", "ImageDataModule", "ImageFolderDataModule"]
