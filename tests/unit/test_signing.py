from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook

from triggers.targets.signing import MAX_CHARACTERS, check_secret, secret_warnings, sign

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + base64.b64encode(b"k" * 32).decode()
NOW = 1_614_265_330


def oracle(secret: str | bytes, event_id: str, timestamp: int, body: str) -> str:
    return Webhook(secret).sign(event_id, datetime.fromtimestamp(timestamp, UTC), body)


def encoded(size: int) -> str:
    return "whsec_" + base64.b64encode(b"k" * size).decode()


def test_the_example_that_the_libraries_of_standard_webhooks_share() -> None:
    signature = sign(SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", NOW, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@given(st.binary(min_size=1, max_size=64), st.integers(0, 2**33), st.text(st.characters(codec="utf-8")))
def test_a_signature_is_what_the_reference_library_makes(key: bytes, timestamp: int, body: str) -> None:
    secret = "whsec_" + base64.b64encode(key).decode()
    assert sign(secret, "ev_1", timestamp, body.encode()) == oracle(secret, "ev_1", timestamp, body)


def test_padding_may_be_left_out() -> None:
    secret = encoded(25)
    assert secret.endswith("==")
    assert sign(secret.rstrip("="), "ev_1", NOW, b"") == sign(secret, "ev_1", NOW, b"")


def test_the_bytes_of_a_plain_text_are_the_key() -> None:
    assert sign("grüner-Tee", "ev_1", NOW, b"x") == oracle("grüner-Tee".encode(), "ev_1", NOW, "x")


def test_each_secret_gives_a_signature() -> None:
    both = sign(f"{SECRET} {OTHER}", "ev_1", NOW, b"x")
    assert both.split(" ") == [oracle(SECRET, "ev_1", NOW, "x"), oracle(OTHER, "ev_1", NOW, "x")]


def test_bodies_need_not_be_text() -> None:
    assert sign(SECRET, "ev_1", NOW, b"\xff") != sign(SECRET, "ev_1", NOW, b"\xfe")


@pytest.mark.parametrize(
    "secret", [SECRET, f"{SECRET} {OTHER}", encoded(1), encoded(256), "x", "x" * 256, "pässwörter", "a\tb\n"]
)
def test_good_secrets_pass(secret: str) -> None:
    check_secret(secret)
    assert sign(secret, "ev_1", NOW, b"").startswith("v1,")


def test_the_longest_secret_is_as_long_as_is_said() -> None:
    longest = " ".join([encoded(256)] * 10)
    check_secret(longest)
    assert len(longest) == MAX_CHARACTERS


@pytest.mark.parametrize(
    ("secret", "words"),
    [
        (SECRET, []),
        (encoded(24), []),
        ("x" * 24, []),
        (encoded(23), ["fewer than 24 bytes"]),
        ("x" * 23, ["fewer than 24 bytes"]),
        (f"{SECRET} short", ["fewer than 24 bytes"]),
        ("x" * 24 + "\n", ["control character"]),
    ],
)
def test_odd_secrets_are_warned_of_without_being_shown(secret: str, words: list[str]) -> None:
    found = secret_warnings(secret)
    assert len(found) == len(words)
    for text, word in zip(found, words, strict=True):
        assert word in text
        assert secret not in text


@pytest.mark.parametrize(
    ("secret", "words"),
    [
        ("", "empty"),
        (" ", "empty"),
        (f" {SECRET}", "blanks"),
        (f"{SECRET} ", "blanks"),
        (f"{SECRET}  {OTHER}", "blanks"),
        (f"{SECRET}\n", "not base64"),
        (f"{SECRET}\t{OTHER}", "not base64"),
        ("whsec_", "too short"),
        (encoded(257), "too long: 257 bytes"),
        ("whsec_!" + "A" * 40, "not base64"),
        ("whsec_-_" + "A" * 40, "not base64"),
        ("whsec_" + "A" * 41, "not base64"),
        ("whsec_" + "ä" * 40, "not base64"),
        ("whsec_AA==" + "A" * 40, "not base64"),
        ("whsk_" + "A" * 44, "asymmetric"),
        ("x" * 257, "too long: 257 bytes"),
        ("\ud800" * 10, "Unicode"),
        (f"{SECRET} whsec_", "too short"),
        (" ".join([SECRET] * 11), "more than 10"),
    ],
)
def test_bad_secrets_are_refused_without_being_shown(secret: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        check_secret(secret)
    if len(secret) > 8:
        assert secret.removeprefix("whsec_") not in str(caught.value)


def test_signing_refuses_what_is_not_base64() -> None:
    with pytest.raises(ValueError, match="not base64"):
        sign("whsec_!", "ev_1", NOW, b"")
