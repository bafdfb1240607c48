#!/usr/bin/env python3
"""Two ranks on a network that delays, loses and cuts: two network namespaces, joined by TUN devices between which this program carries packets.

  sudo python3 scripts/ranks-network.py [--delay MS] [--drop SHARE] [--cut SECONDS] [--mpirun mpirun.mpich] PROGRAM ARGS…

PROGRAM runs as two ranks of MPICH, one in each namespace, over TCP alone. With --cut nothing crosses from SECONDS after the first step on
(a line with "step" on standard output). Prints what the ranks print, how long after the cut each of them ended, the status and the packets.
"""
import argparse
import ctypes
import fcntl
import heapq
import os
import random
import select
import stat
import struct
import subprocess
import tempfile
import threading
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
CLONE_NEWNET = 0x40000000
DEVICE = "lora0"


def run(*words):
    subprocess.run(words, check=True)


def open_tun(namespace):
    """The device of a namespace; the thread that opens it moves there and ends."""
    made = []

    def there():
        with open(f"/run/netns/{namespace}") as file:
            if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH", DEVICE.encode(), IFF_TUN | IFF_NO_PI))
        made.append(fd)

    thread = threading.Thread(target=there)
    thread.start()
    thread.join()
    return made[0]


def pids_of(namespace):
    return [int(pid) for pid in subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True).stdout.split()]


def ranks_of(namespace, program):
    """The processes of a program."""
    found = []
    for pid in pids_of(namespace):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if os.path.basename(file.read().split(b"\0")[0].decode()) == os.path.basename(program):
                    found.append(pid)
        except OSError:
            pass  # it has ended
    return found


class Wire(threading.Thread):
    """Carries packets between two devices."""

    def __init__(self, fds, delay, drop):
        super().__init__(daemon=True)
        self.fds, self.delay, self.drop = fds, delay, drop
        self.cut = False
        self.carried = self.lost = 0

    def run(self):
        other = {self.fds[0]: self.fds[1], self.fds[1]: self.fds[0]}
        waiting, count = [], 0
        while True:
            wait = max(0, waiting[0][0] - time.monotonic()) if waiting else 1
            ready, _, _ = select.select(self.fds, [], [], wait)
            for fd in ready:
                packet = os.read(fd, 65536)
                if self.cut or random.random() < self.drop:
                    self.lost += 1
                    continue
                count += 1
                heapq.heappush(waiting, (time.monotonic() + self.delay, count, other[fd], packet))
            while waiting and waiting[0][0] <= time.monotonic():
                _, _, fd, packet = heapq.heappop(waiting)
                try:
                    os.write(fd, packet)
                    self.carried += 1
                except OSError:
                    self.lost += 1  # its queue is full, as that of a router may be


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--delay", type=float, default=0, help="ms in each direction")
    parser.add_argument("--drop", type=float, default=0)
    parser.add_argument("--cut", type=float)
    parser.add_argument("--mpirun", default="mpirun.mpich")
    parser.add_argument("program", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    names = [f"lora-{os.getpid()}-{side}" for side in "ab"]
    hosts = ["10.77.0.1", "10.77.0.2"]
    launcher = tempfile.NamedTemporaryFile("w", suffix=".sh", delete=False)
    cases = "\n".join(f"  {host}) ns={name};;" for host, name in zip(hosts, names))
    launcher.write(f'#!/bin/sh\nhost=$1; shift\ncase $host in\n{cases}\nesac\nexec ip netns exec $ns sh -c "$*"\n')
    launcher.close()
    os.chmod(launcher.name, stat.S_IRWXU)
    try:
        fds = []
        for name, host in zip(names, hosts):
            run("ip", "netns", "add", name)
            fds.append(open_tun(name))
            run("ip", "-n", name, "link", "set", "lo", "up")
            run("ip", "-n", name, "addr", "add", f"{host}/24", "dev", DEVICE)
            run("ip", "-n", name, "link", "set", DEVICE, "up")
        wire = Wire(fds, given.delay / 1000, given.drop)
        wire.start()
        environment = {**os.environ, "UCX_TLS": "tcp,self", "UCX_NET_DEVICES": DEVICE}
        words = ["ip", "netns", "exec", names[0], given.mpirun, "-iface", DEVICE, "-launcher", "rsh"]
        words += ["-launcher-exec", launcher.name, "-hosts", ",".join(f"{host}:1" for host in hosts), "-n", "2"]
        began = time.monotonic()
        child = subprocess.Popen(words + given.program, env=environment, stdout=subprocess.PIPE, text=True)

        def cut():
            wire.cut, cut_at = True, time.monotonic()
            print("-- the network is cut", flush=True)
            left = dict(enumerate(names))
            while left and time.monotonic() < cut_at + 120:
                time.sleep(0.2)
                for rank in [rank for rank, name in left.items() if not ranks_of(name, given.program[0])]:
                    del left[rank]
                    print(f"-- rank {rank} has ended {time.monotonic() - cut_at:.1f} s after the cut", flush=True)
            try:
                child.wait(timeout=10)
            except subprocess.TimeoutExpired:
                print("-- the launcher still waits, and is killed", flush=True)
                child.kill()

        stepped = False
        for line in child.stdout:
            print(line, end="", flush=True)
            if given.cut is not None and not stepped and "step" in line:
                stepped = True
                threading.Timer(given.cut, cut).start()
        status = child.wait()
        took = time.monotonic() - began
        print(f"-- status {status} after {took:.1f} s; {wire.carried} packets carried, {wire.lost} lost")
    finally:
        for name in names:
            for pid in pids_of(name):
                os.kill(pid, 9)
            subprocess.run(["ip", "netns", "del", name], check=False)
        os.unlink(launcher.name)


main()
