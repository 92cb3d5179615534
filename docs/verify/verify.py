"""Verify checks the signature of a callback of Weir. As a program:

    WEIR_CALLBACK_SECRET=... python3 verify.py TIMESTAMP ID SIGNATURE < body
"""
import hashlib
import hmac
import os
import sys
import time


def verify(secret: str, timestamp: str, event_id: str, signature: str, body: bytes) -> bool:
    """Timestamp, event_id and signature are the headers Weir-Timestamp,
    Weir-Event-Id and Weir-Signature; body is the body as it came, before
    anything has parsed it."""
    try:
        if abs(time.time() - int(timestamp)) > 300:
            return False  # too old to be believed
    except ValueError:
        return False
    signed = f"{timestamp}.{event_id}.".encode() + body
    want = "v1=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
    return hmac.compare_digest(want.encode(), signature.encode())


if __name__ == "__main__":
    ok = verify(os.environ["WEIR_CALLBACK_SECRET"], *sys.argv[1:4], sys.stdin.buffer.read())
    print("ok" if ok else "wrong")
    sys.exit(0 if ok else 1)
