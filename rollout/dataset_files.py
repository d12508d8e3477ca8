"""Which files a data set is made of: one file, a directory that `datasets` saved, or a repository as the Hugging Face
hub has them, in a directory or by its name `hf:OWNER/NAME` (with `@REVISION`, so that it stays what it was).

Of a repository only the files of the chosen split are downloaded. Nothing here reads a row.
"""

import fnmatch
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from rollout.data_errors import DataError
from rollout.row_files import SUFFIXES, suffix

HUB = "hf:"
_DEFAULT = "train"
_ALIASES = {
    "train": {"train", "training"},
    "validation": {"validation", "valid", "val", "dev"},
    "test": {"test", "testing", "eval", "evaluation"},
}
_NO_DATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}$")


def data_files(path: Path, split: str | None = None, subset: str | None = None) -> list[Path]:
    """The files of a split, in order.

    Args:
        path: A file, a directory, or `hf:OWNER/NAME`.
        split: None takes `train`, or everything where nothing is told apart.
        subset: Configuration of a repository that has several.

    Raises:
        DataError: When there is no such data set, split or subset; names those that there are.
    """
    if str(path).startswith(HUB):
        return _of_hub(str(path), split, subset)
    if not path.is_dir():
        if split or subset:
            raise DataError([f"{path}: is one file, which has no splits and no subsets; leave split and subset out"])
        return [path]
    if (path / "dataset_dict.json").exists():
        return _of_dict(path, split)
    if (path / "state.json").exists():
        return _of_saved(path, split)
    names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    readme = path / "README.md"
    text = readme.read_text(encoding="utf-8", errors="replace") if readme.exists() else ""
    return [path / name for name in choose(names, text, split, subset, str(path))]


def choose(names: Sequence[str], readme: str, split: str | None, subset: str | None, where: str) -> list[str]:
    """The files of a repository that hold a split: as its README says in `configs`, else by their names.

    Args:
        names: All of its files, relative, with `/`.
        readme: Text of its README.md, which may begin with YAML between `---` lines.
        split: As in `data_files`.
        subset: As in `data_files`.
        where: What to call it in messages.
    """
    names = [name for name in names if _is_data(name)]
    if not names:
        raise DataError([f"{where}: holds no data files; they end in {', '.join(SUFFIXES)}"])
    configs = _configs(readme)
    if configs:
        by_split = _declared(configs, names, subset, where)
    else:
        if subset and not (names := [name for name in names if name.startswith(f"{subset}/")]):
            raise DataError([f"{where}: has no subset {subset!r}, neither in README.md nor as a folder; leave it out"])
        by_split = _by_name(names)
    chosen = by_split.get(split or _DEFAULT) or (by_split.get("") if split is None else None)
    if not chosen:
        have = ", ".join(sorted(filter(None, by_split))) or "no splits"
        raise DataError([f"{where}: has no split {split or _DEFAULT!r}, it has {have}; set split"])
    if len(formats := {suffix(Path(name)) for name in chosen}) > 1:
        raise DataError([f"{where}: has files of several formats ({', '.join(sorted(formats))}); name one file"])
    return chosen


def _is_data(name: str) -> bool:
    parts = name.split("/")
    return suffix(Path(name)) != "" and parts[-1] not in _NO_DATA and not any(part.startswith(".") for part in parts)


# -- what datasets.save_to_disk writes --------------------------------------------------------------------------------


def _of_dict(path: Path, split: str | None) -> list[Path]:
    splits = _json_file(path / "dataset_dict.json").get("splits", [])
    name = split or _DEFAULT
    if name not in splits:
        raise DataError([f"{path}: has no split {name!r}, it has {', '.join(splits) or 'none'}; set split"])
    return _of_saved(path / name, None)


def _of_saved(path: Path, split: str | None) -> list[Path]:
    state = _json_file(path / "state.json")
    if split and state.get("_split") != split:
        raise DataError([f"{path}: is the split {state.get('_split')!r} alone, not {split!r}; leave split out"])
    if state.get("_indices_data_files"):
        raise DataError([f"{path}: its rows are picked by an index file; save it again after flatten_indices()"])
    return [path / file["filename"] for file in state.get("_data_files", [])]


def _json_file(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise DataError([f"{path}: cannot be read: {error}; save the data set again"]) from None


# -- repositories ----------------------------------------------------------------------------------------------------


def _configs(readme: str) -> list[dict[str, Any]]:
    """`configs` of the YAML that begins a README; none where there is no such thing, or it names no files."""
    if not readme.startswith("---"):
        return []
    try:
        head = yaml.safe_load(readme.split("\n---", 1)[0].removeprefix("---"))
    except yaml.YAMLError:
        return []
    found = head.get("configs") if isinstance(head, dict) else None
    return [c for c in found or [] if isinstance(c, dict) and c.get("data_files")]


def _declared(
    configs: list[dict[str, Any]], names: Sequence[str], subset: str | None, where: str
) -> dict[str, list[str]]:
    """Split → files, of the configuration that is asked for, or the only or default one."""
    by_name = {str(config.get("config_name", "default")): config for config in configs}
    only = next(iter(by_name)) if len(by_name) == 1 else None
    preferred = next((name for name, config in by_name.items() if config.get("default")), None)
    name = subset or only or preferred or ("default" if "default" in by_name else None)
    if name not in by_name:
        said = f"has no subset {subset!r}, it" if subset else "has several subsets and no default; it"
        raise DataError([f"{where}: {said} has {', '.join(by_name)}; set subset"])
    files = by_name[name]["data_files"]
    if isinstance(files, str) or all(isinstance(pattern, str) for pattern in files):
        files = [{"split": _DEFAULT, "path": files}]
    by_split: dict[str, list[str]] = {}
    for entry in files:
        patterns = [entry["path"]] if isinstance(entry["path"], str) else entry["path"]
        by_split[entry["split"]] = [name for name in names if any(_matches(name, pattern) for pattern in patterns)]
    return by_split


def _matches(name: str, pattern: str) -> bool:
    loose = pattern.replace("**/", "")  # `**/` stands for no folder as well
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, loose) or name.startswith(f"{pattern}/")


def _by_name(names: Sequence[str]) -> dict[str, list[str]]:
    """Split → files, by the words in their names and folders; "" has those that name none."""
    by_split: dict[str, list[str]] = {}
    for name in names:
        by_split.setdefault(_split_in(name), []).append(name)
    return by_split


def _split_in(name: str) -> str:
    stem = name.removesuffix(suffix(Path(name)))
    words = re.split(r"[^a-z0-9]+", stem.lower())
    for split, aliases in _ALIASES.items():
        if aliases.intersection(words):
            return split
    shard = _SHARD.match(stem.rpartition("/")[2])
    return shard[1] if shard else ""


# -- the hub ---------------------------------------------------------------------------------------------------------


def _of_hub(path: str, split: str | None, subset: str | None) -> list[Path]:
    """Download what is needed; without a connection, what was downloaded before is taken."""
    name, _, revision = path.removeprefix(HUB).partition("@")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise DataError([f"{path}: a data set of the hub is named hf:OWNER/NAME or hf:OWNER/NAME@REVISION"])
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    try:
        if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
            root = Path(snapshot_download(name, repo_type="dataset", revision=revision or None, local_files_only=True))
            return data_files(root, split, subset)
        names = HfApi().list_repo_files(name, repo_type="dataset", revision=revision or None)
        fetch: Callable[[str], str] = lambda file: hf_hub_download(  # noqa: E731
            name, file, repo_type="dataset", revision=revision or None
        )
        readme = Path(fetch("README.md")).read_text(encoding="utf-8") if "README.md" in names else ""
        return [Path(fetch(file)) for file in choose(sorted(names), readme, split, subset, path)]
    except DataError:
        raise
    except Exception as error:  # the hub's client raises many kinds: no connection, no such name, not allowed
        why = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        raise DataError(
            [f"{path}: cannot be had from the hub: {why}; check name and connection, or name a local copy"]
        ) from None
