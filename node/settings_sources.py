"""Where settings come from besides the command line: base folders, environment, swarmtui.toml."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path

import platformdirs

from node.clean import clean
from node.errors import PlainError

CONFIG_NAME = "swarmtui.toml"
HOME_VARIABLE = "SWARMTUI_HOME"


def base_folders(environ: Mapping[str, str]) -> dict[str, Path]:
    """The four base folders by setting name: platformdirs', or all below $SWARMTUI_HOME."""
    home = environ.get(HOME_VARIABLE)
    if home:
        base = Path(home).expanduser()
        return {
            "data_dir": base / "data",
            "state_dir": base / "state",
            "runtime_dir": base / "run",
            "config_dir": base / "config",
        }
    dirs = platformdirs.PlatformDirs("swarmtui", appauthor=False)
    with warnings.catch_warnings():
        # Without XDG_RUNTIME_DIR it falls back below the temporary folder and says so on stderr;
        # the door checks that folder's owner and mode itself.
        warnings.simplefilter("ignore")
        runtime = dirs.user_runtime_path
    return {
        "data_dir": dirs.user_data_path,
        "state_dir": dirs.user_state_path,
        "runtime_dir": runtime,
        "config_dir": dirs.user_config_path,
    }


def find_config(
    config: Path | None, environ: Mapping[str, str], cwd: Path, config_dir: Path
) -> Path | None:
    """The settings file to read: the one named, else the working folder's, else the user's."""
    if config is None and environ.get("SWARMTUI_CONFIG"):
        config = Path(environ["SWARMTUI_CONFIG"])
    if config is not None:
        return cwd / config.expanduser()
    for folder in (cwd, cwd / config_dir):
        if (folder / CONFIG_NAME).is_file():
            return folder / CONFIG_NAME
    return None


def read_toml(file: Path, known: Collection[str]) -> dict[str, object]:
    """The file's values by setting name (hyphens count as underscores).

    Raises PlainError for an unreadable file, broken TOML or a key that is not in `known`.
    """
    import tomllib

    where = clean(file, 300)
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise PlainError(
            f"The settings file {where} cannot be read: {clean(error.strerror or error)}.",
            "Check its path and permissions.",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PlainError(
            f"The settings file {where} is not valid TOML: {clean(error)}.", "Mend that line."
        ) from None
    found: dict[str, object] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in known:
            raise PlainError(
                f"The settings file {where} has the key {clean(key, 80)!r}, which is no setting.",
                _nearest(name, known),
            )
        found[name] = value
    return found


def _nearest(name: str, known: Collection[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"The nearest is {near[0]!r}."
    return f"The settings are: {', '.join(sorted(known))}."
