"""Coroutine tests run on a loop of their own, closed behind them."""

from __future__ import annotations

import asyncio
import inspect

import pytest
from hypothesis import settings

# On a busy machine an example may take long without anything being wrong.
settings.register_profile("holdfast", deadline=None)
settings.load_profile("holdfast")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs `async def test_...`; everything else stays pytest's."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True
