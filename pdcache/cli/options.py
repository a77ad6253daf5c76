"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

TopologyFile = Annotated[Path, typer.Argument(metavar="FILE", help="Topology in YAML.")]
ClusterName = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="Cluster; may be left out if only one is up.")
]
Here = Annotated[
    bool,
    typer.Option("--here", help="Take this machine, not the nodes that the topology is meant for."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="a.b=VALUE", help="Lay a value over the file; repeatable."),
]
SkipCheck = Annotated[
    list[str] | None,
    typer.Option("--skip-check", metavar="RULE", help="Leave out a rule; repeatable."),
]
SloOption = Annotated[
    str | None,
    typer.Option("--slo", metavar="ttft=2s,tpot=100ms", help="Count requests that meet both."),
]
AllowOutage = Annotated[
    bool,
    typer.Option(
        "--allow-outage",
        help="Even when a role has no worker, or no gateway is there, for a while.",
    ),
]
Limit = Annotated[
    float, typer.Option("--timeout", metavar="S", min=1.0, help="Seconds for each step.")
]
