"""Small networks on a frozen one: saved without it, and found on no other."""

from __future__ import annotations

from typing import Any

from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from tag_lightning.content_digest import content_key

_FROZEN = "frozen."


class OnFrozenBase(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' own two bases disagree
    """A network that adds parameters of its own to a frozen one, its base.

    The base stays in evaluation mode and out of every state dict. A subclass has ``base``, under which
    ``load_pretrained`` finds the base, and ``base_digest`` of its weights among its settings.

    Args:
        frozen: The base, with any weights until ``attach`` is called.
    """

    frozen: Any

    def __init__(self, frozen: nn.Module) -> None:
        super().__init__()
        self.frozen = frozen.requires_grad_(False).eval()
        self.register_state_dict_post_hook(_without_base)
        self.register_load_state_dict_pre_hook(_with_base)

    def train(self, mode: bool = True) -> OnFrozenBase:
        """As ``nn.Module``, but for the base."""
        super().train(mode)
        self.frozen.eval()
        return self

    @property
    def base_source(self) -> str:
        """The name under which ``load_pretrained`` finds the base."""
        config: Any = self.config
        return str(config.base)

    def attach(self, base: nn.Module) -> None:
        """Take the weights of the base that the own parameters were made for.

        Raises:
            ValueError: If it is another one.
        """
        config: Any = self.config
        if weights_digest(base) != config.base_digest:
            own, kind = type(self).__name__, type(self.frozen).__name__
            raise ValueError(
                f"the {own} was trained on another {kind} than {config.base} is now; put the former back, or train "
                "on this one again"
            )
        self.frozen.load_state_dict(base.state_dict())


def public_config(network: nn.Module) -> dict[str, Any]:
    """The settings of a network of diffusers' kind."""
    config: Any = network.config
    return {name: value for name, value in dict(config).items() if not name.startswith("_")}


def weights_digest(network: nn.Module) -> str:
    """The digest of a network's weights and their names, 64 hexadecimal digits."""
    parts: list[str | bytes] = []
    for name, value in network.state_dict().items():
        parts += [name, value.detach().cpu().contiguous().numpy().tobytes()]
    return content_key(*parts)


def zero(layer: nn.Module) -> Any:
    """The layer with all parameters at zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _without_base(module: nn.Module, state_dict: dict[str, Any], prefix: str, metadata: Any) -> None:
    for name in [name for name in state_dict if name.startswith(prefix + _FROZEN)]:
        del state_dict[name]


def _with_base(module: Any, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
    for name, value in module.frozen.state_dict().items():
        state_dict.setdefault(prefix + _FROZEN + name, value)
