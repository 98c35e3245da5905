"""Configuration files, given as a path or as the name of a shipped one."""

from __future__ import annotations

import difflib
import os
from argparse import ArgumentTypeError
from functools import reduce
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile

import tag_lightning.configs


class ConfigFileError(ArgumentTypeError, ValueError):
    """A configuration that cannot be read; argparse shows its message as it is."""


def shipped_configs() -> dict[str, Path]:
    """Return the paths of the shipped configurations by name, such as ``digits/time_predictor``."""
    (root,) = map(Path, tag_lightning.configs.__path__)
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in sorted(root.rglob("*.yaml"))}


def config_file(value: Any) -> Any:
    """Find the configuration that ``--config``, or ``config:`` in another configuration, names.

    Args:
        value: A path; if that file does not exist, the name of a shipped configuration. Anything else that jsonargparse
            takes (YAML text, a URL, ``-``, values it has already parsed) is returned as it is.

    Raises:
        ConfigFileError: If there is neither a file nor a shipped configuration, or if the file is not valid YAML;
            names close matches or the line.
    """
    if not isinstance(value, str) or value == "-" or "://" in value or _is_yaml_text(value):
        return value
    if os.path.isfile(value):
        _require_yaml(Path(value))
        return value
    if os.path.exists(value) and not os.path.isdir(value):
        return value  # a pipe, which can be read only once
    shipped = shipped_configs()
    if value in shipped:
        return str(shipped[value])
    matches = difflib.get_close_matches(value.removeprefix("configs/").removesuffix(".yaml"), shipped)
    close = f" (did you mean {' or '.join(matches)}?)" if matches else ""
    raise ConfigFileError(
        f"{value} is neither a file nor the name of a shipped configuration{close}; "
        "give the path of a YAML file, or a name such as digits/time_predictor"
    )


def config_content(source: str | Path) -> dict[str, Any]:
    """The keys of a YAML file, or of YAML text.

    Raises:
        ValueError: If it is not a mapping.
    """
    text = Path(source).read_text(encoding="utf-8") if os.path.isfile(source) else str(source)
    content = yaml.safe_load(text) or {}
    if not isinstance(content, dict):
        raise ValueError(f"{source} is not a configuration; expected keys such as data, model, trainer, sampling")
    return content


def merged_with_bases(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A configuration laid over its ``base``, or bases, and those over their own, as files say and without defaults.

    Args:
        path: The configuration.
        above: Configurations that are laid over it.

    Raises:
        ConfigFileError: If a base does not exist, or leads back to itself.
    """
    if path in above:
        raise ConfigFileError(f"{above[-1]}: base {path} leads back to itself; name another configuration")
    content = config_content(path)
    bases = [Path(config_file(base)) for base in _bases_of(content, path)]
    # As on the command line, only the first brings its own bases.
    layers = [merged_with_bases(base, (*above, path)) for base in bases[:1]] + [config_content(b) for b in bases[1:]]
    merged = reduce(_merged, [*layers, content])
    return {key: value for key, value in merged.items() if key != "base"}


def _bases_of(content: dict[str, Any], path: str | Path) -> list[str]:
    """The configurations that the ``base`` of a configuration names, later ones to be laid over earlier ones."""
    base = content.get("base")
    names = [] if base is None else base if isinstance(base, list) else [base]
    if not all(isinstance(name, str) for name in names):
        raise ConfigFileError(f"{path}: base is {base}; name a configuration, or a list of them")
    return names


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    both = [key for key in above if isinstance(below.get(key), dict) and isinstance(above[key], dict)]
    return {**below, **above, **{key: _merged(below[key], above[key]) for key in both}}


class LayeredConfig(ActionConfigFile):
    """``--config``, with one more key in the file: ``base``, the configuration that the file is laid over.

    A list names several, later ones over earlier ones, and only the first brings its own bases. Bases are read first,
    and only if no other ``--config`` came before. So an experiment runs by its own name, on the data of its base, and
    with ``--config cifar10/time_predictor --config experiments/few_steps`` on others.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._open: list[str] = []

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        layer = _layer(values)
        if layer is None or "base" not in layer:
            _forget_arms(cfg, layer or {})
            super().__call__(parser, cfg, values, option_string)
            return
        bases = _bases_of(layer, values)
        del layer["base"]
        if not cfg.get(self.dest):
            for base in bases:
                path = config_file(base)
                if path in self._open:
                    raise ConfigFileError(f"{values}: base {base} leads back to itself; name another configuration")
                self._open.append(path)
                self(parser, cfg, path, option_string)
            self._open.clear()
        _forget_arms(cfg, layer)
        try:
            super().__call__(parser, cfg, yaml.safe_dump(layer, sort_keys=False), option_string)
        except TypeError as error:
            raise TypeError(f"{values}: {error}") from error


def _layer(value: Any) -> dict[str, Any] | None:
    """The content of a configuration file; None for anything else."""
    if not isinstance(value, str) or not os.path.isfile(value):
        return None
    content = yaml.safe_load(Path(value).read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else None


def _forget_arms(cfg: Any, layer: dict[str, Any]) -> None:
    """Drop the arms that a layer replaces: jsonargparse would complete an arm by an earlier one of its name."""
    sampling = layer.get("sampling")
    for key in ("arms", "extra_arms"):
        if isinstance(sampling, dict) and key in sampling and cfg.get(f"sampling.{key}") is not None:
            cfg[f"sampling.{key}"] = None


def _is_yaml_text(value: str) -> bool:
    try:
        return isinstance(yaml.safe_load(value), dict)
    except yaml.YAMLError:
        return False


def _require_yaml(path: Path) -> None:
    """Check the syntax here, because jsonargparse's message does not name the file."""
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        remedy = "look for an unclosed bracket, a tab or a wrong indentation"
        raise ConfigFileError(f"{path}{line}: {error.problem}; {remedy}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigFileError(f"{path} is not UTF-8 text; give a YAML file") from error
    if (twice := repeated_key(node)) is not None:
        place = f"{path}, line {twice.start_mark.line + 1}"
        raise ConfigFileError(f"{place}: {twice.value} is given twice, and only the last would count; rename one")


def require_distinct_keys(argument: str) -> None:
    """Check YAML given on the command line, ``--sampling.arms={few: {num_steps: 2}}``.

    Raises:
        ConfigFileError: If a key is given twice in one mapping.
    """
    option, _, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
    try:
        twice = repeated_key(yaml.compose(value, yaml.SafeLoader)) if "{" in value else None
    except yaml.YAMLError:
        return
    if twice is not None:
        raise ConfigFileError(
            f"{option or value}: {twice.value} is given twice, and only the last would count; rename one"
        )


def repeated_key(node: yaml.Node | None) -> yaml.ScalarNode | None:
    """Return the first key that a mapping in ``node`` has twice, or None; YAML readers keep the last silently."""
    if isinstance(node, yaml.SequenceNode):
        return next(filter(None, map(repeated_key, node.value)), None)
    if not isinstance(node, yaml.MappingNode):
        return None
    seen = set()
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode) and key.value != "<<":
            if key.value in seen:
                return key
            seen.add(key.value)
        if (inner := repeated_key(value)) is not None:
            return inner
    return None
