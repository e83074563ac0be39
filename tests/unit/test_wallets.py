"""Addresses and signers, held against eth-account."""

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct
from eth_utils.address import to_canonical_address, to_checksum_address
from hypothesis import given
from hypothesis import strategies as st

from energy_market.domain.errors import InvalidRequest
from energy_market.domain.wallets import keccak256, parse_address, parse_signature, signer_of

CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
PRIVATE_KEYS = st.integers(min_value=1, max_value=CURVE_ORDER - 1).map(lambda key: key.to_bytes(32))

# The examples of EIP-55.
SPELLINGS = [
    "0x52908400098527886E0F7030069857D2E4169EE7",
    "0x8617E340B3D01FA5F11F306F4090FD50E238070D",
    "0xde709f2102306220921060314715629080e2fb77",
    "0x27b1fdb04752bbc536007a920d24acb045561c26",
    "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
    "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
    "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
    "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_examples_of_eip_55_are_accepted_as_they_are(spelling: str) -> None:
    assert parse_address(spelling) == spelling


@given(st.binary(min_size=20, max_size=20))
def test_an_address_without_a_checksum_gets_its_spelling(address: bytes) -> None:
    spelling = to_checksum_address(address)
    assert parse_address("0x" + address.hex()) == spelling
    assert parse_address("0x" + address.hex().upper()) == spelling
    assert parse_address(spelling) == spelling


@given(st.binary(min_size=20, max_size=20), st.integers(min_value=0, max_value=39))
def test_one_letter_in_the_wrong_case_is_a_wrong_checksum(address: bytes, position: int) -> None:
    digits = to_checksum_address(address)[2:]
    wrong = digits[:position] + digits[position].swapcase() + digits[position + 1 :]
    if wrong in (digits, wrong.lower(), wrong.upper()):
        return
    with pytest.raises(InvalidRequest, match="checksum"):
        parse_address("0x" + wrong)


@pytest.mark.parametrize(
    "value",
    [
        None,
        5,
        True,
        b"0x52908400098527886E0F7030069857D2E4169EE7",
        "",
        "0x",
        "52908400098527886E0F7030069857D2E4169EE7",
        "0X52908400098527886E0F7030069857D2E4169EE7",
        "0x52908400098527886E0F7030069857D2E4169EE",
        "0x52908400098527886E0F7030069857D2E4169EE70",
        "0x52908400098527886E0F7030069857D2E4169EEg",
        "0x52908400098527886E0F7030069857D2E4169EE7\n",
        "0x\uff152908400098527886E0F7030069857D2E4169EE",
    ],
)
def test_what_is_no_address_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse_address(value)
    assert refusal.value.code == "invalid_wallet_address"


@given(PRIVATE_KEYS, st.text(max_size=300), st.sampled_from([0, 27]))
def test_the_signer_is_the_one_that_signed(private_key: bytes, message: str, v_base: int) -> None:
    signed = Account.sign_message(encode_defunct(text=message), private_key)
    signature = bytes(signed.signature[:64]) + bytes([signed.v - 27 + v_base])
    parsed = parse_signature("0x" + signature.hex())
    address = to_canonical_address(Account.from_key(private_key).address)
    assert signer_of(message, parsed) == address
    assert signer_of(message + ".", parsed) != address


@given(st.binary(min_size=64, max_size=64), st.sampled_from([27, 28]))
def test_whatever_is_sent_as_a_signature_the_oracle_agrees_on_its_signer(rs: bytes, v: int) -> None:
    try:
        signature = parse_signature("0x" + (rs + bytes([v])).hex())
    except InvalidRequest:
        assert int.from_bytes(rs[32:]) > CURVE_ORDER // 2
        return
    try:
        expected = to_canonical_address(Account.recover_message(encode_defunct(text="m"), signature=signature))
    except Exception:  # noqa: BLE001 - the oracle has many ways to refuse
        expected = None
    assert signer_of("m", signature) == expected


def test_the_high_twin_of_a_signature_is_refused() -> None:
    signed = Account.sign_message(encode_defunct(text="m"), b"\x01" * 32)
    twin = signed.r.to_bytes(32) + (CURVE_ORDER - signed.s).to_bytes(32) + bytes([55 - signed.v])
    assert Account.recover_message(encode_defunct(text="m"), signature=twin) == Account.from_key(b"\x01" * 32).address
    with pytest.raises(InvalidRequest, match="high s"):
        parse_signature("0x" + twin.hex())


@pytest.mark.parametrize("signature", [b"\0" * 65, b"\xff" * 31 + b"\0" * 33 + b"\x1b", b"\x01" + b"\0" * 64])
def test_numbers_that_no_key_gives_have_no_signer(signature: bytes) -> None:
    assert signer_of("m", signature) is None


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        "",
        "0x",
        "0x" + "11" * 64,
        "0x" + "11" * 66,
        "0x" + "11" * 64 + "02",
        "0x" + "11" * 64 + "1d",
        "11" * 65,
        "0x" + "11" * 64 + "1b\n",
        "0x" + "1_" * 65,
    ],
)
def test_what_is_no_signature_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse_signature(value)
    assert refusal.value.code == "malformed_signature"


def test_the_hash_is_ethereums_keccak_not_sha3() -> None:
    assert keccak256(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
