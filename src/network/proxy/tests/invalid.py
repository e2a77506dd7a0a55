"""Segments that fit no connection: invalid.py listen FROM | invalid.py send FROM PORT TO PORT.

The listener counts those of one sender until that sends a datagram, which comes after them on the same way.
"""
import socket
import struct
import sys

MARKER = 9999


def checksum(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def segment(source, port, target, target_port, sequence):
    def header(check):
        return struct.pack(">HHIIBBHHH", port, target_port, sequence, 1, 5 << 4, 0x10, 64, check, 0)

    pseudo = socket.inet_aton(source) + socket.inet_aton(target) + struct.pack(">BBH", 0, 6, 20)
    return header(checksum(pseudo + header(0)))


raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
if sys.argv[1] == "listen":
    datagrams.bind(("", MARKER))
    print("ready", flush=True)
    datagrams.recvfrom(16)
    raw.setblocking(False)
    count = 0
    try:
        while True:
            count += raw.recvfrom(4096)[1][0] == sys.argv[2]
    except BlockingIOError:
        print(count, flush=True)
else:
    source, port, target, target_port = sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5])
    # So far apart that two of them are outside of any window.
    for sequence in (0, 0x55555555, 0xAAAAAAAA):
        raw.sendto(segment(source, port, target, target_port, sequence), (target, 0))
    datagrams.sendto(b"end", (target, MARKER))
