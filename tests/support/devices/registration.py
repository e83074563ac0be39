"""Registrations of devices at the API, and what AWS IoT has of them."""

from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from types_boto3_iot import IoTClient

REGISTER = "/api/v1/iot/device/register"
DEVICES = "/api/v1/iot/devices"
ROOF = {"device_type": "raspi", "location": "the roof"}


def make_csr() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "device")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def identities(iot: "IoTClient") -> tuple[int, int]:
    """How many things and certificates there are."""
    return len(iot.list_things()["things"]), len(iot.list_certificates()["certificates"])
