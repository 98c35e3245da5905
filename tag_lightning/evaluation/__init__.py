"""The comparison of several ways of sampling, without Lightning."""

from tag_lightning.evaluation.arm_result import ArmResult, FailedArm, FailedArmError
from tag_lightning.evaluation.arm_sampler import ArmSampler
from tag_lightning.evaluation.arms import Arm, default_arms
from tag_lightning.evaluation.audio_task import AudioRestorationTask
from tag_lightning.evaluation.chunk_store import ChunkStore
from tag_lightning.evaluation.comparison import compare
from tag_lightning.evaluation.frontier import Frontier
from tag_lightning.evaluation.image_targets import ClassTarget, ImageTarget, QuantityTarget
from tag_lightning.evaluation.image_task import ImageTask
from tag_lightning.evaluation.molecule_task import MoleculeTask
from tag_lightning.evaluation.restoration_task import RestorationTask
from tag_lightning.evaluation.results import Results
from tag_lightning.evaluation.sweep import expanded
from tag_lightning.evaluation.task import SamplingTask
from tag_lightning.evaluation.vector_task import VectorTask

__all__ = [
    "Arm",
    "ArmResult",
    "ArmSampler",
    "AudioRestorationTask",
    "ChunkStore",
    "ClassTarget",
    "FailedArm",
    "FailedArmError",
    "Frontier",
    "ImageTarget",
    "ImageTask",
    "MoleculeTask",
    "QuantityTarget",
    "RestorationTask",
    "Results",
    "SamplingTask",
    "VectorTask",
    "compare",
    "default_arms",
    "expanded",
]
