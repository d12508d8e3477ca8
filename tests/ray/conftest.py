"""One local Ray cluster for all tests of this tier."""

import pytest

from actors.ray_settings import prepare_local_cluster

prepare_local_cluster()  # before anything imports ray


@pytest.fixture(scope="session")
def ray_app():
    from actors import ray_app

    with ray_app.cluster(None, dashboard=False, logical_cpus=8, object_store_mb=100):
        yield ray_app
