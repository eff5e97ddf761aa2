"""Runs other people's clients against the contract for producers and readers: `python -m tests.clients [LANGUAGE ...]`.

Each client is built from pinned packages and sends to topics of 12 partitions, by default and with the settings that
docs/producers.md names: which keys get to the partition that the ledger expects (murmur2), who has a record before the
client says that it is sent, and what it reads of committed and aborted transactions. SDKs of CloudEvents send a request
in both of their modes, which must decode alike, and read answers.
"""

import asyncio
import logging
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from infra.local.stack import LocalStack
from infra.settings import load_settings
from tests.clients.building import BUILDS, NEEDS
from tests.clients.checks import check_client, check_sdk, prepare_topics
from tests.clients.client_table import CLIENTS, SDKS

AT_ONCE = 4  # most of the time a client waits for replicas that are not there


def main() -> None:
    """Run the languages named, or all; end with 1 if a client is not as the tables say, or a tool is missing."""
    names = sys.argv[1:] or list(BUILDS)
    if missing := [tool for name in names for tool in NEEDS[name] if shutil.which(tool) is None]:
        sys.exit(f"install {', '.join(missing)}, or name the languages to run: {' '.join(BUILDS)}")
    commands = {name: BUILDS[name]() for name in names}
    print("built:", *names)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a broker that has just started
    wrong: list[str] = []
    soon = {"broker.session.timeout.ms": "3000", "broker.heartbeat.interval.ms": "500"}  # a killed one is seen as away
    stack_of_three = LocalStack(brokers=3, postgres=False, broker_settings=soon, report=print)
    with stack_of_three as stack, ThreadPoolExecutor(AT_ONCE) as pool:
        settings = load_settings(kafka_bootstrap_servers=stack.kafka_bootstrap_servers.partition(",")[0])
        asyncio.run(prepare_topics(settings, stack.kill_kafka))
        clients = [each for each in CLIENTS if each.language in commands]
        sdks = [each for each in SDKS if each.language in commands]
        checks = [pool.submit(check_client, settings, commands[each.language], each) for each in clients]
        checks += [pool.submit(check_sdk, settings, commands[each.language], each) for each in sdks]
        for check in checks:
            try:
                lines, found = check.result()
            except subprocess.CalledProcessError as error:
                wrong.append(f"{error}: {error.stderr.strip()}")
            else:
                print(*lines, sep="\n", flush=True)
                wrong += found
    sys.exit("\n".join(["not as docs/producers.md says:", *wrong]) if wrong else 0)


if __name__ == "__main__":
    main()
