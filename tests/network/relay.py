"""Joins two interfaces of this network namespace, and holds every frame for a while: a long wire.

relay.py INTERFACE INTERFACE MILLISECONDS
"""
import collections
import selectors
import socket
import sys
import time

ALL = 3
SOL_PACKET, PACKET_VNET_HDR, OUTGOING = 263, 15, 4


def open_port(name):
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL))
    # Each frame comes and goes with its offloads: checksums and segments that are still to be made.
    port.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    port.bind((name, ALL))
    port.setblocking(False)
    return port


first, second = open_port(sys.argv[1]), open_port(sys.argv[2])
delay = float(sys.argv[3]) / 1000
selector = selectors.DefaultSelector()
selector.register(first, selectors.EVENT_READ, second)
selector.register(second, selectors.EVENT_READ, first)
held = collections.deque(maxlen=10_000)
print("ready", flush=True)
while True:
    wait = max(0.0, held[0][0] - time.monotonic()) if held else None
    for key, _ in selector.select(wait):
        try:
            while True:
                frame, where = key.fileobj.recvfrom(70_000)
                if where[2] != OUTGOING:
                    held.append((time.monotonic() + delay, key.data, frame))
        except OSError:
            pass  # No more frames, or the interface is down.
    while held and held[0][0] <= time.monotonic():
        _, port, frame = held.popleft()
        try:
            port.send(frame)
        except OSError:
            pass  # Lost, as on any wire.
