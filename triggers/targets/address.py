"""Where a delivery may go: the text of a URL, and the addresses behind it. Pure: no I/O.

Parsers of URLs disagree about odd ones, and each disagreement is a way past a check. So a URL is parsed
once, here, strictly; what is sent is built from the result and never from the text again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network

from triggers.errors import InvalidUrl

MAX_URL_CHARACTERS = 2048
MAX_HOST_CHARACTERS = 253  # RFC 1035, section 2.3.4, without the dot of the root
MAX_LABEL_CHARACTERS = 63  # the same
MAX_ADDRESSES = 4  # of a name that one attempt tries; while they are silent, each has a socket open

DEFAULT_PORTS = {"http": 80, "https": 443}

Address = IPv4Address | IPv6Address

# `ipaddress.is_global` is no guide: by Python's version it is true for NAT64, 6to4, multicast and others
# that must not be reached. The source of these lists is IANA's special-purpose registries (RFC 6890).
_IPV4_FORBIDDEN = (
    IPv4Network("0.0.0.0/8"),  # this host
    IPv4Network("10.0.0.0/8"),  # private
    IPv4Network("100.64.0.0/10"),  # shared by a carrier's customers
    IPv4Network("127.0.0.0/8"),  # loopback
    IPv4Network("168.63.129.16/32"),  # the platform's own services, on Azure
    IPv4Network("169.254.0.0/16"),  # link-local, and with it the metadata services of clouds
    IPv4Network("172.16.0.0/12"),  # private
    IPv4Network("192.0.0.0/24"),  # protocol assignments
    IPv4Network("192.0.2.0/24"),  # documentation
    IPv4Network("192.88.99.0/24"),  # 6to4 relays
    IPv4Network("192.168.0.0/16"),  # private
    IPv4Network("198.18.0.0/15"),  # benchmarks
    IPv4Network("198.51.100.0/24"),  # documentation
    IPv4Network("203.0.113.0/24"),  # documentation
    IPv4Network("224.0.0.0/4"),  # multicast
    IPv4Network("240.0.0.0/4"),  # reserved, and broadcast
)
_IPV6_UNICAST = IPv6Network("2000::/3")
_IPV6_FORBIDDEN = (
    IPv6Network("2001::/23"),  # protocol assignments, Teredo among them
    IPv6Network("2001:db8::/32"),  # documentation
    IPv6Network("2002::/16"),  # 6to4, which wraps any IPv4 address
    IPv6Network("3fff::/20"),  # documentation
)
# What `ALLOW_PRIVATE_TARGETS` adds: loopback, private (RFC 1918, RFC 6598, RFC 4193) and link-local.
# By list again: multicast, 0.0.0.0 and the like are no targets of anyone.
_IPV4_PRIVATE = (
    IPv4Network("10.0.0.0/8"),
    IPv4Network("100.64.0.0/10"),
    IPv4Network("127.0.0.0/8"),
    IPv4Network("169.254.0.0/16"),
    IPv4Network("172.16.0.0/12"),
    IPv4Network("192.168.0.0/16"),
)
_IPV6_PRIVATE = (IPv6Network("::1/128"), IPv6Network("fc00::/7"), IPv6Network("fe80::/10"))

_LOCAL_DOMAINS = (".localhost", ".local", ".internal")

# `\Z` throughout, since `$` lets a newline pass.
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<rest>.*)\Z", re.DOTALL)
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(?::(?P<port>.*))?\Z", re.DOTALL)
_PORT = re.compile(r"[0-9]{1,5}\Z")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?\Z")
# What resolvers and browsers read as a number: digits, or hexadecimal (WHATWG URL, "ends in a number").
_NUMERIC_LABEL = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")
_DOTTED_QUAD = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}\Z")
# RFC 3986, section 2: everything else has to be percent-encoded.
_NOT_IN_PATH = re.compile(r"[^A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class Url:
    """A URL that was understood in full.

    `host` is in lower case, an IPv6 address without brackets and in its shortest form; `port` is always
    set; `path_and_query` begins with `/` and is sent as it stands; `literal` is the address when the host
    is one, and None when it is a name that must be resolved.
    """

    scheme: str
    host: str
    port: int
    path_and_query: str
    literal: Address | None

    @property
    def authority(self) -> str:
        """Host and, where it is not the scheme's own, port: the value of the Host header."""
        host = f"[{self.host}]" if isinstance(self.literal, IPv6Address) else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path_and_query}"


@lru_cache(maxsize=2_048)
def parse_url(text: str) -> Url:
    """Read the URL of an HTTP target, by RFC 3986 and more strictly.

    A fragment is refused, since it is never sent: who writes one expects something that will not happen.
    A dot at the end of a host name is refused too: it slips past comparisons of names. Underscores in
    host names are allowed, because names of containers have them.

    Raises `InvalidUrl`, with one sentence that says what is wrong.
    """
    _check_characters(text)
    parts = _URL.match(text)
    if parts is None:
        raise InvalidUrl("The URL must look like https://host/path.")
    scheme = parts["scheme"].lower()
    if scheme not in DEFAULT_PORTS:
        raise InvalidUrl("The URL must begin with http:// or https://.")
    if "@" in parts["authority"]:
        raise InvalidUrl("The URL must not contain a user name or password; send an Authorization header.")
    authority = _AUTHORITY.match(parts["authority"])
    if authority is None:
        raise InvalidUrl("The URL must have a host, optionally followed by one colon and a port.")
    host, literal = _parse_host(authority["host"].lower())
    port = DEFAULT_PORTS[scheme] if authority["port"] is None else _parse_port(authority["port"])
    return Url(scheme, host, port, _parse_rest(parts["rest"]), literal)


def _check_characters(text: str) -> None:
    """Refuse what some parser strips, folds or turns into a slash."""
    if not text:
        raise InvalidUrl("The URL is empty.")
    if len(text) > MAX_URL_CHARACTERS:
        raise InvalidUrl(f"The URL is longer than {MAX_URL_CHARACTERS:,} characters.")
    if not text.isascii():
        raise InvalidUrl(
            "The URL contains a character outside ASCII: percent-encode it, or write the host as xn--..."
        )
    if any(character <= " " or character == "\x7f" for character in text):
        raise InvalidUrl("The URL contains white space or a control character.")
    if "\\" in text:
        raise InvalidUrl("The URL contains a backslash.")


def _parse_host(text: str) -> tuple[str, Address | None]:
    """Read a host in lower case: a bracketed IPv6 address, a dotted quad, or a name."""
    if not text:
        raise InvalidUrl("The URL has no host.")
    if "%" in text:
        raise InvalidUrl("The host must not contain a percent sign, be it an encoding or a scope id.")
    if text.startswith("["):
        return _parse_ipv6(text[1:-1])
    if text.endswith("."):
        raise InvalidUrl("The host must not end with a dot.")
    if _NUMERIC_LABEL.match(text.rpartition(".")[2]):
        return _parse_ipv4(text)
    _check_name(text)
    return text, None


def _parse_ipv6(text: str) -> tuple[str, IPv6Address]:
    try:
        address = IPv6Address(text)
    except AddressValueError:
        raise InvalidUrl("The host in brackets is not an IPv6 address.") from None
    return address.compressed, address


def _parse_ipv4(text: str) -> tuple[str, IPv4Address]:
    """Read a host that looks like a number: only the plain form means the same address to everyone."""
    try:
        if not _DOTTED_QUAD.match(text):
            raise AddressValueError
        address = IPv4Address(text)  # refuses leading zeros, which some read as octal
    except AddressValueError:
        raise InvalidUrl(
            "The host looks like a number and must then be a plain IPv4 address such as 203.0.114.7."
        ) from None
    return text, address


def _check_name(text: str) -> None:
    if len(text) > MAX_HOST_CHARACTERS:
        raise InvalidUrl(f"The host is longer than {MAX_HOST_CHARACTERS} characters.")
    for label in text.split("."):
        if len(label) > MAX_LABEL_CHARACTERS:
            raise InvalidUrl(f"A part of the host is longer than {MAX_LABEL_CHARACTERS} characters.")
        if not _LABEL.match(label):
            raise InvalidUrl(
                "Each part of the host must be letters, digits, hyphens and underscores, "
                "with no hyphen first or last."
            )


def _parse_port(text: str) -> int:
    if not _PORT.match(text) or not 1 <= int(text) <= 65535:
        raise InvalidUrl("The port must be a number from 1 to 65535.")
    return int(text)


def _parse_rest(text: str) -> str:
    """Read path and query, which are then sent as they stand: a signed URL must arrive unchanged."""
    if "#" in text:
        raise InvalidUrl("The URL must not have a fragment (#...), which would never be sent.")
    if wrong := _NOT_IN_PATH.search(text):
        raise InvalidUrl(f"The URL contains {wrong[0]}, which must be written as %{ord(wrong[0]):02X}.")
    if _STRAY_PERCENT.search(text):
        raise InvalidUrl("Each % in the URL must be followed by two hexadecimal digits; write %25 for %.")
    return text if text.startswith("/") else f"/{text}"


def a_few(addresses: Sequence[Address]) -> list[Address]:
    """`MAX_ADDRESSES` of a name's addresses, in their order: half of them of each version of IP, as far as
    there are so many.
    """
    half = MAX_ADDRESSES // 2
    first = [a for version in (4, 6) for a in [a for a in addresses if a.version == version][:half]]
    chosen = [*first, *(a for a in addresses if a not in first)][:MAX_ADDRESSES]
    return [a for a in addresses if a in chosen]


def is_public(address: Address) -> bool:
    """Whether the address is one of the public internet, by a list of what is allowed.

    IPv4-mapped addresses (`::ffff:0:0/96`) are judged by the IPv4 address inside. Addresses with a scope
    id never are.
    """
    address = _unwrapped(address)
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _IPV4_FORBIDDEN)
    if address.scope_id is not None or address not in _IPV6_UNICAST:
        return False
    return not any(address in network for network in _IPV6_FORBIDDEN)


@lru_cache(maxsize=2_048)
def is_reachable(address: Address, allow_private: bool) -> bool:
    """Whether a delivery may connect to the address.

    `allow_private` adds loopback, private and link-local addresses to the public ones, and nothing else.
    """
    if is_public(address):
        return True
    if not allow_private:
        return False
    address = _unwrapped(address)
    if isinstance(address, IPv4Address):
        return any(address in network for network in _IPV4_PRIVATE)
    return any(address in network for network in _IPV6_PRIVATE)


def _unwrapped(address: Address) -> Address:
    if isinstance(address, IPv6Address) and address.scope_id is None and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def judge(url: Url, allow_private: bool) -> None:
    """Refuse, when a trigger is created, a URL that leads where deliveries may not go.

    Judges literal addresses. Names, of whatever kind, are resolved, and judged, at each attempt: what they
    mean here and today says nothing about there and tomorrow.

    Raises `InvalidUrl`.
    """
    if url.literal is not None and not is_reachable(url.literal, allow_private):
        raise InvalidUrl(f"The address {url.host} is not one that deliveries may go to.")


def is_local_name(host: str) -> bool:
    """Whether a name usually stands for this machine or one beside it (RFC 6761, 6762; ICANN's .internal)."""
    return host == "localhost" or host.endswith(_LOCAL_DOMAINS)
