"""Prints holdfast's verdict on each file named on the command line, as JSON. Run inside a network namespace."""

from __future__ import annotations

import json
import sys

from holdfast.actors.registry import TABLES
from holdfast.config.loader import load


def main() -> None:
    """One list: [exit code, complaints] for each file."""
    verdicts = []
    for path in sys.argv[1:]:
        loaded = load(path, TABLES)
        verdicts.append([loaded.exit_code, [str(diagnostic) for diagnostic in loaded.diagnostics]])
    print(json.dumps(verdicts))


if __name__ == "__main__":
    main()
