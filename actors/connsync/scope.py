"""For which virtual addresses this node speaks, from the states of its VRRP instances. Pure."""

from __future__ import annotations

import ipaddress

from holdfast.actors.connsync.table import Scope, table_word
from holdfast.actors.vrrp.messages import VrrpState, VrrpStateChanged


class Ownership:
    """Keeps the newest state of each instance. Each may have another master."""

    def __init__(self) -> None:
        self._instances: dict[str, VrrpStateChanged] = {}
        self.scope = Scope()
        self.packed_owned: frozenset[bytes] = frozenset()
        self.packed_foreign: frozenset[bytes] = frozenset()

    def heard(self, event: VrrpStateChanged) -> bool:
        """An instance told its state. True when our scope is another one now."""
        if event.state is VrrpState.DELETED:
            return self.forgotten(event.instance)
        self._instances[event.instance] = event
        return self._renew()

    def forgotten(self, instance: str) -> bool:
        """An instance is gone: its addresses are like those that never had one."""
        return self._instances.pop(instance, None) is not None and self._renew()

    def speaks_for(self, virtual: bytes) -> bool:
        """Whether a packed virtual address is ours to announce when our kernel tells of a connection."""
        return virtual in self.packed_owned or virtual not in self.packed_foreign

    def _renew(self) -> bool:
        owned: set[bytes] = set()
        known: set[bytes] = set()
        for event in self._instances.values():
            addresses = {each for each in map(_packed, event.addresses) if each is not None}
            known |= addresses
            if event.state is VrrpState.MASTER:
                owned |= addresses
        self.packed_owned = frozenset(owned)
        self.packed_foreign = frozenset(known - owned)
        scope = Scope(frozenset(map(table_word, owned)), frozenset(map(table_word, known - owned)))
        changed = scope != self.scope
        self.scope = scope
        return changed


def _packed(text: str) -> bytes | None:
    """An address as an instance tells it, with or without its prefix length."""
    try:
        return ipaddress.ip_address(text.partition("/")[0]).packed
    except ValueError:
        return None
