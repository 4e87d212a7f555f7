"""The generated pages under docs/: `python -m holdfast.cli.docs DOCS`. A test compares them with what is committed."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

import msgspec

from holdfast.actors.registry import compatibility_page
from holdfast.actors.runtime.catalogue import import_messages
from holdfast.bus.codec import COMMANDS, EVENTS, REPLIES
from holdfast.bus.messages import ReasonKind
from holdfast.cli.explain import PHRASES

NOTE = "<!-- made by `make docs`; do not edit -->\n"


def events_page() -> str:
    """docs/events.md: every message with its topic, fields and types, and the vocabulary of reasons."""
    import_messages()
    parts = [
        "# Events, commands and replies",
        NOTE,
        "Every event travels under a topic `NODE/KIND/NAME/ASPECT` (see [bus.md](bus.md) for the wire). An event that "
        "is *retained* is given to whoever joins later. `holdfast schema` prints this as JSON Schema; `holdfast tail` "
        "shows the events live, and `holdfast tail --json` does so for programs.\n",
        "## Why something happened: reasons\n",
        "Each transition carries a `reason`: `kind` (below), the `node` and `subject` it speaks of, and `evidence` "
        "(numbers; durations in seconds end in `_s`). `holdfast why` follows the `causes` of an event from reason to "
        "reason.\n",
        "| kind | in words |\n|---|---|",
    ]
    for kind in ReasonKind:
        parts.append(f"| `{kind.value}` | {_words(kind)} |")
    for title, registry in (("Events", EVENTS), ("Commands", COMMANDS), ("Replies", REPLIES)):
        parts.append(f"\n## {title}\n")
        for tag, kind_of in sorted(registry.types().items()):
            if tag == "bus.unknown" or not kind_of.__module__.startswith("holdfast."):
                continue  # a form in memory; another program's own
            parts.append(_message(tag, kind_of))
    return "\n".join(parts).rstrip() + "\n"


def _words(kind: ReasonKind) -> str:
    from holdfast.bus.messages import Reason  # noqa: PLC0415

    example = Reason(kind=kind, node="NODE", subject="KIND/NAME")
    teller = PHRASES.get(kind)
    return teller(example, {}, None).replace("|", "\\|") if teller is not None else "-"


def _message(tag: str, kind: type[msgspec.Struct]) -> str:
    text = inspect.cleandoc(kind.__doc__ or "")
    lines = [f"### `{tag}`\n", text, ""]
    fields = msgspec.structs.fields(kind)
    if fields:
        lines.append("| field | type | default |\n|---|---|---|")
        for field in fields:
            default = "" if field.required else _default(field)
            lines.append(f"| `{field.encode_name}` | `{_type(field.type)}` | {default} |")
    return "\n".join(lines) + "\n"


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.default is not msgspec.NODEFAULT:
        return f"`{field.default!r}`" if not isinstance(field.default, msgspec.Struct) else ""
    return "empty"


def _type(annotation: object) -> str:
    text = str(annotation) if not isinstance(annotation, type) or "[" in str(annotation) else annotation.__name__
    text = re.sub(r"\b(?:typing|holdfast)(?:\.\w+)*\.(\w+)", r"\1", text)
    return text.replace("|", "\\|")


def pages() -> dict[str, str]:
    """File name -> text of every generated page."""
    return {"events.md": events_page(), "compatibility.md": compatibility_page()}


def main() -> None:
    """Writes the pages into the folder named on the command line."""
    folder = Path(sys.argv[1])
    for name, text in pages().items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    main()
