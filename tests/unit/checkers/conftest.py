"""The folder is on the path, for `checks_lab`; certificates are made once."""

from __future__ import annotations

import ssl
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from checks_lab import make_certificate, server_context


@pytest.fixture(scope="session")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """A server whose certificate nobody has signed."""
    return server_context(*make_certificate(tmp_path_factory.mktemp("tls"), "self-signed"))
