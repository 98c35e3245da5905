"""Data: every source yields the same ``Batch``. Nothing here knows of diffusion."""

from datamodules.batch import Batch
from datamodules.cifar10 import CIFAR10DataModule
from datamodules.digits import DigitsDataModule
from datamodules.image_folder import ImageFolderDataModule
from datamodules.images import ImageDataModule
from datamodules.mixture import MixtureDataModule
from datamodules.molecule_files import MoleculeFilesDataModule
from datamodules.molecules import MoleculeDataModule
from datamodules.qm9 import QM9DataModule
from datamodules.small_molecules import SmallMoleculesDataModule

__all__ = [
    "Batch",
    "CIFAR10DataModule",
    "DigitsDataModule",
    "ImageDataModule",
    "ImageFolderDataModule",
    "MixtureDataModule",
    "MoleculeDataModule",
    "MoleculeFilesDataModule",
    "QM9DataModule",
    "SmallMoleculesDataModule",
]
