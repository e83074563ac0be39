"""Wallet addresses and the signatures that prove them.

Only the parts of Ethereum that signing in needs: EIP-55 addresses, EIP-191 personal messages, and the recovery of a
signer. Built on libsecp256k1 and Keccak alone: importing `eth-account` takes longer than the whole request, so it only
serves as an oracle in the tests.
"""

import re
import sys
from typing import Final

from Crypto.Hash import keccak

from energy_market.domain.errors import InvalidRequest

if sys.version_info >= (3, 14):  # coincurve has no build for it; both wrap the same C library
    from btclib_libsecp256k1 import recovery

    def _recover(digest: bytes, compact: bytes, recovery_id: int) -> bytes:
        return bytes(recovery.recover(digest, compact, recovery_id, compressed=False))
else:
    from coincurve import PublicKey

    def _recover(digest: bytes, compact: bytes, recovery_id: int) -> bytes:
        try:
            key = PublicKey.from_signature_and_message(compact + bytes([recovery_id]), digest, hasher=None)
        except Exception as refusal:
            if type(refusal) is Exception:  # how the library reports "no such point"
                raise ValueError("no key gives this signature") from None
            raise
        return key.format(compressed=False)


_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)
_SIGNATURE: Final = re.compile(r"0x[0-9a-fA-F]{130}", re.ASCII)
_CURVE_ORDER: Final = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
_RECOVERY_IDS: Final = {0: 0, 1: 1, 27: 0, 28: 1}  # Ethereum counts from 27, some wallets from 0


def parse_address(value: object) -> str:
    """An address in its EIP-55 spelling.

    All lower or all upper case carries no checksum and is accepted. Mixed case must be spelt exactly as EIP-55 defines,
    because a wrong checksum means a mistyped address. Raises `InvalidRequest`.
    """
    if not isinstance(value, str) or not _ADDRESS.fullmatch(value):
        raise InvalidRequest("invalid_wallet_address", "wallet_address must be 0x and 40 hexadecimal digits.")
    digits = value[2:]
    spelling = _checksum_spelling(digits.lower())
    if digits not in (digits.lower(), digits.upper()) and value != spelling:
        raise InvalidRequest("invalid_wallet_address", "wallet_address has a wrong checksum (EIP-55).")
    return spelling


def parse_signature(value: object) -> bytes:
    """The 65 bytes (r, s, v) of a signature in hexadecimal. Raises `InvalidRequest`.

    `s` must lie in the lower half of the curve's order. Every signature has a twin (order - s, other v) that anyone can
    compute and that recovers the same signer. Only the one that wallets produce (EIP-2) is accepted, so each message
    has exactly one signature.
    """
    if not isinstance(value, str) or not _SIGNATURE.fullmatch(value):
        raise InvalidRequest("malformed_signature", "signature must be 0x and 130 hexadecimal digits (65 bytes).")
    signature = bytes.fromhex(value[2:])
    if signature[64] not in _RECOVERY_IDS:
        raise InvalidRequest("malformed_signature", "signature must end in 27 or 28 (or 0 or 1).")
    if int.from_bytes(signature[32:64]) > _CURVE_ORDER // 2:
        raise InvalidRequest("malformed_signature", "signature has a high s (EIP-2): use the lower one.")
    return signature


def signer_of(message: str, signature: bytes) -> bytes | None:
    """The address (20 bytes) that signed a text with `personal_sign` (EIP-191, version E); None if no key can have."""
    text = message.encode()
    digest = keccak256(b"\x19Ethereum Signed Message:\n" + str(len(text)).encode() + text)
    try:
        key = _recover(digest, signature[:64], _RECOVERY_IDS[signature[64]])
    except ValueError:
        return None
    return keccak256(key[1:])[-20:]


def keccak256(data: bytes) -> bytes:
    """Ethereum's hash: Keccak with its original padding, not SHA3-256."""
    return keccak.new(data=data, digest_bits=256).digest()


def _checksum_spelling(lower_digits: str) -> str:
    digest = keccak256(lower_digits.encode()).hex()
    letters = (d.upper() if h > "7" else d for d, h in zip(lower_digits, digest, strict=False))
    return "0x" + "".join(letters)
