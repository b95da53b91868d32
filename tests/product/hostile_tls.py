"""A client of TLS that others wrote (tlslite-ng) and that sends what no honest client does, once its handshake is over.

For each suite and each case it prints one line: the suite, the case and the outcome, which is the first line of the answer to
a request, `alert N` for an alert of the server, `closed` for a clean end, `cut off` for another end, or `silent`.
"""

import socket
import sys

from tlslite.api import HandshakeSettings, TLSConnection
from tlslite.constants import AlertLevel, ContentType
from tlslite.errors import TLSAbruptCloseError, TLSClosedConnectionError, TLSRemoteAlert
from tlslite.messages import Alert, ClientHello, KeyUpdate, Message

HOST, PORT = sys.argv[1], int(sys.argv[2])
REQUEST = b"GET /v2/ HTTP/1.1\r\nHost: docker-registry.local\r\n\r\n"
PATIENCE_SECONDS = 10
SUITES = [(version, cipher) for version in ((3, 4), (3, 3)) for cipher in ("aes128gcm", "aes256gcm", "chacha20-poly1305")]


class Client:
    def __init__(self, version, cipher):
        self.tcp = socket.create_connection((HOST, PORT), PATIENCE_SECONDS)
        self.tls = TLSConnection(self.tcp)
        self.tls.closeSocket = False
        settings = HandshakeSettings()
        settings.minVersion = settings.maxVersion = version
        settings.cipherNames = [cipher]
        self.tls.handshakeClientCert(settings=settings, serverName="docker-registry.local")
        self.is_13 = version == (3, 4)

    def record(self, kind, content):
        """One record, without a bound on its length."""
        for _ in self.tls._recordLayer.sendRecord(Message(kind, bytearray(content))):
            pass
        self.tls.sock.flush()

    def raw(self, content):
        self.tls.sock.flush()
        self.tcp.sendall(content)

    def changed(self, kind, content):
        """One record of which the last byte was changed on its way."""
        sending = self.tls._recordLayer._recordSocket
        honest = sending.send

        def send(message, padding=0):
            message.data[-1] ^= 1
            return honest(message, padding)

        sending.send = send
        self.record(kind, content)

    def key_update(self, wants_one):
        for _ in self.tls.send_keyupdate_request(int(wants_one)):
            pass
        self.tls.sock.flush()

    def answer(self):
        """The first line of the next answer, whose body has a length."""
        text = b""
        while b"\r\n\r\n" not in text:
            piece = self.tls.read(max=65536, min=1)
            if not piece:
                return None
            text += bytes(piece)
        head, body = text.split(b"\r\n\r\n", 1)
        lines = head.decode().split("\r\n")
        length = next(int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length:"))
        while len(body) < length:
            body += bytes(self.tls.read(max=65536, min=1))
        return lines[0]

    def ask(self):
        self.record(ContentType.application_data, REQUEST)
        return self.answer()


def outcome(act):
    try:
        return act() or "closed"
    except TLSRemoteAlert as error:
        return f"alert {error.description}"
    except TLSAbruptCloseError:
        return "cut off"
    except socket.timeout:
        return "silent"
    except (TLSClosedConnectionError, ConnectionError):
        return "cut off"


def honest(client):
    return client.ask()


def key_updates(client):
    """Each is answered by one, and requests go on under the new keys."""
    for number in range(20):
        client.key_update(wants_one=number % 2 == 0)
        line = client.ask()
        if not line or " 200" not in line:
            return line
    return line


def flood(client, send, count=2000):
    """Sends until the server ends it, then hears why."""
    try:
        for _ in range(count):
            send()
    except (ConnectionError, socket.timeout):
        pass
    return client.answer()


def key_update_flood(client):
    return flood(client, lambda: client.key_update(wants_one=True))


def empty_flood(client):
    return flood(client, lambda: client.record(ContentType.application_data, b""))


def warning_flood(client):
    user_canceled = Alert().create(90, AlertLevel.warning).write()
    return flood(client, lambda: client.record(ContentType.alert, user_canceled))


def bad_mac(client):
    client.changed(ContentType.application_data, REQUEST)
    return client.answer()


def oversize(client):
    client.record(ContentType.application_data, b"x" * (2**14 + 1))
    return client.answer()


def oversize_header(client):
    client.raw(b"\x17\x03\x03\xff\xff" + b"x" * 1000)
    return client.answer()


def short_record(client):
    client.raw(b"\x17\x03\x03\x00\x02xx")
    return client.answer()


def unprotected(client):
    client.raw(b"\x14\x03\x03\x00\x01\x01")
    return client.answer()


def no_record(client):
    client.raw(REQUEST)
    return client.answer()


def hello():
    return ClientHello().create((3, 3), bytearray(32), bytearray(0), [0xC02B]).write()


def renegotiation(client):
    client.record(ContentType.handshake, hello())
    return client.answer()


def renegotiation_flood(client):
    return flood(client, lambda: client.record(ContentType.handshake, hello()))


def half_key_update(client):
    update = KeyUpdate().create(0).write()
    client.record(ContentType.handshake, update[:2])
    client.record(ContentType.handshake, update[2:])
    return client.answer()


def unknown_kind(client):
    client.record(99, b"x")
    return client.answer()


def heartbeat(client):
    client.record(24, b"\x01\x40\x00")
    return client.answer()


def padded(client):
    """As much padding as a record has room for (TLS 1.3 only)."""
    client.tls._recordLayer.padding_cb = lambda length, kind, room: room
    return client.ask()


def byte_by_byte(client):
    for byte in REQUEST:
        client.record(ContentType.application_data, bytes([byte]))
    return client.answer()


def half_close(client):
    """The client says that it will send no more, and waits for the answer."""
    line = client.ask()
    client.record(ContentType.alert, Alert().create(0, AlertLevel.warning).write())
    client.tcp.shutdown(socket.SHUT_WR)
    return client.answer() if line and " 200" in line else line


def left_in_a_record(client):
    client.raw(b"\x17\x03\x03\x10\x00" + b"x" * 100)
    client.tcp.shutdown(socket.SHUT_WR)
    return client.answer()


BOTH = [
    honest,
    empty_flood,
    warning_flood,
    bad_mac,
    oversize,
    oversize_header,
    short_record,
    unprotected,
    no_record,
    renegotiation,
    renegotiation_flood,
    unknown_kind,
    heartbeat,
    byte_by_byte,
    half_close,
    left_in_a_record,
]
ONLY_13 = [key_updates, key_update_flood, half_key_update, padded]

for version, cipher in SUITES:
    for case in BOTH + (ONLY_13 if version == (3, 4) else []):
        client = Client(version, cipher)
        name = f"1.{version[1] - 1} {cipher} {case.__name__}"
        print(f"{name}: {outcome(lambda: case(client))}", flush=True)
        client.tcp.close()
