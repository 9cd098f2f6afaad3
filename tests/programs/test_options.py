from typing import Any

import pytest

from programs.options import read_extra


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("reasoning_effort=low", {"reasoning_effort": "low"}),
        (
            "num_ctx=16384, think=false,api_version=2024-10-21",
            {"num_ctx": 16384, "think": False, "api_version": "2024-10-21"},
        ),
        ("stop=a=b", {"stop": "a=b"}),
        ('{"extra_body": {"top_k": 20}, "stop": [",", "="]}', {"extra_body": {"top_k": 20}, "stop": [",", "="]}),
    ],
)
def test_extra_parameters_are_read(text: str, found: dict[str, Any]) -> None:
    assert read_extra(text) == found
