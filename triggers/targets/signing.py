"""Signatures of deliveries, by Standard Webhooks 1.0.0 (symmetric, `v1`). Pure.

A secret is `whsec_` and base64 of the key, or a plain text whose UTF-8 bytes are the key. Several secrets
separated by a space give several signatures, so that a receiver can change its secret without a gap: write
the new one beside the old, change the receiver, remove the old one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

PREFIX = "whsec_"
ASYMMETRIC_PREFIXES = ("whsk_", "whpk_")

# Standard Webhooks 1.0.0, "Signature scheme": between 24 bytes (192 bits) and 64 bytes (512 bits).
MIN_KEY_BYTES = 24
MAX_KEY_BYTES = 64
# A plain text is whatever the receiver was given, so only what cannot be meant is refused.
MIN_TEXT_BYTES = 8
MAX_TEXT_BYTES = 256
MAX_SECRETS = 10


def sign(secret: str, event_id: str, timestamp: int, body: bytes) -> str:
    """Return the value of `webhook-signature`: `v1,<base64>` for each secret, separated by a space.

    `timestamp` is the attempt's, in whole seconds of Unix time, and `body` the bytes that are sent.

    Raises `ValueError`, without the secret in its text, for a secret that `check_secret` refuses as
    malformed; lengths are not looked at here.
    """
    content = f"{event_id}.{timestamp}.".encode() + body
    return " ".join(_signature(_key(part), content) for part in secret.split(" ") if part)


def check_secret(text: str) -> None:
    """Raise `ValueError`, with one sentence and without the secret in it, for what is not a secret."""
    if any(character < " " or character == "\x7f" for character in text):
        raise ValueError("The secret contains a control character.")
    parts = text.split(" ")
    if not all(parts):
        raise ValueError("The secret is empty, or has blanks other than a single one between two secrets.")
    if len(parts) > MAX_SECRETS:
        raise ValueError(f"There are more than {MAX_SECRETS} secrets.")
    for part in parts:
        _check_length(part, len(_key(part)))


def _check_length(part: str, size: int) -> None:
    least, most = (
        (MIN_KEY_BYTES, MAX_KEY_BYTES) if part.startswith(PREFIX) else (MIN_TEXT_BYTES, MAX_TEXT_BYTES)
    )
    kind = f"The key behind {PREFIX}" if part.startswith(PREFIX) else "The secret"
    if size < least:
        raise ValueError(f"{kind} is too short: {size} bytes, and it must have {least} to {most}.")
    if size > most:
        raise ValueError(f"{kind} is too long: {size} bytes, and it must have {least} to {most}.")


def _key(part: str) -> bytes:
    """Return the key of one secret."""
    if part.startswith(ASYMMETRIC_PREFIXES):
        raise ValueError(f"A secret for signing begins with {PREFIX}; asymmetric keys cannot be used.")
    if not part.startswith(PREFIX):
        try:
            return part.encode()
        except UnicodeEncodeError:
            raise ValueError("The secret is not valid Unicode text.") from None
    encoded = part.removeprefix(PREFIX)
    try:
        # The padding is optional, as it is to the reference libraries.
        return base64.b64decode(encoded.rstrip("=") + "=" * (-len(encoded.rstrip("=")) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"What follows {PREFIX} in the secret is not base64.") from None


def _signature(key: bytes, content: bytes) -> str:
    digest = hmac.new(key, content, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"
