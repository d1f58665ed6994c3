"""Files that are there whole or not at all, and that have reached the disk before something else names them.

What a killed process wrote is safe with the operating system; what a power failure may take is what was not synced. With the environment
variable ``REGARD_FSYNC=0`` nothing waits for the disk: what was committed in the last seconds before a power failure, or an index made
in them, may then be lost or damaged.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path


def sync(*paths: Path) -> None:
    """Have the content of files, and the names in folders, reach the disk."""
    if os.environ.get("REGARD_FSYNC") == "0":
        return
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_files(files: Iterable[Path]) -> None:
    """Have these files reach the disk, and their names in their folders."""
    files = list(files)
    sync(*files, *dict.fromkeys(file.parent for file in files))


def sync_tree(folder: Path) -> None:
    """Have all that lies in ``folder`` reach the disk; its own name is its parent's to sync."""
    inside = list(folder.rglob("*"))
    sync(*(path for path in inside if path.is_file()), *(path for path in inside if path.is_dir()), folder)


def make_folder(folder: Path) -> None:
    """Make the folder and those above it that are missing."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    sync(*(one.parent for one in missing))


def replace_text(file: Path, text: str) -> None:
    """Give ``file`` this content, or leave it as it was."""
    temporary = file.with_name(f"{file.name}.new")
    temporary.write_text(text, encoding="utf-8")
    sync(temporary)
    temporary.replace(file)
    sync(file.parent)


def link_tree(source: Path, target: Path) -> None:
    """Give the folder ``target`` what lies in ``source``: the same files on disk where the file system has hard links, else copies."""
    for entry in source.iterdir():
        if entry.is_dir():
            (target / entry.name).mkdir()
            link_tree(entry, target / entry.name)
            continue
        try:
            os.link(entry, target / entry.name)
        except OSError:
            shutil.copyfile(entry, target / entry.name)
