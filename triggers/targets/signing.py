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

# A secret is whatever the receiver was given, so only what cannot be meant is refused.
MAX_KEY_BYTES = 256
# Standard Webhooks 1.0.0, "Signature scheme": at least 192 bits. What is shorter is warned of.
GOOD_KEY_BYTES = 24
MAX_SECRETS = 10
LONGEST_SECRET = len(PREFIX) + 4 * -(-MAX_KEY_BYTES // 3)  # characters, in base64
MAX_CHARACTERS = MAX_SECRETS * LONGEST_SECRET + MAX_SECRETS - 1


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
    parts = text.split(" ")
    if not all(parts):
        raise ValueError("The secret is empty, or has blanks other than a single one between two secrets.")
    if len(parts) > MAX_SECRETS:
        raise ValueError(f"There are more than {MAX_SECRETS} secrets.")
    for part in parts:
        _check_length(part, len(_key(part)))


def secret_warnings(text: str) -> list[str]:
    """Sentences about a secret that is valid, but perhaps not what was meant. The secret is not in them."""
    found = []
    if any(len(_key(part)) < GOOD_KEY_BYTES for part in text.split(" ")):
        found.append(
            f"the secret has a key of fewer than {GOOD_KEY_BYTES} bytes: a short one can be guessed, and "
            "Standard Webhooks asks for more"
        )
    if any(character < " " or character == "\x7f" for character in text):
        found.append(
            "the secret contains a control character, such as a line break, which is part of the key"
        )
    return found


def _check_length(part: str, size: int) -> None:
    if 1 <= size <= MAX_KEY_BYTES:
        return
    kind = f"The key behind {PREFIX}" if part.startswith(PREFIX) else "The secret"
    wrong = "long" if size else "short"
    raise ValueError(f"{kind} is too {wrong}: {size} bytes, and it must have 1 to {MAX_KEY_BYTES}.")


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
