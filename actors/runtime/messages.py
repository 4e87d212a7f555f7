"""What the runtime tells the world: cells, configuration; and the commands of the supervisor."""

from __future__ import annotations

import enum

import msgspec

from holdfast.bus.messages import Command, Event, Reason, Reply


class CellStatus(enum.StrEnum):
    """The life of a cell."""

    STARTING = "starting"
    RUNNING = "running"
    DEAD = "dead"
    STOPPED = "stopped"


class CellStateChanged(Event, frozen=True, kw_only=True, tag="cell.state"):
    """A cell started, runs, died or was stopped. From the supervisor, retained on `NODE/cell/NAME/state`.

    restarts: how often it was put back. exit_code or signal: how it ended. start_ms: from its predecessor's death (or
    the wish to start it) until it ran.
    """

    cell: str
    status: CellStatus
    rooms: tuple[str, ...]
    pid: int
    restarts: int
    reason: Reason
    exit_code: int | None = None
    signal: int | None = None
    start_ms: float | None = None


class ConfigSlice(Event, frozen=True, kw_only=True, tag="config.slice"):
    """One slice of the configuration for one room of one cell, retained on `NODE/slice/CELL,ROOM,NAME/data`.

    data: msgpack of the room's own Struct. It holds passwords: nobody but the cell is meant to read it.
    """

    cell: str
    room: str
    name: str
    number: int
    data: bytes


class ConfigGeneration(Event, frozen=True, kw_only=True, tag="config.generation"):
    """All slices of a cell have been told, retained on `NODE/slice/CELL/generation`.

    rooms: for each room the names of its slices and the digests of their data.
    """

    cell: str
    number: int
    rooms: dict[str, dict[str, str]]


class ConfigState(Event, frozen=True, kw_only=True, tag="config.state"):
    """What became of the last attempt to load the configuration, retained on `NODE/config/current/state`.

    ok: False: it was refused, and generation `number` goes on. messages: what the reader said, for people.
    wall_ns: when. cells: how many run it.
    """

    ok: bool
    number: int
    messages: tuple[str, ...]
    source: str
    wall_ns: int
    cells: int
    reason: Reason


class Reload(Command, frozen=True, kw_only=True, tag="supervisor.reload"):
    """Read the configuration anew. Subject `supervisor`."""


class Reloaded(Reply, frozen=True, kw_only=True, tag="supervisor.reload.reply"):
    """ok: the new configuration is in force in all cells. changed: how many slices are new, different or gone."""

    ok: bool
    number: int
    messages: tuple[str, ...]
    exit_code: int
    changed: int


class RestartCell(Command, frozen=True, kw_only=True, tag="supervisor.restart-cell"):
    """End one cell and put it back, as after a crash. Subject `supervisor`."""

    cell: str


class CellRestarted(Reply, frozen=True, kw_only=True, tag="supervisor.restart-cell.reply"):
    """The old process was told to go."""

    cell: str
    pid: int


class Restart(Command, frozen=True, kw_only=True, tag="supervisor.restart"):
    """Let another version of the program take over, without a failover. Subject `supervisor`."""


class Restarting(Reply, frozen=True, kw_only=True, tag="supervisor.restart.reply"):
    """The new version is ready and takes over now. epoch: of the supervisor that answers; the next one has another."""

    pid: int
    epoch: int


class RestartProgress(Command, frozen=True, kw_only=True, tag="supervisor.restart-progress"):
    """How far a hand-over is. Subject `supervisor`."""


class RestartProgressed(Reply, frozen=True, kw_only=True, tag="supervisor.restart-progress.reply"):
    """waiting: cells that still run the old version."""

    epoch: int
    waiting: tuple[str, ...]


class Orders(msgspec.Struct, frozen=True):
    """Supervisor to cell over their socket pair, and back. Not on the bus.

    op: to the cell `stop`, `hand-over`, `dump`, `statistics`, `schedule` (data: a CellScheduling); from it `ready`,
    `beat`, `applied`, `done`, `left`. removed: its things are gone with it. grace_ms: how long to listen first to what
    others say last. cpu_ms: what getting ready cost.
    """

    op: str
    removed: bool = False
    grace_ms: int = 0
    cpu_ms: float = 0.0
    path: str = ""
    number: int = 0
    text: str = ""
    data: bytes = b""
