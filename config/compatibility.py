"""docs/compatibility.md: every keyword of keepalived.conf with what holdfast does with it, from the keyword tables."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from holdfast.config.table import Row, Status

_HEAD = """# Compatibility with keepalived.conf

This page is generated from the keyword tables (`make docs`); do not edit it.

holdfast reads keepalived.conf whole: {count} keywords, of which it acts on {acted}. {accepted} more are read and
checked without effect yet: each says so once at the start. {never} are accepted because keepalived needs them and
holdfast does not.

`holdfast check -f FILE` exits 0 exactly where `keepalived -t -f FILE` of Debian's 2.2.7 does. Other codes: 4 a fatal
error alone, 5 something was ignored, changed, deprecated or unknown, 6 script security, or a missing include.

- A keyword that is newer than 2.2.7 is read and, where the table says so, acted on; the verdict is 5, as 2.2.7's is.
- `reload` refuses a configuration only for errors: something written that was ignored or changed. Warnings (deprecated
  words, newer keywords) and missing script security do not stop it.

## Where holdfast differs from `keepalived -t`, on purpose

{differences}
## Keywords

Columns: the keyword, its arguments, what it is for, and what holdfast does with it. *newer*: 2.2.7 does not know it.

"""

DIFFERENCES = (
    (
        "A word is missing behind its keyword",
        "2.2.7 ends at once with code 2; holdfast reports it, goes on, and ends with 5 (newer versions too).",
    ),
    (
        "A script with another user than keepalived's own",
        "2.2.7 kills itself with SIGTERM during -t; holdfast gives the verdict of the rest.",
    ),
    (
        "`HTTP_GET` or `SSL_GET` without a usable url, `bfd_instance` or `virtual_server group` without a name, "
        "`virtual_server fwmark` without a number",
        "2.2.7 crashes; holdfast reports it, drops the block, and ends with 5.",
    ),
    (
        "Definitions that use each other in a circle",
        "2.2.7 never ends; holdfast reports it and ends with 5.",
    ),
    (
        "`net_namespace` names a namespace that does not exist",
        "2.2.7 stops reading there and says 0 whatever follows; holdfast checks the whole file.",
    ),
    (
        "An unknown keyword that opens a block",
        "2.2.7 reads the block's content as further keywords of the surrounding one; holdfast skips the block with one "
        "complaint. The verdict is 5 in both; a script in such a block can make 2.2.7's verdict 6.",
    ),
    (
        "A line longer than 1023 bytes",
        "2.2.7 reads the rest as a line of its own; holdfast ignores the whole line and says so (5).",
    ),
    (
        "`\\#` and `\\!` in the middle of a line",
        "2.2.7 writes them to the copy that its processes read, where they begin a comment after all; holdfast takes "
        "them as characters, as keepalived.conf(5) says.",
    ),
    (
        "Two unicast instances with one VRID and one peer, without source addresses",
        "2.2.7 reports them only when their interface has an address at that moment; holdfast always does (5).",
    ),
    (
        "An include inside a definition's body",
        "2.2.7 ends the definition there; holdfast includes the file where the definition is used, and warns (5).",
    ),
)


def render(rows: Iterable[Row]) -> str:
    """The page as Markdown."""
    listed = list(rows)
    counts = {status.value: sum(row.status == status.value for row in listed) for status in Status}
    head = _HEAD.format(
        count=len(listed),
        acted=counts[Status.ACTED.value],
        accepted=counts[Status.ACCEPTED.value],
        never=counts[Status.NEVER.value],
        differences="".join(f"- **{what}.** {how}\n" for what, how in DIFFERENCES),
    )
    blocks = [_block(path, list(group)) for path, group in itertools.groupby(listed, key=lambda row: row.path)]
    return head + "\n".join(blocks)


def _block(path: str, rows: list[Row]) -> str:
    """The keywords of one block."""
    lines = [f"### {'outside of blocks' if path == '(root)' else path}", ""]
    lines += ["| keyword | arguments | what for | status |", "|---|---|---|---|"]
    for row in rows:
        notes = [row.status]
        if row.newer:
            notes.append("*newer*")
        if row.deprecated:
            notes.append(f"deprecated: use {row.deprecated}")
        shape = f"`{row.shape}`".replace("|", "\\|") if row.shape else ""
        lines.append(f"| `{row.keyword}` | {shape} | {row.doc} | {', '.join(notes)} |")
    return "\n".join(lines) + "\n"
