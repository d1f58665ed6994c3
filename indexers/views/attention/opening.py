"""Which of an index's views of cached passages a reranker may read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from json import dumps, loads
from typing import Any

from ....rag.errors import FingerprintMismatch, IndexFormatError, IndexNotFound
from ....rag.lm import describe
from ....rag.lm.passages import Format
from ....rag.models import resolve, weights_hash
from ...stores.opening import shared_store
from ...stores.protocols import Store
from ..files import load_view
from ..versions import Version, newest_versions, versions_of
from .cached import CachedPassages
from .job import FORMAT, half_of
from .kind import AttentionCache


def open_prefills(index: str, lm: str, form: Format, last: int) -> CachedPassages:
    """Entry point ``regard.prefills: attention``: the stored keys and values of the passages of ``index`` by model
    ``lm``.

    For prompts of ``form``, up to layer ``last``. A view of another name with the same model's weights will do; of
    several the one with most bits is read. An index that has grown since is no error; a ranking with passages that the
    view lacks is. Raises ``IndexNotFound`` without such a view, ``FingerprintMismatch`` when it was made with other
    weights or another format, or for fewer layers.
    """
    try:
        return _opened(shared_store(index), lm, form, last)
    except (OSError, IndexFormatError):  # a job may have put a newer version in the place of the one that was found
        return _opened(shared_store(index), lm, form, last)


def _opened(store: Store, lm: str, form: Format, last: int) -> CachedPassages:
    wanted = _wanted(store, lm, form, last)
    version = _version_of(store, lm, wanted)
    if not version.damaged:
        _expect_same(version, wanted, store, lm)
    view: CachedPassages = load_view(version)
    view.layers = last + 1
    return view


def _wanted(store: Store, lm: str, form: Format, last: int) -> dict[str, Any]:
    """What must be stored to be what the reranker would compute."""
    info = describe(lm)
    return {"format": FORMAT, "weights": weights_hash(resolve(lm)), "prompt": loads(dumps(asdict(form))),
            "layers": last + 1,
            "kv_heads": info.kv_heads, "head_dim": info.head_dim, "half": half_of(info),
            "dataset": store.manifest["id"]}


def _version_of(store: Store, lm: str, wanted: Mapping[str, Any]) -> Version:
    """The view by this model: by its weights, else, for the error that follows, by its name."""
    views = [_of_this(version, store) for version in newest_versions(store.path)
             if isinstance(version.kind, AttentionCache)]
    same = [version for version in views if version.meta.get("made_by", {}).get("weights") == wanted["weights"]]
    named = [version for version in views if version.kind.model == lm]
    if same:
        return min(same, key=lambda v: (bool(_different(v, wanted)), v.kind.model != lm, -v.meta["made_by"]["bits"]))
    if not named:
        raise IndexNotFound(f"the index has no view attention:{lm}", where=str(store.path),
                            hint=f"add it: regard index --index {store.path} --view attention:{lm}; it has: "
                                 f"{', '.join(str(v.kind) for v in views) or 'no attention views'}")
    return named[0]


def _of_this(newest: Version, store: Store) -> Version:
    """The view for the store's own version where it is there, else the newest."""
    return next((v for v in versions_of(newest.folder.parent, store) if v.meta.get("commit") == store.commit), newest)


def _stored(version: Version) -> dict[str, Any]:
    return {**version.meta["made_by"], "dataset": version.meta["dataset"]}


def _different(version: Version, wanted: Mapping[str, Any]) -> set[str]:
    """In what the view differs from what is wanted; more layers are no difference."""
    stored = _stored(version)
    different = {key for key in wanted if stored.get(key) != wanted[key]}
    return different - {"layers"} if stored["layers"] >= wanted["layers"] else different


def _expect_same(version: Version, wanted: Mapping[str, Any], store: Store, lm: str) -> None:
    """Raise ``FingerprintMismatch`` unless what is stored is what the reranker would compute."""
    different = _different(version, wanted)
    if different:
        stored, show = _stored(version), sorted(different)
        raise FingerprintMismatch(
            f"the view {version.kind} holds other keys and values than asked for:\n"
            f"    stored: { {key: stored.get(key) for key in show} }\n    wanted: "
            f"{ {key: wanted[key] for key in show} }",
            where=str(version.folder), hint=_remedy(different, store, lm, wanted["layers"] - 1))


def _remedy(different: set[str], store: Store, lm: str, last: int) -> str:
    if "prompt" in different:
        return (f"rerank with the format of the cache (policy, max_words, turn: the defaults), or without cache; it "
                f"was "
                f"made for {Format()}")
    if different == {"layers"}:
        return (f"choose lower heads, or store more layers: regard index --index {store.path} "
                f"--view attention:{lm},last={last}")
    return f"make it anew: regard index --index {store.path} --view attention:{lm}"
