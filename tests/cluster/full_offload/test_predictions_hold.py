"""What the plan predicts of pools and pages is what the running workers and the store report."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from pdcache.plan import Plan, Process
from pdcache.proof.bench import Bench
from pdcache.sglang.admin import metrics
from pdcache.sglang.page_keys import object_keys, page_hashes
from pdcache.topology import Role
from tests.cluster_tools import Shell
from tests.dialogues import Running


def test_l2_of_every_prefill_has_the_tokens_of_the_plan(running: Running) -> None:
    plan = running.plan
    for worker in plan.role(Role.PREFILL):
        seen = asyncio.run(_metrics(running, worker))
        assert seen["sglang:hicache_host_total_tokens"] == plan.formats["prefill"].l2_tokens


async def _metrics(running: Running, worker: Process) -> dict[str, float]:
    async with running.client(20) as client:
        return await metrics(client, worker.url or "")


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_the_host_pool_has_the_bytes_of_the_plan(
    shell: Shell, plan: Plan, full_offload: dict[str, Any], role: str
) -> None:
    log = shell.home / "clusters" / full_offload["name"] / "logs" / f"{role}-0.log"
    found = re.search(r"hierarchical KV host pool: (\d+) tokens, ([\d.]+) GB", log.read_text())
    assert found is not None
    own = plan.formats[role]
    assert own.l2_tokens is not None
    assert int(found[1]) == own.l2_tokens
    assert float(found[2]) == pytest.approx(own.l2_tokens * own.token_bytes / 1e9, abs=0.005)


def test_a_page_is_the_predicted_objects_of_the_predicted_sizes(running: Running) -> None:
    own = running.plan.formats["prefill"]
    before, after, objects, pages = asyncio.run(_write_a_prompt(running))
    assert after - before == pages * len(own.key_suffixes)
    assert len(objects) == pages * len(own.key_suffixes)
    sizes = {entry["values"][0]["size_"] for entry in objects.values()}
    assert sizes == {own.token_bytes * own.page_size * own.tp // len(own.key_suffixes)}


async def _write_a_prompt(running: Running) -> tuple[float, float, dict[str, Any], int]:
    """Keys in the store before and after a prompt, its objects, and its whole pages."""
    plan = running.plan
    async with running.client(60) as client:
        bench = Bench(plan, client)
        prompt = bench.prompt(3.5)
        url = plan.store.urls[0]
        before = (await metrics(client, url))["master_key_count"]
        await bench.pair(bench.prefills[0], bench.decodes[0], prompt, 2)
        assert await bench.wait_written(prompt, Role.PREFILL) == 0
        after = (await metrics(client, url))["master_key_count"]
        hashes = page_hashes(prompt, bench.page)
        keys = [key for page in hashes for key in object_keys(page, plan.formats["prefill"])]
        answer = await client.get(f"{url}/batch_query_keys", params={"keys": ",".join(keys)})
        data = answer.json()["data"]
        return before, after, {k: v for k, v in data.items() if v["ok"]}, len(hashes)
