"""Hot swaps on a whole product under load: no request fails, and each is answered by one version."""

from __future__ import annotations

import base64
import json
import re
import time
from typing import TYPE_CHECKING

from ml_backend.cli.show import open_services
from ml_backend.settings import Settings
from tests.faults.stage import CONFIG, annotation, uid
from tests.running import RunningBackend, wait_until
from tests.steady import Steady

if TYPE_CHECKING:
    from pathlib import Path

UID = uid(7)


def test_no_request_fails_while_the_version_that_serves_is_changed_again_and_again(tmp_path: Path) -> None:
    told = {"ML_BACKEND_RETRAIN_QUIET": "0"}
    model = "tests.models.counting:CountingModel"
    with RunningBackend(tmp_path / "data", arguments=[model], environment=told) as backend:
        for number in range(1, 11):
            backend.posted("/webhook", annotation(number))
        services = open_services(Settings.from_environment({}, data_dir=backend.data_dir))
        wait_until(lambda: services.registry.serving(UID), 60, f"a first version\n{backend.log()}")
        now = time.time()
        run = services.runs.request(UID, trigger="test", reason="a test", due=now, click=True, now=now).id
        wait_until(lambda: (found := services.runs.get(run)) is not None and found.over, 60, "a second version")
        tasks = [{"id": number, "data": {"text": f"number {number}"}} for number in (1, 2)]
        body = json.dumps({"tasks": tasks, "project": UID, "label_config": CONFIG, "params": {}}).encode()
        login = re.match(r"http://([^@/]+)@", backend.url)
        assert login is not None
        headers = {"Authorization": "Basic " + base64.b64encode(login.group(1).encode()).decode()}
        names: list[str] = []
        with Steady(backend.port, body, headers) as steady:
            for swap in range(6):
                names.append(services.promotion().promote(UID, 1 + swap % 2, by="a test").version.name)
                known = len(steady.answers)

                def swapped(known: int = known) -> bool:
                    return len([one for one in steady.answers[known:] if one.versions == (names[-1],) * 2]) >= 20

                wait_until(swapped, 30, f"{names[-1]} answers")
        services.close()
    assert [one for one in steady.answers if one.status != 200] == []
    assert {one.versions for one in steady.answers} <= {(name, name) for name in names}
    assert len(set(names)) == 2
