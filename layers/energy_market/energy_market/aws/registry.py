"""Device identities in AWS IoT: a thing named by the device's id, and the certificate with which it connects.

The AWS SDK is imported when a certificate is issued: the import takes longer than the rest of a cold start.
"""

import binascii
import re
from base64 import b64decode
from collections.abc import Collection
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from uuid import UUID

from energy_market.domain.errors import InvalidRequest

if TYPE_CHECKING:
    from types_boto3_iot import IoTClient

MAX_CSR_CHARACTERS: Final = 8192
_CSR: Final = re.compile(
    r"\s*-----BEGIN (NEW )?CERTIFICATE REQUEST-----\s+([A-Za-z0-9+/=\s]+?)-----END (NEW )?CERTIFICATE REQUEST-----\s*",
    re.ASCII,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A device's certificate, with its private key unless the device made its own and sent a CSR."""

    certificate_arn: str
    certificate_id: str
    certificate_pem: str
    private_key: str | None = field(repr=False)


def check_csr(csr: str) -> None:
    """Raise `InvalidRequest` if this cannot be a certificate signing request, before anything is created for it."""
    match = _CSR.fullmatch(csr) if len(csr) <= MAX_CSR_CHARACTERS else None
    if match is None or not _is_one_sequence(match[2]):
        raise bad_csr()


def bad_csr() -> InvalidRequest:
    """The answer to a CSR that we or AWS IoT cannot read."""
    return InvalidRequest("invalid_csr", "csr must be a PEM certificate signing request that AWS IoT accepts.")


class DeviceRegistry:
    """The part of AWS IoT that devices and their certificates need."""

    def __init__(self, policy: str) -> None:
        """`policy`: the IoT policy of every device's certificate. The connection is made later."""
        self._policy = policy
        self._client: IoTClient | None = None

    def issue(self, device_id: UUID, csr: str | None) -> Credentials:
        """Create the thing and its first certificate, which the broker does not accept yet.

        If this fails, `tidy` removes what was created. Raises `InvalidRequest` for a bad CSR.
        """
        self._iot().create_thing(thingName=str(device_id))
        return self.certify(device_id, csr)

    def certify(self, device_id: UUID, csr: str | None) -> Credentials:
        """Create a certificate for a thing; the broker accepts it after `activate`. If a step fails, none remains.

        It is created inactive, so if the process dies before it is attached and recorded, what remains cannot connect.
        Raises `InvalidRequest` for a bad CSR.
        """
        iot = self._iot()
        with ExitStack() as undo:
            made = self._certificate(iot, csr)
            undo.callback(_delete_certificate, iot, made.certificate_id)
            # The thing before the policy: a certificate that has rights can then be found by its thing's name.
            iot.attach_thing_principal(thingName=str(device_id), principal=made.certificate_arn)
            undo.callback(iot.detach_thing_principal, thingName=str(device_id), principal=made.certificate_arn)
            iot.attach_policy(policyName=self._policy, target=made.certificate_arn)
            undo.pop_all()
            return made

    def activate(self, certificate_id: str) -> None:
        """Have the broker accept the certificate; harmless if repeated."""
        self._iot().update_certificate(certificateId=certificate_id, newStatus="ACTIVE")

    def tidy(self, device_id: UUID, *, kept: Collection[str], ended: Collection[str], is_removed: bool) -> None:
        """Delete every certificate of a thing except those `kept`, and for a removed device also the thing.

        Each certificate loses its rights first: the broker checks them for every message, even on an open connection.
        `ended`: certificates that may have been detached from their thing already. Raises the last error of AWS;
        completed steps stay done, and the next call does the rest.
        """
        iot = self._iot()
        try:
            arns = iot.list_thing_principals(thingName=str(device_id))["principals"]
        except iot.exceptions.ResourceNotFoundException:
            arns, is_removed = [], False
        with ExitStack() as each:  # every step is tried, even if another fails; in reverse order
            if is_removed:
                each.callback(iot.delete_thing, thingName=str(device_id))
            for certificate_id in set(ended) - {arn.rpartition("/")[2] for arn in arns}:
                each.callback(_delete_certificate, iot, certificate_id)
            for arn in arns:
                if (certificate_id := arn.rpartition("/")[2]) not in kept:
                    each.callback(_delete_certificate, iot, certificate_id)
                    each.callback(iot.detach_thing_principal, thingName=str(device_id), principal=arn)
                    each.callback(_detach_policy, iot, self._policy, arn)

    def _certificate(self, iot: "IoTClient", csr: str | None) -> Credentials:
        if csr is None:
            made = iot.create_keys_and_certificate()  # inactive by default
            return Credentials(
                certificate_arn=made["certificateArn"],
                certificate_id=made["certificateId"],
                certificate_pem=made["certificatePem"],
                private_key=made["keyPair"]["PrivateKey"],
            )
        try:
            signed = iot.create_certificate_from_csr(certificateSigningRequest=csr)
        except iot.exceptions.InvalidRequestException:
            raise bad_csr() from None
        return Credentials(
            certificate_arn=signed["certificateArn"],
            certificate_id=signed["certificateId"],
            certificate_pem=signed["certificatePem"],
            private_key=None,
        )

    def _iot(self) -> "IoTClient":
        if self._client is None:
            import boto3  # noqa: PLC0415
            from botocore.config import Config  # noqa: PLC0415

            # A slow call fails early enough to undo the steps before it.
            self._client = boto3.client(
                "iot",
                config=Config(connect_timeout=2, read_timeout=3, retries={"mode": "standard", "total_max_attempts": 2}),
            )
        return self._client


def _detach_policy(iot: "IoTClient", policy: str, arn: str) -> None:
    """Detach the policy; a certificate whose registration died before it was attached has no policy to lose."""
    with suppress(iot.exceptions.ResourceNotFoundException):
        iot.detach_policy(policyName=policy, target=arn)


def _delete_certificate(iot: "IoTClient", certificate_id: str) -> None:
    """Deactivate the certificate, as AWS requires, and delete it; a missing certificate is no error."""
    with suppress(iot.exceptions.ResourceNotFoundException):
        iot.update_certificate(certificateId=certificate_id, newStatus="INACTIVE")
        iot.delete_certificate(certificateId=certificate_id, forceDelete=True)


def _is_one_sequence(text: str) -> bool:
    """Whether this is the base64 of exactly one DER sequence, which is the outermost form of a CSR."""
    try:
        der = b64decode("".join(text.split()), validate=True)
    except binascii.Error:
        return False
    if len(der) < 2 or der[0] != 0x30:  # noqa: PLR2004 - the tag of a sequence
        return False
    if der[1] < 0x80:  # noqa: PLR2004 - a length in one byte
        return len(der) == 2 + der[1]
    size = der[1] & 0x7F
    return 1 <= size <= 3 and len(der) == 2 + size + int.from_bytes(der[2 : 2 + size])  # noqa: PLR2004
