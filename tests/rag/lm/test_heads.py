"""Files of heads from elsewhere: what is no head set is a ``ConfigError``, and never a wrong choice of heads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from regard.rag.errors import ConfigError
from regard.rag.lm import heads
from regard.rag.lm.heads import chosen, published_heads

SHIPPED = Path(heads.__file__).parent / "head_sets" / "smollm2-block.json"


def first(data: Any) -> Any:
    return data["measures"]["ndcg"]


def tables(data: Any) -> list[Any]:
    return [table for kind in ("measures", "intervals") for table in data[kind].values()]


DAMAGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "nan": lambda data: first(data)[0].__setitem__(0, float("nan")),
    "infinity": lambda data: first(data)[3].__setitem__(2, float("inf")),
    "text": lambda data: first(data)[0].__setitem__(0, "1"),
    "null": lambda data: first(data)[0].__setitem__(0, None),
    "truth": lambda data: data["measures"].update(ndcg=[[True] * 9] * 30),
    "a head less": lambda data: first(data)[0].pop(),
    "a layer less": lambda data: first(data).pop(),
    "a head less in all": lambda data: [row.pop() for table in tables(data) for row in table],
    "a layer more in all": lambda data: [table.append(table[0]) for table in tables(data)],
    "no measure": lambda data: data.update(measures={}, intervals={}),
    "an empty table": lambda data: data["measures"].update(ndcg=[]),
    "a list of measures": lambda data: data.update(measures=[1]),
    "an interval's nan": lambda data: data["intervals"]["ndcg"][0].__setitem__(0, [float("nan"), 1]),
    "no intervals": lambda data: data.update(intervals={}),
    "a field more": lambda data: data.update(more=1),
    "a number for weights": lambda data: data.update(weights=1),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_head_set_is_refused(damage: str, tmp_path: Path) -> None:
    data = json.loads(SHIPPED.read_text())
    file = tmp_path / "heads.json"
    file.write_text(json.dumps(data))
    assert chosen(str(file), "smollm2", "ndcg", 8, "block") == chosen("shipped", "smollm2", "ndcg", 8, "block")
    DAMAGES[damage](data)
    (tmp_path / "damaged.json").write_text(json.dumps(data))
    with pytest.raises(ConfigError):
        chosen(str(tmp_path / "damaged.json"), "smollm2", "ndcg", 8, "block")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"1-2": NaN}', '{"1-2": "x"}', '{"1-2": null}', '{"1-2": []}',
                                  '[["1-2"]]', "[1]",
                                  "1", "null", '{"1-2": [1, [2]]}', '{"-1-2": 1}', "attn_head_set: 5",
                                  "attn_head_set: ''", "[" * 100_000])
def test_what_is_no_published_file_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "heads"
    file.write_text(text)
    with pytest.raises(ConfigError):
        published_heads(file)
