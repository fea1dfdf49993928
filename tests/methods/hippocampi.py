"""Real volumes of the hippocampus, small enough for proofs that take a minute."""

from __future__ import annotations

import zipfile
from pathlib import Path


def hippocampi(shared_data: Path, folder: Path) -> Path:
    """Unpack the training volumes into ``images`` below a folder; give the folder."""
    with zipfile.ZipFile(shared_data / "hippocampus-mri" / "train.zip") as archive:
        names = [name for name in archive.namelist() if name.startswith("images/") and name.endswith(".nii.gz")]  # fmt: skip
        archive.extractall(folder, names)
    return folder
