"""A certificate authority for brokers of tests: mutual TLS as IoT Core has it."""

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes


class CertificateAuthority:
    """Issues certificates for names, all for `localhost`."""

    def __init__(self, folder: Path) -> None:
        """`folder` gets what servers read."""
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "brokers of tests")])
        self.certificate = self._signed(self._name, self._key, is_ca=True)
        self.folder = folder
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(self.certificate)
        server = self.issue("localhost")
        self.server_files = folder / "server.pem", folder / "server_key.pem"
        for file, content in zip(self.server_files, (server.certificate, server.key), strict=True):
            file.write_bytes(content)

    def issue(self, name: str) -> Identity:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        return Identity(
            certificate=self._signed(subject, key, is_ca=False),
            key=key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            ),
        )

    def _signed(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, is_ca: bool) -> bytes:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        )
        if not is_ca:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
