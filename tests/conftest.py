"""What tests of several folders run on."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_runs import TinyNetworks, predictor_arguments, write_networks

from tag_lightning.cli import main


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyNetworks:
    """A denoiser, a time predictor, a guide and a judge."""
    return write_networks(tmp_path_factory.mktemp("networks"))


@pytest.fixture(scope="session")
def trained(tiny: TinyNetworks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished ``fit`` of a time predictor, only to be read."""
    run = tmp_path_factory.mktemp("runs") / "trained"
    main(predictor_arguments("fit", run, tiny))
    return run


def pytest_configure(config: pytest.Config) -> None:
    # Lightning warns of arguments handed over in Python while pytest has its own.
    config.addinivalue_line("filterwarnings", "ignore:LightningCLI's args parameter")
