"""The operator as the chart installs it, against the API server of the contracts, a Redis and a MinIO."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.contract.apiserver import ApiServer
from tests.contract.kubernetes.operators import Install, MakeTeam, Team, installer
from tests.servers.minio import Minio
from tests.servers.minio import minio as minio
from tests.servers.redis import RedisServer


@pytest.fixture(scope="session")
def operators_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("operators-redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def make_team(api_server: ApiServer) -> Iterator[MakeTeam]:
    """Makes teams by name; what they hold is gone afterwards."""
    teams: list[Team] = []

    def make(name: str) -> Team:
        teams.append(Team(api_server, name).make())
        return teams[-1]

    yield make
    for team in teams:
        team.clear()


@pytest.fixture
def install(
    api_server: ApiServer, operators_redis: RedisServer, minio: Minio, make_team: object, tmp_path: Path
) -> Iterator[Install]:
    """``make_team`` comes first, so that no operator lives when what the teams hold is taken away."""
    yield from installer(api_server, operators_redis, minio, tmp_path)
