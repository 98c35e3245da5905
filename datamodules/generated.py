"""Images that a denoiser generates: training data for a model whose own are out of reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tag_lightning.content_digest import content_key
from tag_lightning.datamodules.base import Split
from tag_lightning.datamodules.images import ImageDataModule
from tag_lightning.datamodules.tables import ImageTable, select
from tag_lightning.diffusion import DDIM, Denoiser, ImageSpace, Sampler
from tag_lightning.files import replacing
from tag_lightning.pretrained import load_pretrained
from tag_lightning.progress import tracked

_REMEDY = "choose another folder with data.init_args.cache"
_BOUNDS = {"train": (0.0, 0.8), "val": (0.8, 0.9), "test": (0.9, 1.0)}


class GeneratedDataModule(ImageDataModule):
    """Unguided samples of a denoiser of images, for time predictors of models whose training data are not at hand.

    The images are drawn once, in chunks that are kept as they are finished, so that drawing goes on where it was
    interrupted. They depend on the denoiser's weights, ``sampling_seed`` and the settings of the sampler alone. The
    splits hold 80 / 10 / 10 % of them.

    Args:
        denoiser: A shipped network's name, a folder, or a checkpoint.
        num_images: Images drawn, at least 20.
        num_steps: Reverse steps of DDIM.
        eta: Noise of DDIM, in [0, 1].
        sampling_seed: Seed of the images.
        shape: ``[C, H, W]`` of an image; None asks the network's configuration (``in_channels``, ``sample_size``).
        classifier: Labels the images: a shipped network's name, a folder, or a checkpoint. Its most likely class is the
            attribute ``label``. None leaves them without attributes.
        chunk_size: Images drawn at once.
        cache: Folder of the drawn images.
        accelerator: Device that draws, ``cpu`` or ``cuda``; None takes a GPU if there is one.
        **kwargs: Arguments of ``ImageDataModule``.

    Raises:
        ValueError: If a number is out of range, the network is not a denoiser, or its shape is not known.
    """

    def __init__(
        self,
        denoiser: str,
        num_images: int = 10_000,
        num_steps: int = 50,
        eta: float = 1.0,
        sampling_seed: int = 0,
        shape: list[int] | None = None,
        classifier: str | None = None,
        chunk_size: int = 256,
        cache: str = "data/generated",
        accelerator: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, value, least in (("num_images", num_images, 20), ("chunk_size", chunk_size, 1)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}; set data.init_args.{name}")
        self.denoiser = denoiser
        self.num_images = num_images
        self.num_steps = num_steps
        self.solver = DDIM(eta)
        self.sampling_seed = sampling_seed
        self.shape = None if shape is None else tuple(shape)
        self.classifier = classifier
        self.chunk_size = chunk_size
        self.cache = Path(cache)
        self.device = torch.device(accelerator or ("cuda" if torch.cuda.is_available() else "cpu"))

    def prepare_data(self) -> None:
        """Draw the images that are not in the cache yet."""
        self._chunks()

    def load(self, split: Split) -> ImageTable:
        chunks = self._chunks()
        images = torch.cat([chunk["images"] for chunk in chunks])
        attributes = {}
        self.num_classes = {}
        if self.classifier is not None:
            labels = torch.cat([chunk["labels"] for chunk in chunks])
            attributes["label"], self.num_classes["label"] = labels, self._num_labels
        first, last = (round(len(images) * share) for share in _BOUNDS[split])
        return select(ImageTable(images, attributes), torch.arange(first, last))

    def _chunks(self) -> list[dict[str, Tensor]]:
        denoiser, shape = self._sampled_network()
        classifier = None if self.classifier is None else load_pretrained(self.classifier).network
        self._num_labels = int(getattr(classifier, "num_classes", 0))
        read_as = f"{denoiser.prediction_type} {denoiser.clip_range}"
        settings = f"{self.num_steps} {self.solver.eta} {self.sampling_seed} {shape} {read_as}"
        key = content_key(settings, *_weights(denoiser), *([] if classifier is None else _weights(classifier)))
        sampler = Sampler(denoiser.to(self.device), self.solver, self.num_steps)
        starts = range(0, self.num_images, self.chunk_size)
        found = {start: self._read(start, key) for start in starts}
        missing = [start for start in starts if found[start] is None]
        for start in tracked(missing, f"drawing {self.num_images} images", "chunk", visible=bool(missing)):
            indices = range(start, min(start + self.chunk_size, self.num_images))
            x = sampler.sample(ImageSpace(shape, indices, self.device), self.sampling_seed).cpu()
            chunk = {"images": ((x + 1) * 127.5).round().byte()}
            if classifier is not None:
                with torch.no_grad():
                    chunk["labels"] = classifier.eval()(chunk["images"] / 127.5 - 1).argmax(1)
            with replacing(self._path(start, key), _REMEDY) as temporary:
                save_file(chunk, temporary)
            found[start] = chunk
        return [chunk for chunk in found.values() if chunk is not None]

    def _sampled_network(self) -> tuple[Denoiser, tuple[int, ...]]:
        network, schedule, prediction_type, clip_range = load_pretrained(self.denoiser)
        if schedule is None:
            raise ValueError(f"denoiser {self.denoiser} has no noise schedule: it is not a denoiser of this package")
        config: Any = getattr(network, "config", {})
        size = config.get("sample_size")
        sides = (size, size) if isinstance(size, int) else tuple(size or ())
        shape: tuple[int, ...] = self.shape or (config.get("in_channels"), *sides)
        if len(shape) != 3 or not all(shape):
            raise ValueError(
                f"the shape of the images of {self.denoiser} is not known; set data.init_args.shape to [C, H, W]"
            )
        return Denoiser(network, schedule, prediction_type, clip_range), shape

    def _path(self, start: int, key: str) -> Path:
        stop = min(start + self.chunk_size, self.num_images)
        return self.cache / key[:16] / f"{start:08d}-{stop:08d}.safetensors"

    def _read(self, start: int, key: str) -> dict[str, Tensor] | None:
        try:
            with safe_open(self._path(start, key), "pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return None


def _weights(network: torch.nn.Module) -> list[bytes]:
    return [value.detach().cpu().contiguous().numpy().tobytes() for value in network.state_dict().values()]
