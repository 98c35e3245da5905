"""Public models: folders of the Hugging Face Hub, and help if a third-party file is missing."""

from __future__ import annotations

from pathlib import Path

HUB_PREFIX = "hf://"
_PATTERNS = ["*.json", "*.safetensors", "*.bin"]  # never a repository's Python files
_GUIDED = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021"
_IMPROVED = "https://openaipublic.blob.core.windows.net/diffusion/march-2021"
_EDM = "https://github.com/ehoogeboom/e3_diffusion_for_molecules"
_GUIDED_NAMES = ("64x64_diffusion", "128x128_diffusion", "256x256_diffusion", "256x256_diffusion_uncond")


def hub_folder(source: str) -> Path:
    """The local copy of a model of the Hub, downloaded if it is not yet in the cache of ``huggingface_hub``.

    Args:
        source: ``hf://owner/name``, or ``hf://owner/name@revision``.

    Raises:
        FileNotFoundError: If it cannot be reached; says what to download and where to put it.
        ValueError: If the name has another form.
    """
    from huggingface_hub import snapshot_download  # imported for its users only

    name, _, revision = source.removeprefix(HUB_PREFIX).partition("@")
    if name.count("/") != 1 or not all(name.split("/")):
        raise ValueError(f"{source} must be {HUB_PREFIX}owner/name or {HUB_PREFIX}owner/name@revision")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=_PATTERNS))
    except Exception as error:  # of requests, of the Hub or of the file system: to the user they are the same
        raise FileNotFoundError(
            f"cannot get {source} ({type(error).__name__}); download https://huggingface.co/{name} on a machine with a "
            f"network (hf download {name} --local-dir models/{name.split('/')[1]}), copy the folder here and give its "
            "path instead"
        ) from error


def push_to_hub(folder: str | Path, name: str, private: bool | None = None, token: str | None = None) -> str:
    """Upload an exported folder with its schedule and card, which the ``push_to_hub`` of diffusers' models leaves out.

    Args:
        folder: As ``fit`` exports it, or ``save_pretrained`` writes it.
        name: ``owner/name`` on the Hub, made if it does not exist; ``hf://owner/name`` loads it.
        private: Make it private; None takes the owner's default.
        token: Access token; None takes the one of ``hf auth login``.

    Returns:
        Address of the commit.

    Raises:
        FileNotFoundError: If the folder has no network.
    """
    from huggingface_hub import create_repo, upload_folder  # imported for its users only

    if not (Path(folder) / "config.json").is_file():
        raise FileNotFoundError(f"no network in {folder}: expected a folder with config.json, as fit exports it")
    created = create_repo(name, private=private, token=token, exist_ok=True)
    return str(upload_folder(repo_id=created.repo_id, folder_path=folder, token=token))


def remedy(source: str | Path) -> str:
    """Where to get a missing file or folder of a public model that ``source`` is called like; empty if it is not."""
    path = Path(source)
    if path.suffix == ".pt":
        place = _GUIDED if path.stem in _GUIDED_NAMES or path.stem.startswith("lsun_") else _IMPROVED
        return f"; if it is one of OpenAI's, download {place}/{path.name} to {path}"
    if path.name.startswith(("edm_", "exp_")):
        return f"; if it is EDM's, copy the folder outputs/{path.name} of {_EDM} to {path}"
    return ""
