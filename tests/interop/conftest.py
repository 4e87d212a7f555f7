"""Interop tests import their helpers (`pair`, `twin`) and `netns` by plain names."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
for folder in (HERE, HERE.parent):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for socket names (unix(7): 107 bytes), and whose owners script security likes."""
    folder = Path(tempfile.mkdtemp(prefix="hf"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
