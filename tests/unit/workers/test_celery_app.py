from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest
from celery.app.defaults import DEFAULTS
from kombu import Connection

from workers.celery_app import DAYS_30, QUEUE, TASK, CeleryWakeUp, broker_url, make_celery, worker_command
from workers.settings import Settings


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("redis://:pw@host:6379/0", "redis://:pw@host:6379/0"),
        ("unix://:p%2Fw@/tmp/s?db=0", "redis+socket://:p%2Fw@/tmp/s?virtual_host=0"),
        ("unix:///tmp/s", "redis+socket:///tmp/s"),
    ],
)
def test_a_unix_socket_is_named_as_celery_wants_it(given: str, expected: str) -> None:
    assert broker_url(given) == expected


def test_every_setting_is_one_that_celery_knows_and_holds() -> None:
    conf = make_celery(Settings(redis_url="redis://:pw@localhost:1/0")).conf
    expected: dict[str, Any] = {
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "task_acks_late": False,
        "task_ignore_result": True,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_concurrency": 1,
        "worker_direct": True,
        "worker_disable_prefetch": True,
        "worker_pool": "prefork",
        "worker_prefetch_multiplier": 1,
    }
    assert set(expected) <= set(DEFAULTS)
    assert {name: conf[name] for name in expected} == expected
    assert conf.broker_transport_options["visibility_timeout"] == DAYS_30


def test_without_a_store_the_message_says_what_to_set() -> None:
    with pytest.raises(ValueError, match="SMARTFRZ_REDIS_URL"):
        make_celery(Settings(redis_url=None))


def test_importing_connects_to_nothing_and_the_app_is_built_at_first_use() -> None:
    code = (
        "import os; os.environ['SMARTFRZ_REDIS_URL'] = 'redis://:pw@192.0.2.1:1/0'; import workers.celery_app as m;"
        "assert 'app' not in vars(m); assert m.app is m.app; assert m.app.main == 'smartfrz'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_wake_up_is_one_message_under_the_prefix(settings: Settings) -> None:
    app = make_celery(settings)
    CeleryWakeUp(app).wake()
    assert settings.redis_url is not None
    options = {"global_keyprefix": f"{settings.key_prefix}celery:"}
    with Connection(broker_url(settings.redis_url), transport_options=options) as connection:
        message = connection.SimpleQueue(QUEUE).get(timeout=5)
        assert message.headers["task"] == TASK
        message.ack()
    app.close()


def test_a_wake_up_that_cannot_be_sent_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    app = make_celery(Settings(redis_url="redis://:pw@127.0.0.1:1/0"))
    began = time.monotonic()
    CeleryWakeUp(app).wake()
    assert time.monotonic() - began < 5.0, "nobody's request waits for a broker that is away"
    assert "wake-up not sent" in caplog.text
    assert ":pw@" not in caplog.text


def test_the_command_names_the_node_and_leaves_gossip_out() -> None:
    command = worker_command("w1")
    assert command[1:6] == ["-m", "celery", "-A", "workers.celery_app", "worker"]
    assert "w1@%h" in command
    assert {"--without-gossip", "--without-mingle"} <= set(command)
