"""Who did it: the program behind a netlink port."""

from __future__ import annotations

from pathlib import Path


def program_of_port(port: int) -> str | None:
    """`NetworkManager (pid 812)` for a netlink port.

    The kernel gives a program's first socket its pid as port, so the answer is right for nearly every one that still
    lives; None: the kernel itself did it.
    """
    if port <= 0:
        return None
    try:
        name = Path(f"/proc/{port}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return f"a program that has ended (pid {port})"
    return f"{name} (pid {port})"
