"""Links of daemons to real control services: over TLS and the head's port."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from weft._resources import Resources

if TYPE_CHECKING:
    from conftest import SmallCluster

pytestmark = pytest.mark.slow


def test_nodes_register_and_see_what_the_others_have(cluster: SmallCluster) -> None:
    cluster.start()
    head, other = cluster.add(is_local=True), cluster.add(CPU=4)
    cluster.until(lambda: head.views and other.views)
    assert head.views == {other.node_id: other.view(other.total)}
    assert other.views == {head.node_id: head.view(head.total)}
    assert other.of("joined") == [head.node_id]
    assert head.link.address_of(other.node_id) == "there:2/node"
    other.link.publish(other.view(Resources({"CPU": 1})))
    took_s = cluster.until(lambda: head.views[other.node_id].free == Resources({"CPU": 1}))
    assert took_s < 0.5
