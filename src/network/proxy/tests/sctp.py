"""SCTP's first two packets, by hand: the kernel that carries an association need not speak it itself.

sctp.py serve           answers one INIT, and prints who asked and which port
sctp.py ask HOST PORT   sends an INIT, and prints who answered from which port
"""
import socket
import struct
import sys

INIT, INIT_ACK = 1, 2


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def packet(source, destination, tag, kind):
    header = struct.pack(">HHI", source, destination, tag)
    chunk = struct.pack(">BBHIIHHI", kind, 0, 20, 1, 65536, 1, 1, 1)
    return header + struct.pack("<I", crc32c(header + bytes(4) + chunk)) + chunk


def receive(sock, kind):
    while True:
        data = sock.recv(2048)
        start = (data[0] & 15) * 4
        if data[start + 12] == kind:
            return socket.inet_ntoa(data[12:16]), *struct.unpack(">HH", data[start:start + 4])


sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_SCTP)
sock.settimeout(20)
if sys.argv[1] == "serve":
    print("ready", flush=True)
    client, source, port = receive(sock, INIT)
    sock.sendto(packet(port, source, 1, INIT_ACK), (client, 0))
    print(client, port)
else:
    # Only what comes from there is an answer.
    sock.connect((sys.argv[2], 0))
    sock.send(packet(5555, int(sys.argv[3]), 0, INIT))
    print(*receive(sock, INIT_ACK))
