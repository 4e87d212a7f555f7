"""The packages can be imported under their installed names."""

from holdfast.bus.messages import ReasonKind


def test_vocabulary_is_lower_case() -> None:
    assert all(kind == kind.lower() for kind in ReasonKind)
