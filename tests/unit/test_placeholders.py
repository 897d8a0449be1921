from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triggers.targets.placeholders import NAMES, render, unknown_placeholders

VALUES = {
    "scheduled_for": "2026-01-01T09:00:00Z",
    "event_id": "ev_1",
    "trigger_id": "tr_1",
    "trigger_name": "nightly",
    "attempt": "2",
}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["{{attempt}}", "{{x}}"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


def test_every_placeholder_is_replaced_wherever_a_string_is() -> None:
    value = {
        "a": "{{scheduled_for}}/{{event_id}}",
        "b": ["{{trigger_id}}", {"c": "{{trigger_name}}{{trigger_name}}"}, 1, None, True, 1.5],
        "d": {"e": [["try {{attempt}}!"]]},
    }
    assert render(value, VALUES) == {
        "a": "2026-01-01T09:00:00Z/ev_1",
        "b": ["tr_1", {"c": "nightlynightly"}, 1, None, True, 1.5],
        "d": {"e": [["try 2!"]]},
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_bare_string_is_a_value_too(name: str) -> None:
    assert render(f"{{{{{name}}}}}", VALUES) == VALUES[name]


@pytest.mark.parametrize(
    "text",
    [
        "{{ user.name }}",
        "{{ event_id }}",
        "{{foo}}",
        "{{event_id}",
        "{event_id}",
        "{{EVENT_ID}}",
        "{{event_id|upper}}",
        "{{event_id.__class__}}",
        "{{}}",
        "{{{{",
        "%(event_id)s $event_id",
    ],
)
def test_everything_else_passes_through_untouched(text: str) -> None:
    assert render({"a": text}, VALUES) == {"a": text}


def test_keys_stay_as_they_are() -> None:
    assert render({"{{event_id}}": "{{event_id}}"}, VALUES) == {"{{event_id}}": "ev_1"}


def test_what_was_put_in_is_not_searched_again() -> None:
    values = {**VALUES, "trigger_name": "{{event_id}}{{attempt}}"}
    assert render("{{trigger_name}}", values) == "{{event_id}}{{attempt}}"
    assert render("{{event_{{event_id}}}}", values) == "{{event_ev_1}}"


def test_a_placeholder_without_a_value_stays() -> None:
    assert render("{{attempt}} {{event_id}}", {"event_id": "ev_1"}) == "{{attempt}} ev_1"


def test_a_value_without_braces_is_returned_itself() -> None:
    value: dict[str, Any] = {"a": ["b", {"c": "{d}"}]}
    assert render(value, VALUES) is value


@given(JSON)
def test_the_value_itself_is_never_changed_and_its_shape_stays(value: Any) -> None:
    before = copy.deepcopy(value)
    render(value, VALUES)
    assert value == before
    assert render(value, {"attempt": "{{attempt}}"}) == before


def test_order_of_keys_stays() -> None:
    assert list(render({"b": "{{attempt}}", "a": "", "c": ""}, VALUES)) == ["b", "a", "c"]


def test_depth_does_not_matter() -> None:
    value: Any = "{{attempt}}"
    for _ in range(50_000):
        value = [value]
    rendered = render(value, VALUES)
    while isinstance(rendered, list):
        rendered = rendered[0]
    assert rendered == "2"


def test_unknown_words_are_named_once_and_sorted() -> None:
    value = {
        "a": "{{schedule_for}} {{event_id}} {{ other }}",
        "b": ["{{Attempt}}", "{{schedule_for}}"],
        "{{key}}": 1,
    }
    assert unknown_placeholders(value) == ["Attempt", "schedule_for"]


def test_a_value_without_placeholders_has_no_unknown_ones() -> None:
    assert unknown_placeholders({"a": [1, None, "text", "{{attempt}}"]}) == []
