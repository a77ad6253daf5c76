"""Mooncake as L3: masters, holders, etcd, how SGLang reaches them, and its object keys.

Facts: mooncake-transfer-engine 0.3.13 (flags, ports, TTLs, failover) and sglang 0.5.23
``mem_cache/storage/mooncake_store/mooncake_store.py`` (configuration keys, object keys).
"""

from __future__ import annotations

from typing import Any

from pdcache.store import mooncake_commands as commands
from pdcache.store.backend import (
    Ground,
    PageObjects,
    PageShape,
    Service,
    StoreAccess,
    Traits,
    WorkerAccess,
)
from pdcache.store.mooncake_commands import Master
from pdcache.topology.placement import Place
from pdcache.topology.schema import Role
from pdcache.topology.stores import MooncakeStore

TRAITS = Traits(
    processes="a master, segment holders; with `ha` several masters and an etcd",
    sharing="cluster",
    zero_copy=("page_first", "page_first_direct", "page_head"),
    copied=(),
    isolation="extra_backend_tag, the first part of every object key; a tenant on top",
    health="HTTP /health of the leading master says service_ready",
    packages=("mooncake",),
)


class MooncakeLayout:
    """Masters and holders of one plan, or a master that is given."""

    def __init__(self, ground: Ground) -> None:
        store = ground.topology.store
        assert isinstance(store, MooncakeStore)
        self._store, self._ground = store, ground
        self._etcd: str | None = None
        self._etcd_peer = 0
        if store.master is not None:
            host, _, port = store.master.rpartition(":")
            self._masters = [Master(host, int(port), store.metrics_port or 9003)]
            return
        self._masters = [
            Master(
                ground.addresses[i % len(ground.addresses)],
                self._port("port", i),
                self._port("metrics_port", i),
            )
            for i in range(store.ha.masters if store.ha is not None else 1)
        ]
        if store.ha is not None:
            self._etcd = store.ha.etcd
            if self._etcd is None:
                self._etcd = f"{ground.addresses[0]}:{ground.ports.service()}"
                self._etcd_peer = ground.ports.service()

    @property
    def master_address(self) -> str:
        """What clients are given: the master, or the etcd that knows which one leads."""
        return f"etcd://{self._etcd}" if self._etcd else self._masters[0].rpc

    @property
    def _cluster_env(self) -> dict[str, str]:
        """Under which name clients look for the leading master in etcd."""
        return {"MC_STORE_CLUSTER_ID": self._ground.topology.name} if self._etcd else {}

    def service(self, place: Place) -> Service:
        """etcd, a master, or a holder."""
        if place.kind == "etcd":
            return self._etcd_service()
        if place.kind == "master":
            return self._master_service(self._masters[place.index])
        return self._holder_service(place)

    def worker(self, address: str, role: Role, namespace: str) -> WorkerAccess:
        """Options that name the master, and an environment that gives up on a bad one in time."""
        store = self._store
        options: dict[str, Any] = {
            "master_server_address": self.master_address,
            "master_metrics_port": self._masters[0].metrics_port,
            "metadata_server": "P2PHANDSHAKE",
            "local_hostname": address,
            "protocol": commands.protocol(store, self._ground.topology.device),
            "device_name": store.device,
            "global_segment_size": int(store.worker_segment_gb * 1e9),
            "check_server": False,
            "extra_backend_tag": namespace,
        }
        if store.tenant is not None:
            options["tenant_id"] = store.tenant
        if store.tp_lcm_size is not None:
            options["tp_lcm_size"] = store.tp_lcm_size
        env = {"MOONCAKE_LOCAL_HOSTNAME": address, **commands.CLIENT_ENV, **self._cluster_env}
        return WorkerAccess(options, env)

    def access(self) -> StoreAccess:
        """The masters' HTTP ports."""
        urls = tuple(master.url for master in self._masters)
        return StoreAccess(
            backend="mooncake",
            # Over HTTP a master tells of the tenant `default` only.
            presence="mooncake" if self._store.tenant is None else "unknown",
            health_urls=tuple(f"{url}/health" for url in urls),
            urls=urls,
            where="store.master",
        )

    def _port(self, key: str, index: int) -> int:
        first = getattr(self._store, key)
        if first is None:
            return self._ground.ports.service()
        return self._ground.ports.given(first + index, f"store.{key}")

    def _etcd_service(self) -> Service:
        assert self._etcd is not None
        host, _, port = self._etcd.rpartition(":")
        folder = f"{self._ground.folder}/etcd"
        return Service(
            argv=commands.etcd_argv("etcd", host, int(port), self._etcd_peer, folder),
            ports={"client": int(port), "peer": self._etcd_peer},
            wave=0,
            url=f"http://{self._etcd}",
            health_path="/health",
            folders=(folder,),
        )

    def _master_service(self, master: Master) -> Service:
        store, topology = self._store, self._ground.topology
        quota = f"{self._ground.folder}/tenants.yaml"
        argv = commands.master_argv(
            self._ground.binary("mooncake_master"),
            master,
            store,
            etcd=self._etcd,
            cluster_id=topology.name,
            quota_file=quota if store.tenant is not None else None,
        )
        files = {quota: commands.quota_text(store)} if store.tenant is not None else {}
        return Service(
            argv=argv,
            env={"MC_LOG_LEVEL": "ERROR"},
            ports={"rpc": master.rpc_port, "metrics": master.metrics_port},
            wave=1 if self._etcd else 0,
            url=master.url,
            health_path="/health",
            files=files,
        )

    def _holder_service(self, place: Place) -> Service:
        address = self._ground.addresses[place.node]
        port = self._ground.ports.service(address)
        env, folders = commands.holder_environment(self._store, place.name)
        return Service(
            argv=commands.holder_argv(
                self._ground.binary("mooncake_client"),
                self.master_address,
                address,
                port,
                self._store,
                self._ground.topology.device,
            ),
            env={"MC_LOG_LEVEL": "ERROR", **env, **self._cluster_env},
            ports={"rpc": port},
            wave=2,
            health_port=port,
            folders=folders,
            restart_after_s=commands.SSD_CLIENT_TTL_S + 2.0 if self._store.ssd else 0.0,
        )


def page_objects(shape: PageShape, store: MooncakeStore) -> PageObjects:
    """Object keys of one page.

    Source: sglang 0.5.23 ``mooncake_store.py:456-474, 620-660, 1313-1335``.
    """
    prefix = f"{shape.namespace}_{shape.model_name}_"
    stages = [f"_{stage}" for stage in range(shape.pp)] if shape.pp > 1 else [""]
    if shape.is_mla:
        return PageObjects(prefix, tuple(f"_{stage.lstrip('_')}_k" for stage in stages))
    count = shape.tp
    if store.tp_lcm_size and shape.layout == "page_head":
        count = max(shape.tp, store.tp_lcm_size)
    return PageObjects(
        prefix,
        tuple(
            f"_{rank}{stage}_{half}"
            for stage in stages
            for rank in range(count)
            for half in ("k", "v")
        ),
    )
