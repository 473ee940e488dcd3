# SPDX-License-Identifier: Apache-2.0
"""Signals by name and by number. HOT: imported by kill."""

from __future__ import annotations

# --- asm-generic/signal.h

SIGNALS = {
    "HUP": 1,
    "INT": 2,
    "QUIT": 3,
    "ILL": 4,
    "TRAP": 5,
    "ABRT": 6,
    "BUS": 7,
    "FPE": 8,
    "KILL": 9,
    "USR1": 10,
    "SEGV": 11,
    "USR2": 12,
    "PIPE": 13,
    "ALRM": 14,
    "TERM": 15,
    "STKFLT": 16,
    "CHLD": 17,
    "CONT": 18,
    "STOP": 19,
    "TSTP": 20,
    "TTIN": 21,
    "TTOU": 22,
    "URG": 23,
    "XCPU": 24,
    "XFSZ": 25,
    "VTALRM": 26,
    "PROF": 27,
    "WINCH": 28,
    "IO": 29,
    "PWR": 30,
    "SYS": 31,
    # second names
    "IOT": 6,
    "CLD": 17,
    "POLL": 29,
}

# the C library's, which is what kill(1) and systemd mean; it keeps the kernel's 32 and 33 to itself
SIGRTMIN = 34
SIGRTMAX = 64


def signal_number(text: str) -> int:
    """The number of a signal: "TERM", "SIGTERM", "15", "RTMIN+3" or "SIGRTMAX-1", in any case; "0" is 0.

    Raises ValueError.
    """
    if text.isascii() and text.isdigit():
        number = int(text) if len(text) < 4 else -1
        if 0 <= number <= SIGRTMAX:
            return number
        raise ValueError(f'unknown signal "{text}"')
    name = text.upper()
    if name.startswith("SIG"):
        name = name[3:]
    found = SIGNALS.get(name)
    if found is None and name.startswith("RTM"):
        base = SIGRTMIN if name.startswith("RTMIN") else SIGRTMAX if name.startswith("RTMAX") else 0
        sign, offset = name[5:6], name[6:]
        if base and not sign:
            found = base
        elif base and sign in "+-" and offset.isascii() and offset.isdigit() and len(offset) < 3:
            number = base + int(sign + offset)
            if SIGRTMIN <= number <= SIGRTMAX:
                found = number
    if found is None:
        raise ValueError(f'unknown signal "{text}"')
    return found


def signal_name(number: int) -> str:
    """ "SIGTERM" of 15, "SIGRTMIN+3" of 37; just the number in decimal if it has no name."""
    for name, value in SIGNALS.items():
        if value == number:
            return "SIG" + name
    if SIGRTMIN <= number <= SIGRTMAX:
        return f"SIGRTMIN+{number - SIGRTMIN}" if number > SIGRTMIN else "SIGRTMIN"
    return str(number)
