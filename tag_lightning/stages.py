"""All stages of an experiment in turn: ``python -m tag_lightning stages --config my_images --data.root photos``."""

from __future__ import annotations

import argparse
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from tag_lightning.config_files import config_content, config_file, merged_with_bases, shipped_configs
from tag_lightning.files import replacing
from tag_lightning.interruption import interruption

_ORDER = ("autoencoder", "guide", "judge", "denoiser", "time_gap_predictor", "noise_level", "time_predictor")
_OPTIONAL = ("noise_level",)
_COMPARED = "time_predictor"  # the stage that compares the arms
# Where the configuration of a stage names the network that another stage trained.
_ROLES = {
    "autoencoder": ("data", "init_args", "autoencoder"),
    "guide": ("sampling", "task", "init_args", "guide"),
    "judge": ("sampling", "task", "init_args", "judge"),
    "denoiser": ("sampling", "denoiser"),
    "time_gap_predictor": ("sampling", "time_gap_predictor"),
    "noise_level": ("sampling", "noise_level"),
}
_REFUSED = {
    "trainer.default_root_dir": "give --out, the folder of all stages",
    "trainer.fast_dev_run": "it leaves no networks for the next stages; try --trainer.max_steps 10",
    "ckpt_path": "a stage that was interrupted goes on by itself; --denoiser.ckpt_path is one stage's alone",
}
_OWN = ("c", "config", "out", "only", "h", "help")
_RECORD = "stage.yaml"
_COMMAND = (sys.executable, "-m", "tag_lightning")
_DESCRIPTION = (
    "Fits every stage of an experiment, one process after another: autoencoder, guide, judge, denoiser, and the "
    "predictors that measure and correct; the last stage compares the arms, which are the ways of sampling. Finished "
    "stages are skipped, and an interrupted one resumes. All other options are those of fit and apply to every stage; "
    "--denoiser.trainer.max_steps 1000 applies to the denoiser only."
)


class Experiment:
    """The stages of one folder of configurations, trained into one folder of runs.

    Args:
        source: A folder with one configuration per stage, or a shipped one's name, such as ``my_images``.
        out: Folder of the runs, one subfolder per stage.
        layers: Configurations over each stage's own. ``sampling`` applies to the stages that sample; a key with a
            stage's name holds what applies to that stage alone.
        options: Options of ``fit`` by name, each with its words on the command line, such as
            ``("data.root", ["--data.root", "photos"])`` or ``("guide.model.noise", ["--guide.model.noise=0.2"])``.
        only: Names of the stages; None is all, ``noise_level`` if another stage names its network.

    Raises:
        ValueError: If the folder, a stage or the base does not exist, or an option cannot apply to several stages.
    """

    def __init__(
        self,
        source: str,
        out: Path | None,
        layers: Sequence[str],
        options: Sequence[tuple[str, list[str]]],
        only: Sequence[str] | None,
    ) -> None:
        folder = _folder(source)
        self.files = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
        self._settings = {name: merged_with_bases(path) for name, path in self.files.items()}
        self.out = out or Path("runs") / folder.name
        known = [name for name in _ORDER if name in self.files]
        chosen = [name for name in known if name not in _OPTIONAL or self._is_named(name)] if only is None else only
        if missing := [name for name in chosen if name not in self.files]:
            raise ValueError(f"{folder} has no stage {missing[0]}; its configurations are {', '.join(self.files)}")
        self.stages = sorted(set(chosen), key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))
        if not self.stages:
            raise ValueError(f"{folder} has no stages; expected {', '.join(known or _ORDER)} (.yaml)")
        self.layers = [config_content(config_file(layer)) for layer in layers]
        self.options = options
        self._require_possible()

    def _require_possible(self) -> None:
        for name, _ in self.options:
            stage = name.partition(".")[0]
            if name in _REFUSED:
                raise ValueError(f"--{name} cannot apply to all stages: {_REFUSED[name]}")
            if stage in self.files and stage not in self.stages:
                raise ValueError(f"--{name}: {stage} is not among the stages {', '.join(self.stages)}; see --only")

    def run_folder(self, stage: str) -> Path:
        """Folder of a stage's run."""
        return self.out / stage

    def is_finished(self, stage: str) -> bool:
        """Return whether a stage has left its trained network."""
        return (self.run_folder(stage) / "pretrained" / "config.json").is_file()

    def arguments(self, stage: str) -> list[str]:
        """The command line that fits a stage, from the verb on."""
        layers = [self._links(stage), *(part for layer in self.layers for part in self._parts(layer, stage))]
        return [
            "fit",
            f"--config={self.files[stage]}",
            *(f"--config={_flow(layer)}" for layer in layers if layer),
            *(word for option in self.options for word in self._words(option, stage)),
            f"--trainer.default_root_dir={self.run_folder(stage)}",
        ]

    def _names(self, stage: str, role: str) -> bool:
        """Return whether the configuration of ``stage`` names a network in the place of ``role``."""
        place: Any = self._settings[stage]
        for key in _ROLES[role]:
            place = place.get(key) if isinstance(place, dict) else None
        return isinstance(place, str)

    def _is_named(self, role: str) -> bool:
        return any(self._names(stage, role) for stage in self.files if stage in _ORDER)

    def _links(self, stage: str) -> dict[str, Any]:
        """The networks of the other stages, in the places where this one names any."""
        linked: dict[str, Any] = {}
        for role, (*parents, last) in _ROLES.items():
            if self._names(stage, role) and role != stage and (role in self.stages or self.is_finished(role)):
                inner = linked
                for key in parents:
                    inner = inner.setdefault(key, {})
                inner[last] = str(self.run_folder(role) / "pretrained")
        return linked

    def _parts(self, layer: Mapping[str, Any], stage: str) -> list[dict[str, Any]]:
        """The parts of a layer that apply to a stage: the one for all stages, then its own."""
        spared = {"base", *self.files} | (set() if "sampling" in self._settings[stage] else {"sampling"})
        return [{key: value for key, value in layer.items() if key not in spared}, layer.get(stage) or {}]

    def _words(self, option: tuple[str, list[str]], stage: str) -> list[str]:
        name, (first, *values) = option
        owner, _, rest = name.partition(".")
        if owner in self.files:
            return [first.replace(f"--{owner}.", "--", 1), *values] if owner == stage and rest else []
        return [] if owner == "sampling" and "sampling" not in self._settings[stage] else [first, *values]

    def fit(self, stage: str) -> int:
        """Fit a stage, from its last checkpoint if it was interrupted; the exit code."""
        arguments, folder = self.arguments(stage), self.run_folder(stage)
        begun = (folder / "checkpoints" / "last.ckpt").is_file()
        code = _run([*arguments, "--ckpt_path=last"] if begun else arguments)
        if code == 0:
            with replacing(folder / _RECORD) as temporary:
                temporary.write_text(yaml.safe_dump(self._record(stage)), encoding="utf-8")
        return code

    def changes(self, stage: str) -> list[str]:
        """The present arguments, and the configuration if it was edited, that a finished stage was fitted without."""
        path = self.run_folder(stage) / _RECORD
        if not path.is_file():  # fitted by `fit` itself
            return []
        before, now = config_content(path)["configuration"], self._record(stage)["configuration"]
        taken = self._is_uncompared(stage)  # by the comparison that is still to come
        new = [shlex.join(words) for words in self._new_words(stage) if not (taken and _is_of_sampling(words))]
        return new if before == now else [f"today's {self.files[stage]}", *new]

    def _new_words(self, stage: str) -> list[list[str]]:
        """The present arguments, each with its words, that a finished stage was fitted without."""
        path = self.run_folder(stage) / _RECORD
        if not path.is_file():
            return []
        known = [words for _, words in _grouped(config_content(path)["arguments"])]
        return [words for _, words in _grouped(self._record(stage)["arguments"]) if words not in known]

    def _record(self, stage: str) -> dict[str, Any]:
        # Without the verb and the file, whose place does not matter.
        return {"configuration": self._settings[stage], "arguments": self.arguments(stage)[2:]}

    def compare(self, stage: str) -> int:
        """Draw the samples of a stage whose ``fit`` ended without them, with today's options; the exit code."""
        if not self._is_uncompared(stage):
            return 0
        folder = self.run_folder(stage)
        new = [word for words in self._new_words(stage) if _is_of_sampling(words) for word in words]
        settings = f", with {shlex.join(new)}" if new else ""
        print(f"Comparing the arms, since the training ended before it did{settings}", flush=True)
        last = (folder / "checkpoints" / "last.ckpt").is_file()
        source = "last" if last else folder / "pretrained"
        return _run(["validate", f"--config={folder / 'config.yaml'}", f"--ckpt_path={source}", *new])

    def _is_uncompared(self, stage: str) -> bool:
        """Return whether a finished last stage has a comparison to draw, and no results of it."""
        folder = self.run_folder(stage)
        config = folder / "config.yaml"
        if stage != _COMPARED or (folder / "results.json").is_file() or not config.is_file():
            return False
        sampling = config_content(config).get("sampling") or {}
        return bool(sampling.get("denoiser") and sampling.get("task"))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def main(args: Sequence[str] | None = None) -> None:
    """Run the verb ``stages``; ends with the exit code of the stage that failed, if one does.

    Args:
        args: Arguments after the verb; None takes those of the process.
    """
    parser = _Parser("python -m tag_lightning stages", description=_DESCRIPTION, allow_abbrev=False)
    parser.add_argument(
        "-c",
        "--config",
        action="append",
        required=True,
        help="first the experiment, a folder of configurations or a shipped one's name (my_images, my_molecules, "
        "my_audio, cifar10, qm9, ...); then configurations to lay over every stage",
    )
    parser.add_argument("--out", type=Path, help="folder of the runs; runs/<experiment> by default")
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="these stages alone")
    try:
        groups = _grouped(sys.argv[2:] if args is None else args)
        # argparse itself takes an option of `fit` whose value has a space for a value of the option before it.
        own = [word for name, words in groups if name in _OWN for word in words]
        options = [(name, words) for name, words in groups if name not in _OWN]
        known = parser.parse_args(own)
        experiment = Experiment(known.config[0], known.out, known.config[1:], options, known.only)
    except (ValueError, OSError, yaml.YAMLError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(2)
    _run_stages(experiment)


def _run_stages(experiment: Experiment) -> None:
    total, interruption.stages = len(experiment.stages), experiment.out
    for number, stage in enumerate(experiment.stages, 1):
        folder, title = experiment.run_folder(stage), f"Stage {number} of {total}, {stage}"
        if experiment.is_finished(stage):
            print(f"{title}: finished, in {folder}", flush=True)
            if changes := experiment.changes(stage):
                print(f"  without {', '.join(changes)}; {_remedy(changes, folder)}", flush=True)
        else:
            print(f"{title}: into {folder}", flush=True)
            _require_success(experiment.fit(stage), title)
        if stage == _COMPARED:
            _require_success(experiment.compare(stage), f"{title}, comparison")
    print(f"All stages are finished: {experiment.out}", flush=True)


def _remedy(changes: Sequence[str], folder: Path) -> str:
    if not all(change.startswith("--sampling.") for change in changes):
        return f"remove {folder} to train it again"
    command = f"validate --config {folder / 'config.yaml'} --ckpt_path last {' '.join(changes)}"
    return f"to sample with that: python -m tag_lightning {command}"


def _is_of_sampling(words: Sequence[str]) -> bool:
    return words[0].startswith("--sampling.")


def _require_success(code: int, title: str) -> None:
    if code:
        sys.stderr.write(f"{title}: ended with exit code {code}; the same command goes on from there\n")
        sys.exit(code)


def _run(arguments: Sequence[str]) -> int:
    """Run a command of this package in a separate process, which gets the signals that this one gets."""
    process: subprocess.Popen[bytes] | None = None
    arrived: list[int] = []

    def forward(signum: int, frame: Any) -> None:
        arrived.append(signum)
        if process is not None:
            process.send_signal(signum)

    before = {signum: signal.signal(signum, forward) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        process = subprocess.Popen([*_COMMAND, *arguments])
        for signum in arrived:
            process.send_signal(signum)
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def _folder(source: str) -> Path:
    shipped = {path.parent.name: path.parent for name, path in shipped_configs().items() if Path(name).name in _ORDER}
    for folder in (Path(source), shipped.get(source)):
        if folder is not None and any(folder.glob("*.yaml")):  # a folder of data may have an experiment's name
            return folder
    raise ValueError(
        f"{source} is neither a folder of configurations nor the name of a shipped experiment; give a folder with one "
        f"configuration per stage, or one of {', '.join(shipped)}"
    )


def _grouped(words: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Options by name, each with its words on the command line."""
    groups: list[tuple[str, list[str]]] = []
    for word in words:
        if word.startswith("--") or word in ("-c", "-h"):
            groups.append((word.lstrip("-").partition("=")[0], [word]))
        elif groups:
            groups[-1][1].append(word)
        else:
            raise ValueError(f"{word} belongs to no option; options are written --data.root photos")
    return groups


def _flow(layer: dict[str, Any]) -> str:
    return yaml.safe_dump(layer, default_flow_style=True, width=10**9).strip()
