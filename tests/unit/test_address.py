from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triggers.errors import InvalidUrl
from triggers.targets.address import (
    Address,
    Url,
    a_few,
    is_local_name,
    is_public,
    is_reachable,
    judge,
    parse_url,
)

LONG_LABEL = "a" * 63
LONG_HOST = ".".join([LONG_LABEL, LONG_LABEL, LONG_LABEL, "a" * 61])  # 253 characters


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://hooks.example.org/report", ("https", "hooks.example.org", 443, "/report")),
        ("http://example.org", ("http", "example.org", 80, "/")),
        ("http://example.org?a=b", ("http", "example.org", 80, "/?a=b")),
        ("HTTP://Example.ORG:8080/A?B=%2f&c[]=1", ("http", "example.org", 8080, "/A?B=%2f&c[]=1")),
        ("https://example.org:1/", ("https", "example.org", 1, "/")),
        ("https://example.org:65535/", ("https", "example.org", 65535, "/")),
        ("https://a.example//a/../b/./?q=http://x:y@z/", ("https", "a.example", 443, "//a/../b/./?q=http://x:y@z/")),
        ("http://my_service/", ("http", "my_service", 80, "/")),
        ("http://xn--mnchen-3ya.example/", ("http", "xn--mnchen-3ya.example", 80, "/")),
        ("http://1password.com/", ("http", "1password.com", 80, "/")),
        ("http://1.2.3.example/", ("http", "1.2.3.example", 80, "/")),
        ("http://0xab.example/", ("http", "0xab.example", 80, "/")),
        (f"http://{LONG_HOST}/", ("http", LONG_HOST, 80, "/")),
    ],
)  # fmt: skip
def test_a_url_is_taken_apart(text: str, expected: tuple[str, str, int, str]) -> None:
    assert parse_url(text) == Url(*expected, literal=None)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("http://8.8.8.8/", "8.8.8.8"),
        ("http://127.0.0.1:80/", "127.0.0.1"),
        ("http://[2606:4700::1111]/", "2606:4700::1111"),
        ("http://[2606:4700:0:0:0:0:0:1111]:8080/", "2606:4700::1111"),
        ("http://[::1]/", "::1"),
        ("http://[::FFFF:10.0.0.1]/", str(ip_address("::ffff:10.0.0.1"))),
    ],
)
def test_a_literal_address_is_recognised(text: str, host: str) -> None:
    url = parse_url(text)
    assert (url.host, url.literal) == (host, ip_address(host))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("http://example.org/" + "a" * 2030, "longer than 2,048"),
        ("http://exämple.org/", "ASCII"),
        ("http://example.org/ä", "ASCII"),
        ("http://127。0。0。1/", "ASCII"),  # ideographic full stops, which IDNA folds
        ("http://a\\@127.0.0.1/", "backslash"),
        ("http://example.org\\.evil.example/", "backslash"),
        ("http://a\r\nb/", "white space or a control"),
        ("http://example.org/\n", "white space or a control"),
        (" http://example.org/", "white space or a control"),
        ("http://example.org/a b", "white space or a control"),
        ("http://example.org/\t", "white space or a control"),
        ("http://example.org/\0", "white space or a control"),
        ("http://example.org/\x7f", "white space or a control"),
        ("example.org", "must look like"),
        ("//example.org/", "must look like"),
        ("http:/example.org", "must look like"),
        ("http:example.org", "must look like"),
        ("://example.org", "must look like"),
        ("ftp://example.org/", "http:// or https://"),
        ("file:///etc/passwd", "http:// or https://"),
        ("javascript://example.org/", "http:// or https://"),
        ("http+unix://example.org/", "http:// or https://"),
        ("http://user@example.org/", "user name"),
        ("http://user:pass@example.org/", "user name"),
        ("http://@example.org/", "user name"),
        ("http:///path", "no host"),
        ("http://", "no host"),
        ("http://:80/", "no host"),
        ("http://example.org:/", "port must be"),
        ("http://example.org:0/", "port must be"),
        ("http://example.org:65536/", "port must be"),
        ("http://example.org:+80/", "port must be"),
        ("http://example.org:8_0/", "port must be"),
        ("http://example.org:80:80/", "port must be"),
        ("http://example.org:999999999999/", "port must be"),
        ("http://%31%32%37.0.0.1/", "percent sign"),
        ("http://example%2eorg/", "percent sign"),
        ("http://[fe80::1%25eth0]/", "percent sign"),
        ("http://[fe80::1%eth0]/", "percent sign"),
        ("http://[example.org]/", "not an IPv6"),
        ("http://[127.0.0.1]/", "not an IPv6"),
        ("http://[]/", "not an IPv6"),
        ("http://[v1.fe80]/", "not an IPv6"),
        ("http://[::1/", "must have a host"),
        ("http://::1/", "no host"),
        ("http://[::1]80/", "must have a host"),
        ("http://a[::1]/", "must have a host"),
        ("http://example.org./", "end with a dot"),
        ("http://127.0.0.1./", "end with a dot"),
        ("http://2130706433/", "looks like a number"),
        ("http://0x7f000001/", "looks like a number"),
        ("http://0X7F000001/", "looks like a number"),
        ("http://0x/", "looks like a number"),
        ("http://0177.0.0.1/", "looks like a number"),
        ("http://127.0.0.01/", "looks like a number"),
        ("http://127.1/", "looks like a number"),
        ("http://127.0.0.0x1/", "looks like a number"),
        ("http://1.2.3.4.5/", "looks like a number"),
        ("http://1.2.3.256/", "looks like a number"),
        ("http://example.1/", "looks like a number"),
        ("http://0/", "looks like a number"),
        (f"http://{LONG_LABEL}a.example/", "longer than 63"),
        (f"http://a{LONG_HOST}/", "longer than 253"),
        ("http://-a.example/", "Each part"),
        ("http://a-.example/", "Each part"),
        ("http://a..example/", "Each part"),
        ("http://.example/", "Each part"),
        ("http://a,b.example/", "Each part"),
        ("http://a*.example/", "Each part"),
        ("http://{{host}}/", "Each part"),
        ("http://example.org/#top", "fragment"),
        ("http://example.org#@127.0.0.1/", "fragment"),
        ("http://example.org/{{event_id}}", "must be written as %7B"),
        ("http://example.org/?a=<b>", "must be written as %3C"),
        ('http://example.org/"', "must be written as %22"),
        ("http://example.org/?a=100%", "two hexadecimal digits"),
        ("http://example.org/%zz", "two hexadecimal digits"),
    ],
)
def test_a_url_that_someone_may_read_differently_is_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidUrl, match=words) as caught:
        parse_url(text)
    assert str(caught.value).count("\n") == 0


@given(st.text(max_size=40) | st.from_regex(r"https?://[ -~]{1,40}", fullmatch=True))
def test_whatever_is_accepted_reads_the_same_again(text: str) -> None:
    try:
        url = parse_url(text)
    except InvalidUrl:
        return
    assert parse_url(str(url)) == url


@pytest.mark.parametrize(
    ("text", "authority"),
    [
        ("http://example.org:80/", "example.org"),
        ("https://example.org:80/", "example.org:80"),
        ("https://[::1]:443/", "[::1]"),
        ("https://[::1]:80/", "[::1]:80"),
    ],
)
def test_the_authority_names_the_port_only_where_it_is_not_the_default(text: str, authority: str) -> None:
    assert parse_url(text).authority == authority


PUBLIC = [
    "1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0",
    "168.63.129.15", "168.63.129.17", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0",
    "191.255.255.255", "192.0.1.0", "192.0.3.0", "192.88.98.255", "192.88.100.0", "192.167.255.255",
    "192.169.0.0", "198.17.255.255", "198.20.0.0", "198.51.99.255", "198.51.101.0", "203.0.112.255",
    "203.0.114.0", "223.255.255.255",
    "2000::", "2001:200::", "2001:db7:ffff::", "2001:db9::", "2003::", "2606:4700::1111", "3ffe::",
    "3fff:1000::", "::ffff:8.8.8.8",
]  # fmt: skip
PRIVATE = [
    "10.0.0.0", "10.255.255.255", "100.64.0.0", "100.127.255.255", "127.0.0.1", "127.255.255.255",
    "169.254.169.254", "172.16.0.0", "172.31.255.255", "192.168.0.0", "192.168.255.255",
    "::1", "fc00::", "fdff::1", "fe80::1", "::ffff:127.0.0.1", "::ffff:192.168.1.1",
]  # fmt: skip
NOBODY = [
    "0.0.0.0", "0.255.255.255", "168.63.129.16", "192.0.0.0", "192.0.0.192", "192.0.2.1", "192.88.99.1",
    "198.18.0.0", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255",
    "240.0.0.0", "255.255.255.255",
    "::", "::7f00:1", "64:ff9b::7f00:1", "64:ff9b:1::1", "100::1", "1fff:ffff::", "2001::1",
    "2001:1ff:ffff::", "2001:db8::1", "2002:7f00:1::", "3fff::1", "3fff:fff:ffff::", "4000::", "fec0::1",
    "ff02::1", "::ffff:0.0.0.0", "::ffff:0:7f00:1", "2606:4700::1111%eth0",
]  # fmt: skip


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses_may_be_reached(text: str) -> None:
    assert is_public(ip_address(text))
    assert is_reachable(ip_address(text), allow_private=False)


@pytest.mark.parametrize("text", PRIVATE)
def test_private_addresses_need_the_setting(text: str) -> None:
    address = ip_address(text)
    assert not is_public(address)
    assert not is_reachable(address, allow_private=False)
    assert is_reachable(address, allow_private=True)


@pytest.mark.parametrize("text", NOBODY)
def test_addresses_of_no_single_host_may_never_be_reached(text: str) -> None:
    assert not is_public(ip_address(text))
    assert not is_reachable(ip_address(text), allow_private=True)


@pytest.mark.parametrize("text", ["http://127.0.0.1/", "http://[::1]/"])
def test_this_machine_is_refused_at_creation_unless_private_targets_are_allowed(text: str) -> None:
    with pytest.raises(InvalidUrl, match=r"deliveries may (not )?go"):
        judge(parse_url(text), allow_private=False)
    judge(parse_url(text), allow_private=True)


def test_an_address_of_no_single_host_is_refused_at_creation_with_the_setting_too() -> None:
    with pytest.raises(InvalidUrl):
        judge(parse_url("http://0.0.0.0/"), allow_private=True)


@pytest.mark.parametrize("text", ["http://8.8.8.8/", "http://example.org/", "http://localhost/"])
def test_other_hosts_pass_at_creation(text: str) -> None:
    judge(parse_url(text), allow_private=False)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True),
        ("A.LocalHost", True),
        ("printer.local", True),
        ("host.docker.internal", True),
        ("notlocalhost", False),
        ("local.example", False),
        ("nonlocal", False),
    ],
)
def test_local_names_are_known(host: str, local: bool) -> None:
    assert is_local_name(parse_url(f"http://{host}/").host) is local


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        ("a b", "a b"),
        ("a b c d e f", "a b c d"),
        ("a b c d e ::1 ::2 ::3", "a b ::1 ::2"),
        ("::1 a ::2 ::3 b c", "::1 a ::2 b"),
        ("::1 a b c d", "::1 a b c"),
        ("a ::1 ::2 ::3 ::4", "a ::1 ::2 ::3"),
    ],
)
def test_a_few_addresses_are_of_both_versions_and_in_their_order(found: str, kept: str) -> None:
    def addresses(text: str) -> list[Address]:
        numbers = {letter: f"127.0.0.{number}" for number, letter in enumerate("abcdef", 1)}
        return [ip_address(numbers.get(one, one)) for one in text.split()]

    assert a_few(addresses(found)) == addresses(kept)
