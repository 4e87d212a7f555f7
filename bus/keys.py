"""CURVE keys: who a node or a client is on the network.

A key file holds both halves in TOML and is readable by its owner alone; the public half is what others write into
their holdfast.toml. Halves are Z85 text (rfc.zeromq.org/spec/32): 40 characters for 32 bytes.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
import tomllib
from pathlib import Path

import msgspec
import zmq
import zmq.utils.z85

KEY_LENGTH = 40
_Z85 = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#")


class KeyProblem(Exception):
    """A key or its file cannot be used; the text is for the operator."""


class KeyPair(msgspec.Struct, frozen=True):
    """Both halves of a key, Z85. name: whose it is, for people."""

    name: str
    public: str
    secret: str


def is_key(text: str) -> bool:
    """Whether `text` can be one half of a key."""
    return len(text) == KEY_LENGTH and _Z85.issuperset(text)


def generate(name: str) -> KeyPair:
    """A new pair from the system's random source. Raises KeyProblem when this ZeroMQ was built without CURVE."""
    if not zmq.has("curve"):
        raise KeyProblem("this ZeroMQ was built without CURVE (libsodium)")
    while True:
        public, secret = (half.decode("ascii") for half in zmq.curve_keypair())
        # Keys are pasted into command lines, where a leading `-` would be an option; two bits of 256 are no loss.
        if public[0].isalnum() and secret[0].isalnum():
            return KeyPair(name, public, secret)


def fingerprint(public: str) -> str:
    """A short name of a public key to compare by eye or over the telephone: SHA-256 as ssh-keygen(1) shows it."""
    data = zmq.utils.z85.decode(public.encode("ascii"))
    return "SHA256:" + base64.b64encode(hashlib.sha256(data).digest()).decode("ascii").rstrip("=")


def public_of_bytes(data: bytes) -> str:
    """The Z85 text of 32 bytes."""
    return zmq.utils.z85.encode(data).decode("ascii")


def write(pair: KeyPair, path: Path, *, replace: bool = False) -> None:
    """Writes the file with mode 0600, whole or not at all. Raises KeyProblem; a file that is there stays."""
    text = (
        f"# The key of {pair.name} (holdfast). `secret` stays on this host; others get `public`.\n"
        f'name = "{pair.name}"\npublic = "{pair.public}"\nsecret = "{pair.secret}"\n'
    )
    if path.exists() and not replace:
        raise KeyProblem(f"{path} is there already; whoever replaces it has to tell every peer the new public key")
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(fd)
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise KeyProblem(f"{path}: {error.strerror}") from None


def read(path: Path) -> KeyPair:
    """The pair in a file. Raises KeyProblem; also for a file that others may read, as ssh(1) does."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = tomllib.load(file)
    except OSError as error:
        raise KeyProblem(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise KeyProblem(f"{path} is no key file: {error}") from None
    if stat.S_IMODE(mode) & 0o077:
        raise KeyProblem(f"{path} may be read by others than its owner (mode {stat.S_IMODE(mode):04o}): chmod 600")
    try:
        pair = msgspec.convert(raw, KeyPair)
    except msgspec.ValidationError as error:
        raise KeyProblem(f"{path} is no key file: {error}") from None
    if not is_key(pair.public) or not is_key(pair.secret):
        raise KeyProblem(f"{path}: a key has {KEY_LENGTH} characters of Z85")
    if zmq.curve_public(pair.secret.encode("ascii")).decode("ascii") != pair.public:
        raise KeyProblem(f"{path}: the two halves do not belong together")
    return pair
