"""A resolver somewhere else: upstream.py ADDRESS. It knows a few names of example.org, and counts what it is asked."""
import socket
import struct
import sys

NAMES = {b"\3www\7example\3org\0": bytes([203, 0, 113, 9]), b"\3nas\3lan\0": bytes([203, 0, 113, 10])}
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((sys.argv[1], 53))
print("ready", flush=True)
while True:
    data, client = sock.recvfrom(4096)
    end = 12
    while data[end]:
        end += data[end] + 1
    name, kind = data[12:end + 1].lower(), struct.unpack(">H", data[end + 1:end + 3])[0]
    question = data[12:end + 5]
    print(name, kind, flush=True)
    if name in NAMES:
        answers = [b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + NAMES[name]] if kind == 1 else []
        code = 0
    else:
        answers, code = [], 3
    header = data[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, len(answers), 0, 0)
    sock.sendto(header + question + b"".join(answers), client)
