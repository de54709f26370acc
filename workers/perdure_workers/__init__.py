"""The composition root: worker, plugin, command line, dev server."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perdure_workers.plugin import Perdure

__all__ = ["Perdure"]


def __getattr__(name: str) -> Any:
    # The plugin brings Temporal's SDK along, which `perdure --help` need not wait for.
    if name == "Perdure":
        from perdure_workers.plugin import Perdure

        return Perdure
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
