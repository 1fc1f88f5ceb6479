"""The private CA of the local hub and its server certificate.

The CA may sign loopback names only (name constraints), and its key is dropped as soon as the one
server certificate is signed: nobody can ever make another certificate with it. Clients trust it
one by one; it is never installed into the system.
"""

from __future__ import annotations

import ipaddress
import ssl
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from fwupdate_helpers.localhub.statedir import StateDir, write_private

if TYPE_CHECKING:
    from cryptography import x509

_LIFETIME = timedelta(days=3650)
_CLOCK_SKEW = timedelta(days=1)
_SPARE_ADDRESSES = 16
"""So many loopback addresses from 127.0.0.1 on are in the certificate, for a later move."""


def ensure_certificates(state: StateDir, address: str) -> None:
    """Make the CA and the server certificate, unless those at hand fit `address` and are valid."""
    if not _usable(state, address):
        _make_certificates(state, address)


def server_context(state: StateDir) -> ssl.SSLContext:
    """Return a TLS context that offers 1.2 (all that azure-iot-device speaks) and 1.3."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(state.server_pem)
    return context


def _usable(state: StateDir, address: str) -> bool:
    from cryptography import x509

    if not (state.ca_file.exists() and state.server_pem.exists()):
        return False
    try:
        certificate = x509.load_pem_x509_certificate(state.server_pem.read_bytes())
        authority = x509.load_pem_x509_certificate(state.ca_file.read_bytes())
        certificate.verify_directly_issued_by(authority)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        addresses = names.get_values_for_type(x509.IPAddress)
        server_context(state)  # the private key fits
    except Exception:  # whatever is wrong with the files, new ones mend it
        return False
    still_good = certificate.not_valid_after_utc > datetime.now(timezone.utc) + timedelta(days=30)
    return still_good and ipaddress.ip_address(address) in addresses


def _make_certificates(state: StateDir, address: str) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def usage(*, signs_certificates: bool) -> x509.KeyUsage:
        return x509.KeyUsage(
            digital_signature=not signs_certificates,
            key_cert_sign=signs_certificates,
            crl_sign=signs_certificates,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )

    now = datetime.now(timezone.utc)
    ca_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = name("firmware update kit: local hub CA")
    ca_key_id = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())

    def certificate(
        subject: x509.Name, public_key: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _CLOCK_SKEW)
            .not_valid_after(now + _LIFETIME)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_key_id),
                critical=False,
            )
        )

    permitted: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_network("127.0.0.0/8")),
        x509.IPAddress(ipaddress.ip_network("::1/128")),
    ]
    authority = (
        certificate(ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(signs_certificates=True), critical=True)
        .add_extension(x509.NameConstraints(permitted, excluded_subtrees=None), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    server = (
        certificate(name("localhost"), server_key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_alternative_names(address), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private_pem = server_key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_private(state.ca_file, authority.public_bytes(pem))
    write_private(state.server_pem, server.public_bytes(pem) + private_pem)


def _alternative_names(address: str) -> x509.SubjectAlternativeName:
    from cryptography import x509

    first = int(ipaddress.IPv4Address("127.0.0.1"))
    addresses = {ipaddress.IPv4Address(first + i) for i in range(_SPARE_ADDRESSES)}
    addresses.add(ipaddress.IPv4Address(address))
    return x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), *(x509.IPAddress(one) for one in sorted(addresses))]
    )


def client_context(ca_file: Path) -> ssl.SSLContext:
    """Return a TLS context that trusts the local hub and nothing else."""
    return ssl.create_default_context(cafile=str(ca_file))
