"""PCRE2 itself, by its C interface: the library that keepalived uses (Debian: libpcre2-8-0, there on every system).

Only what regex in a url block needs: compile with options, search once, bounded by PCRE2's own match limit.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

_NOMATCH = -1
_PARTIAL = -2
_LIBRARIES = ("libpcre2-8.so.0", "libpcre2-8.so")

OPTIONS: dict[str, int] = {
    "allow_empty_class": 0x00000001,
    "alt_bsux": 0x00000002,
    "auto_callout": 0x00000004,
    "caseless": 0x00000008,
    "dollar_endonly": 0x00000010,
    "dotall": 0x00000020,
    "dupnames": 0x00000040,
    "extended": 0x00000080,
    "firstline": 0x00000100,
    "match_unset_backref": 0x00000200,
    "multiline": 0x00000400,
    "never_ucp": 0x00000800,
    "never_utf": 0x00001000,
    "no_auto_capture": 0x00002000,
    "no_auto_possess": 0x00004000,
    "no_dotstar_anchor": 0x00008000,
    "no_start_optimize": 0x00010000,
    "ucp": 0x00020000,
    "ungreedy": 0x00040000,
    "utf": 0x00080000,
    "never_backslash_c": 0x00100000,
    "alt_circumflex": 0x00200000,
    "alt_verbnames": 0x00400000,
    "use_offset_limit": 0x00800000,
}
"""Compile options by the names that regex_options takes (pcre2.h, keepalived.conf(5))."""


class Pcre2Error(Exception):
    """The pattern is none, the search was given up, or the library is not there. The text is PCRE2's."""


class Code:
    """A compiled pattern. Not shared between threads."""

    def __init__(self, pattern: bytes, options: int = 0) -> None:
        """Raises Pcre2Error with the place and the reason when PCRE2 refuses the pattern."""
        self._library = library = _library()
        number, offset = ctypes.c_int(), ctypes.c_size_t()
        self._code: int | None = library.pcre2_compile_8(
            pattern, len(pattern), options, ctypes.byref(number), ctypes.byref(offset), None
        )
        if not self._code:
            raise Pcre2Error(f"{_words(library, number.value)} at offset {offset.value}")
        self._data: int | None = library.pcre2_match_data_create_from_pattern_8(self._code, None)
        if not self._data:
            raise Pcre2Error("no memory")
        self._places = library.pcre2_get_ovector_pointer_8(self._data)

    def search(self, subject: bytes, start: int = 0) -> int:
        """Where the first match at or after `start` begins, -1: nowhere. Raises Pcre2Error when it gives up."""
        found: int = self._library.pcre2_match_8(self._code, subject, len(subject), start, 0, self._data, None)
        if found >= 0:
            return int(self._places[0])
        if found in (_NOMATCH, _PARTIAL):
            return -1
        raise Pcre2Error(_words(self._library, found))

    def __del__(self) -> None:
        if getattr(self, "_data", None):
            self._library.pcre2_match_data_free_8(self._data)
        if getattr(self, "_code", None):
            self._library.pcre2_code_free_8(self._code)


@cache
def _library() -> Any:
    """libpcre2-8 with its types declared. Raises Pcre2Error when it is not installed."""
    for name in _LIBRARIES:
        try:
            library = ctypes.CDLL(name)
            break
        except OSError:
            continue
    else:
        raise Pcre2Error(f"{_LIBRARIES[0]} is not installed (Debian: libpcre2-8-0)")
    pointer, size, text, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_uint32
    declared: dict[str, tuple[Any, list[Any]]] = {
        "compile": (pointer, [text, size, number, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(size), pointer]),
        "code_free": (None, [pointer]),
        "match_data_create_from_pattern": (pointer, [pointer, pointer]),
        "match_data_free": (None, [pointer]),
        "get_ovector_pointer": (ctypes.POINTER(size), [pointer]),
        "match": (ctypes.c_int, [pointer, text, size, size, number, pointer, pointer]),
        "get_error_message": (ctypes.c_int, [ctypes.c_int, text, size]),
    }
    for name, (result, arguments) in declared.items():
        function = getattr(library, f"pcre2_{name}_8")
        function.restype = result
        function.argtypes = arguments
    return library


def _words(library: Any, number: int) -> str:
    buffer = ctypes.create_string_buffer(256)
    library.pcre2_get_error_message_8(number, buffer, len(buffer))
    return buffer.value.decode("ascii", "replace") or f"error {number}"
