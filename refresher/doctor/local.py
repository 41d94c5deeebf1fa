"""What this machine tells: configuration, references, files and clock."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from refresher.config import Config, check_references, references
from refresher.doctor.checks import Check, bad, good, unknown
from refresher.doctor.instruments import Case
from refresher.errors import ConfigError
from refresher.state.file import is_volume

#: Less is network delay, and the whole seconds of `Date`.
_SKEW_SECONDS = 60


def unusable(error: ConfigError) -> list[Check]:
    """What is left to be said where the configuration cannot be used."""
    fix = "correct it; `refresher config schema` describes every key"
    return [bad("config", problem, fix) for problem in error.problems]


def configuration(config: Config) -> Check:
    count = len(config.targets)
    return good("config", f"{config.origin} is valid, {count} target{'' if count == 1 else 's'}")


# --- references --------------------------------------------------------------------------------


def daemon_references(config: Config, environ: Mapping[str, str]) -> Check:
    return _references("references", config, environ, "daemon.")


def target_references(case: Case, environ: Mapping[str, str], name: str) -> Check:
    config = case.tools.config.model_copy(update={"targets": {case.target.name: case.section}})
    return _references(name, config, environ, f"targets.{case.target.name}.")


def _references(name: str, config: Config, environ: Mapping[str, str], within: str) -> Check:
    lines = check_references(config, environ, files=True)
    problems = [line for line in lines if line.startswith(within)]
    if problems:
        fix = "set the variable or write the file, or correct the reference"
        return bad(name, "; ".join(problems), fix)
    there = [str(reference) for path, reference in references(config) if path.startswith(within)]
    return good(name, f"{', '.join(there)}: there" if there else "none is needed")


# --- files -------------------------------------------------------------------------------------


def daemon_files(config: Config) -> Check | None:
    """None where no file holds a secret of the process."""
    return _files("files", _paths(config, "daemon."))


def target_files(case: Case) -> Check | None:
    """None where no file holds a secret of the target, fal's key among them."""
    config = case.tools.config.model_copy(update={"targets": {case.target.name: case.section}})
    return _files("files", _paths(config, f"targets.{case.target.name}.", "fal."))


def _paths(config: Config, *within: str) -> list[Path]:
    return [
        reference.file
        for path, reference in references(config)
        if path.startswith(within) and reference.file and path != "daemon.ca_bundle"
    ]


def _files(name: str, paths: Iterable[Path]) -> Check | None:
    modes = {path: _mode(path) for path in paths}
    if not modes:
        return None
    wide = {path: mode for path, mode in modes.items() if mode & 0o077 and not _mounted(path)}
    if wide:
        causes = (f"{path} (mode {mode:04o})" for path, mode in wide.items())
        return bad(
            name,
            f"open to other users: {', '.join(causes)}",
            f"chmod 600 {' '.join(map(str, wide))}",
        )
    return good(name, f"no other user may read {', '.join(map(str, modes))}")


def _mode(path: Path) -> int:
    """Permission bits; none where there is no such file, which the references tell."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return 0


def _mounted(path: Path) -> bool:
    """A volume's modes are its driver's, and who reaches it is decided by who mounts it."""
    return is_volume(path.parent) or is_volume(path)


# --- clock -------------------------------------------------------------------------------------


def clock(skews: Mapping[str, float]) -> Check:
    """What the peers told of the time, once all of them were asked."""
    if not skews:
        return unknown("clock", "no peer told the time")
    wrong = {peer: skew for peer, skew in skews.items() if abs(skew) >= _SKEW_SECONDS}
    if not wrong:
        widest = max(abs(skew) for skew in skews.values())
        return good("clock", f"at most {widest:.0f} s off those of {', '.join(skews)}")
    return bad("clock", "; ".join(_told(wrong)), "synchronise this machine's clock with NTP")


def _told(skews: Mapping[str, float]) -> Iterator[str]:
    for peer, skew in skews.items():
        yield f"ours is {abs(skew):.0f} s {'behind' if skew > 0 else 'ahead of'} that of {peer}"
