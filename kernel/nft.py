"""Runs `nft`: a text replaces a table in one transaction. For those who need no more than that."""

from __future__ import annotations

import asyncio
import errno
import shutil

from holdfast.kernel.base import KernelError

TIMEOUT_S = 30.0


async def load(text: str, subject: str) -> None:
    """Carries out the commands in `text`, all or none. subject: for messages. Raises KernelError."""
    program = shutil.which("nft")
    if program is None:
        raise KernelError("nft", subject, errno.ENOENT, "the program nft is not installed")
    process = await asyncio.create_subprocess_exec(
        program,
        "-f",
        "-",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, said = await asyncio.wait_for(process.communicate(text.encode()), TIMEOUT_S)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise KernelError("nft", subject, errno.ETIMEDOUT) from None
    if process.returncode != 0:
        raise KernelError("nft", subject, errno.EINVAL, said.decode(errors="replace").strip()[:400])
