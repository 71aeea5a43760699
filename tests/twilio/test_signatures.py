"""Signatures and media tokens."""

from __future__ import annotations

import base64
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import ImmutableMultiDict
from twilio.request_validator import RequestValidator

from phoneagent import RequestRefused
from phoneagent.twilio.signatures import MAX_SIGNED_CHARS, TOKEN_SECONDS, MediaTokens, Signatures, worker_of

# Twilio's published examples, with the auth token "12345".
PARAMS = {
    "CallSid": "CA1234567890ABCDE",
    "Caller": "+14158675310",
    "Digits": "1234",
    "From": "+14158675310",
    "To": "+18005551212",
}
VECTORS = [
    ("https://example.com/myapp.php?foo=1&bar=2", PARAMS, "L/OH5YylLD5NRKLltdqwSvS0BnU="),
    ("https://example.com/voice", PARAMS, "9g8YAAOQ5ES9VL71cDHaE9dwrzU="),
    ("wss://example.com/ws", {}, "HXrgvHt0qTHu33oSxSjpOvWtO60="),
]


@pytest.mark.parametrize(("url", "params", "signature"), VECTORS)
def test_twilio_s_signatures_are_recognized(url: str, params: dict[str, str], signature: str) -> None:
    Signatures(["12345"]).verify(url, params, signature)


@pytest.mark.parametrize("signature", [None, "", "bogus", "L/OH5YylLD5NRKLltdqwSvS0BnU", "é"])
def test_anything_else_is_refused_and_never_repeated(signature: str | None) -> None:
    with pytest.raises(RequestRefused) as raised:
        Signatures(["12345"]).verify(*VECTORS[0][:2], signature)
    assert "https://example.com/myapp.php?…" in str(raised.value)
    assert not signature or signature not in str(raised.value)


def by_shared_key(algorithm: str) -> str:
    return f"key=webhooks_sharedkey_01, algorithm={algorithm}"


@pytest.mark.parametrize("algorithm", ["HMAC_SHA1", "HMAC_SHA256"])
def test_a_shared_key_signs_with_the_algorithm_that_it_names(algorithm: str) -> None:
    url, params, _ = VECTORS[0]
    signatures = Signatures(["auth-token", "shared-secret"])
    digest = algorithm.removeprefix("HMAC_")
    text = url + "".join(name + value for name, value in sorted(params.items()))
    signature = base64.b64encode(hmac.digest(b"shared-secret", text.encode(), digest)).decode()
    signatures.verify(url, params, signature, settings=by_shared_key(algorithm))
    other = "HMAC_SHA1" if algorithm == "HMAC_SHA256" else "HMAC_SHA256"
    with pytest.raises(RequestRefused, match="the shared key's secret"):
        signatures.verify(url, params, signature, settings=by_shared_key(other))
    with pytest.raises(RequestRefused, match="the shared key's secret"):
        Signatures(["auth-token"]).verify(url, params, signature, settings=by_shared_key(algorithm))
    if algorithm == "HMAC_SHA256":
        with pytest.raises(RequestRefused):
            signatures.verify(url, params, signature)


@pytest.mark.parametrize("algorithm", ["HMAC_SHA512", "HMAC_MD5", "hmac_sha1", "NONE"])
def test_an_algorithm_that_is_not_known_is_refused(algorithm: str) -> None:
    url, params, signature = VECTORS[0]
    signatures = Signatures(["12345"])
    with pytest.raises(RequestRefused, match=f"signed in an unknown way: .*{algorithm}"):
        signatures.verify(url, params, signature, settings=by_shared_key(algorithm))
    assert signatures.find([url], params, signature, by_shared_key(algorithm)) is None


texts = st.text(st.characters(codec="utf-8"), max_size=5)


@given(st.lists(st.tuples(texts, texts), max_size=8))
def test_a_form_is_signed_as_twilio_s_library_signs_it(fields: list[tuple[str, str]]) -> None:
    url, form = "https://example.com/voice?x=1", ImmutableMultiDict(fields)
    signature = RequestValidator("12345").compute_signature(url, form)
    Signatures(["12345"]).verify(url, form, signature)
    with pytest.raises(RequestRefused):
        Signatures(["12345"]).verify(url, ImmutableMultiDict([*fields, ("x", "another value")]), signature)


def test_a_large_form_is_not_tried_with_every_spelling() -> None:
    url = "https://example.com/voice?"
    signature = RequestValidator("12345").compute_signature(f"{url}a=%3A&b=1", {})
    Signatures(["12345"]).verify(f"{url}b=1&a=:", {}, signature)
    form = {"f": "x" * (MAX_SIGNED_CHARS // 4)}
    for signed in ("b=1&a=:", "b=1&a=%3A"):
        Signatures(["12345"]).verify(
            f"{url}b=1&a=:", form, RequestValidator("12345").compute_signature(url + signed, form)
        )
    signature = RequestValidator("12345").compute_signature(f"{url}a=%3A&b=1", form)
    with pytest.raises(RequestRefused):
        Signatures(["12345"]).verify(f"{url}b=1&a=:", form, signature)


def test_a_token_brings_back_its_call_once() -> None:
    tokens = MediaTokens(["secret-token"])
    token = tokens.issue("CA123", now=1000)
    assert token.replace("-", "").replace("_", "").isalnum()
    ticket = tokens.redeem(token, now=1000 + TOKEN_SECONDS)
    assert (ticket.call_sid, ticket.resumes) == ("CA123", False)
    with pytest.raises(RequestRefused, match="twice"):
        tokens.redeem(token, now=1001)


def test_a_token_works_in_another_process() -> None:
    token = MediaTokens(["secret-token"]).issue("CA123", now=1000)
    assert MediaTokens(["secret-token"]).redeem(token, now=1001).call_sid == "CA123"
    with pytest.raises(RequestRefused, match="not one of ours"):
        MediaTokens(["another-token"]).redeem(token, now=1001)


def test_a_token_says_whether_its_call_goes_on_and_is_one_of_its_kind() -> None:
    tokens = MediaTokens(["secret-token"])
    tickets = [tokens.redeem(tokens.issue("CA123", 1000, resumes=resumes), 1000) for resumes in (True, True, False)]
    assert [ticket.resumes for ticket in tickets] == [True, True, False]
    assert len({ticket.nonce for ticket in tickets}) == 3


def test_during_a_rotation_the_first_token_signs_and_all_of_them_verify() -> None:
    old, both, new = MediaTokens(["old"]), MediaTokens(["new", "old"]), MediaTokens(["new"])
    assert both.redeem(old.issue("CA123", 1000), 1000).call_sid == "CA123"
    assert new.redeem(both.issue("CA123", 1000), 1000).call_sid == "CA123"
    with pytest.raises(RequestRefused):
        new.redeem(old.issue("CA123", 1000), 1000)
    url, params, signature = VECTORS[0]
    Signatures(["another", "12345"]).verify(url, params, signature)
    with pytest.raises(RequestRefused):
        Signatures(["another"]).verify(url, params, signature)


def test_a_token_grows_old() -> None:
    tokens = MediaTokens(["secret-token"])
    with pytest.raises(RequestRefused, match="too old"):
        tokens.redeem(tokens.issue("CA123", now=1000), now=1001 + TOKEN_SECONDS)


def test_every_altered_character_is_noticed() -> None:
    tokens = MediaTokens(["secret-token"])
    token = tokens.issue("CA123", now=1000)
    for place in range(len(token) - 1):
        altered = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
        with pytest.raises(RequestRefused):
            tokens.redeem(altered, now=1000)
    for nonsense in ("", "A", "é", "a b", token[:40], "=" * 9):
        with pytest.raises(RequestRefused):
            tokens.redeem(nonsense, now=1000)


def test_spent_tokens_are_forgotten_when_they_are_too_old_anyway() -> None:
    tokens = MediaTokens(["secret-token"])
    for now in range(0, 10 * TOKEN_SECONDS, TOKEN_SECONDS // 2):
        tokens.redeem(tokens.issue("CA123", now), now)
    assert len(tokens._spent) <= 4


@pytest.mark.parametrize("worker", [None, 0, 1, 31])
def test_a_token_names_the_process_that_expects_its_call(worker: int | None) -> None:
    tokens = MediaTokens(["secret-token"])
    token = tokens.issue("CA123", 1000, worker=worker)
    assert worker_of(token) == worker
    ticket = tokens.redeem(token, 1000)
    assert (ticket.call_sid, ticket.worker) == ("CA123", worker)


@pytest.mark.parametrize("token", ["", "A", "é", "a b", "=" * 9, "A" * 150, "A" * 100_000])
def test_nonsense_names_no_process(token: str) -> None:
    assert worker_of(token) is None
