"""Tables: names to places, open to other distributions and to the present session.

A folder that holds methods lists them in its ``__init__``:

    STAGES = {"BM25": ".bm25:BM25", "Dense": ".dense:Dense"}
    __getattr__ = lazy(__name__, STAGES)

and ``pyproject.toml`` names that table under an entry-point group (``regard.stages``); another distribution names its
own under the same group. Nothing is imported before it is asked for, and a place that cannot be imported costs nobody
but who asks for it. What is made in a session, a notebook's class, is added by :meth:`Table.register`.
"""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import Any

from .errors import ConfigError, MissingDependency, RegardError

log = logging.getLogger(__name__)


class Table:
    """The things of one kind by name. ``group`` is its entry-point group, such as ``regard.stages``."""

    def __init__(self, group: str) -> None:
        self.group = group
        self._session: dict[str, Any] = {}

    @functools.cached_property
    def _places(self) -> dict[str, list[str]]:
        """Every name with its place ``module:attribute``; with several where distributions disagree."""
        found: dict[str, list[str]] = {}
        for point in sorted(entry_points(group=self.group), key=lambda p: (not p.value.startswith("regard."), p.value)):
            try:
                listed = point.load()
                places = {str(name): _absolute(str(place), point.module) for name, place in listed.items()}
            except Exception as error:  # another distribution's: its names are missing, all others work
                log.warning("the table %s of %s cannot be read: %r", self.group, point.value, error)
                continue
            for name, place in places.items():
                if place not in found.setdefault(name, []):
                    found[name].append(place)
        return found

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted({*self._places, *self._session})

    def __contains__(self, name: str) -> bool:
        return self._known(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __getitem__(self, name: str) -> Any:
        """What ``name`` (in any case) stands for.

        Raises ``ConfigError`` for an unknown name, with the nearest ones, and for one that two distributions claim;
        ``MissingDependency`` where its module needs a package that is not installed.
        """
        known = self._known(name)
        if known is None:
            near = get_close_matches(name, self.names(), n=3) or get_close_matches(
                name.casefold(), {n.casefold(): n for n in self.names()}, n=3)
            raise ConfigError(f"nothing is registered as {name!r:.80} in {self.group}", where=self.group,
                              hint=f"did you mean {' or '.join(near)}?" if near
                              else f"known: {', '.join(self.names()) or 'none'}")
        return self._session[known] if known in self._session else self._load(known)

    def place_of(self, name: str) -> str | None:
        """``module:attribute`` of a name that a distribution lists; None for one of this session."""
        return None if name in self._session else self._places[name][0]

    def name_of(self, thing: Any) -> str | None:
        """The name under which ``thing`` (a class, a function) is registered; None for one that is not."""
        for name, registered in self._session.items():
            if registered is thing:
                return name
        place = _defined(thing)
        for name, places in self._places.items():
            if place in places:
                return name
        return None

    def register(self, name: str, thing: Any) -> None:
        """Make ``thing`` known by ``name`` as long as this process lives; the same class defined anew (a notebook's
        cell that is run again) takes the place of the old one. Raises ``ConfigError`` for a name that is taken."""
        held = self._session.get(name)
        known = self._known(name)
        if known is not None and _defined(thing) in self._places.get(known, ()):
            return  # a distribution lists it under this name
        again = held is not None and _defined(held) == _defined(thing)
        if known is not None and not again:
            what = self.place_of(known) or _defined(self._session[known])
            raise ConfigError(f"the name {name!r} is taken in {self.group}, by {what}", where=self.group,
                              hint="choose another name")
        self._session[name] = thing

    def forget(self, name: str) -> None:
        """Undo :meth:`register`."""
        self._session.pop(name, None)

    def _known(self, name: str) -> str | None:
        """``name`` as it is registered: exactly, or the only one that differs in case alone."""
        if name in self._session or name in self._places:
            return name
        alike = [known for known in self.names() if known.casefold() == name.casefold()]
        return alike[0] if len(alike) == 1 else None

    def _load(self, name: str) -> Any:
        places = self._places[name]
        if len(places) > 1:
            raise ConfigError(f"{name!r} is claimed by {' and '.join(places)}", where=self.group,
                              hint="uninstall one of the two distributions")
        try:
            return imported(places[0])
        except RegardError:
            raise
        except ImportError as error:
            raise MissingDependency(f"{name!r} cannot be imported from {places[0]}: {error}", where=self.group,
                                    hint="install the package that it needs") from error
        except Exception as error:
            raise ConfigError(f"{name!r} cannot be imported from {places[0]}: {error!r}", where=self.group,
                              hint="this is a fault of the distribution that brings it") from error


@functools.cache
def table(group: str) -> Table:
    """The table of an entry-point group."""
    return Table(group)


def imported(place: str) -> Any:
    """What stands at ``module:attribute``."""
    module, _, attribute = place.partition(":")
    return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))


def lazy(package: str, *tables: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's ``__getattr__``, which imports what its tables list when it is asked for."""
    places = {name: place for listed in tables for name, place in listed.items()}

    def __getattr__(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return imported(_absolute(places[name], package))

    return __getattr__


def html(value: Any) -> str:
    """``value`` as notebooks show it: by the renderer that the table ``regard.renderers`` has under its class's
    name."""
    rendered: str = table("regard.renderers")[type(value).__name__](value)
    return rendered


def _absolute(place: str, package: str) -> str:
    """``.bm25:BM25`` in ``regard.retrievers`` is ``regard.retrievers.bm25:BM25``."""
    return package + place if place.startswith(".") else place


def _defined(thing: Any) -> str:
    """Where a class or a function is defined; of any other value, where its class is."""
    return f"{thing.__module__}:{getattr(thing, '__qualname__', type(thing).__qualname__)}"
