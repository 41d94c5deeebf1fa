"""The three library calls of a refresh with nothing around them."""

from __future__ import annotations

import base64
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import grpc
import httpx
from isolate_proto.controller_pb2 import SetSecretRequest
from isolate_proto.controller_pb2_grpc import IsolateControllerStub

#: Rounds before the clock starts: connections are made, modules loaded.
_WARM_UP = 5


def _round(registry_url: str) -> Callable[[], None]:
    ecr = boto3.client("ecr")
    http = httpx.Client()
    roots = Path(os.environ["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"]).read_bytes()
    channel = grpc.secure_channel(os.environ["FAL_GRPC_HOST"], grpc.ssl_channel_credentials(roots))
    fal = IsolateControllerStub(channel)  # type: ignore[no-untyped-call]
    key_id, _, key = os.environ["FAL_KEY"].partition(":")

    def once() -> None:
        (data,) = ecr.get_authorization_token()["authorizationData"]
        username, _, password = base64.b64decode(data["authorizationToken"]).decode().partition(":")
        http.get(f"{registry_url}/v2/", auth=(username, password)).raise_for_status()
        request = SetSecretRequest(name="BARE", value=password, environment_name="main")
        fal.SetSecret(request, metadata=(("auth-key", key), ("auth-key-id", key_id)))

    return once


def main() -> None:
    """Arguments: the registry's URL, rounds, threads that share the rounds.

    Prints the CPU seconds and the seconds of one round.
    """
    once, rounds, threads = _round(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])

    def repeat(times: int) -> None:
        for _ in range(times):
            once()

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(repeat, [_WARM_UP] * threads))
        cpu, started = time.process_time(), time.perf_counter()
        list(pool.map(repeat, [rounds // threads] * threads))
        done = rounds // threads * threads
        print((time.process_time() - cpu) / done, (time.perf_counter() - started) / done)


if __name__ == "__main__":
    main()
