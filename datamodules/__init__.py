"""Data modules: every source yields the same ``Batch``."""

from tag_lightning.datamodules.audio import AudioDataModule
from tag_lightning.datamodules.audio_folder import AudioFolderDataModule
from tag_lightning.datamodules.batch import Batch
from tag_lightning.datamodules.cifar10 import CIFAR10DataModule
from tag_lightning.datamodules.digits import DigitsDataModule
from tag_lightning.datamodules.generated import GeneratedDataModule
from tag_lightning.datamodules.guided_trajectories import GuidedTrajectoriesDataModule
from tag_lightning.datamodules.image_folder import ImageFolderDataModule
from tag_lightning.datamodules.image_statistics import ImageStatisticsDataModule
from tag_lightning.datamodules.images import ImageDataModule
from tag_lightning.datamodules.latents import LatentDataModule
from tag_lightning.datamodules.mixture import MixtureDataModule
from tag_lightning.datamodules.molecule_files import MoleculeFilesDataModule
from tag_lightning.datamodules.molecule_statistics import MoleculeStatisticsDataModule
from tag_lightning.datamodules.molecules import MoleculeDataModule
from tag_lightning.datamodules.qm9 import QM9DataModule
from tag_lightning.datamodules.small_molecules import SmallMoleculesDataModule
from tag_lightning.datamodules.synthetic_audio import SyntheticAudioDataModule

__all__ = [
    "AudioDataModule",
    "AudioFolderDataModule",
    "Batch",
    "CIFAR10DataModule",
    "DigitsDataModule",
    "GeneratedDataModule",
    "GuidedTrajectoriesDataModule",
    "ImageDataModule",
    "ImageFolderDataModule",
    "ImageStatisticsDataModule",
    "LatentDataModule",
    "MixtureDataModule",
    "MoleculeDataModule",
    "MoleculeFilesDataModule",
    "MoleculeStatisticsDataModule",
    "QM9DataModule",
    "SmallMoleculesDataModule",
    "SyntheticAudioDataModule",
]
